//! Log bytes up, durable offsets down.
//!
//! Chunks are gathered until 4 MiB are there or 20 ms have passed since the last sync, written and synced
//! together, and then acknowledged. A single chunk on an idle stream is not held back.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use trainyard_core::id::GangId;
use trainyard_proto::v1;

use super::Agents;
use crate::logs::{Ack, Chunk, FileName, GangLogs, accept_unread};
use crate::store::StoreError;

const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Chunks of one batch: ends and small lines cost no bytes.
const BATCH_CHUNKS: usize = 1024;
const SYNC_AT_MOST_EVERY: Duration = Duration::from_millis(20);
/// Gangs that a stream keeps at hand.
const GANGS: usize = 64;

type Gangs = BTreeMap<GangId, Option<Arc<GangLogs>>>;

pub(super) fn serve(
    agents: Agents,
    incoming: Streaming<v1::LogChunk>,
) -> impl Stream<Item = Result<v1::LogAck, Status>> + Send {
    let (acks, queue) = mpsc::channel(BATCH_CHUNKS);
    tokio::spawn(async move {
        if let Err(status) = relay(agents, incoming, &acks).await {
            // The agent may be gone; then nobody needs to know.
            acks.send(Err(status)).await.unwrap_or_default();
        }
    });
    ReceiverStream::new(queue)
}

async fn relay(
    agents: Agents,
    mut incoming: Streaming<v1::LogChunk>,
    acks: &mpsc::Sender<Result<v1::LogAck, Status>>,
) -> Result<(), Status> {
    let mut gangs = Gangs::new();
    let mut synced = Instant::now().checked_sub(SYNC_AT_MOST_EVERY).unwrap_or_else(Instant::now);
    loop {
        let (batch, ended) = gather(&mut incoming, synced + SYNC_AT_MOST_EVERY).await?;
        let work = agents.clone();
        let written = tokio::task::spawn_blocking(move || {
            let result = write(&work, &mut gangs, batch);
            (gangs, result)
        });
        let result;
        (gangs, result) = written.await.map_err(|_panic| Status::internal("writing logs failed"))?;
        for ack in result? {
            if acks.send(Ok(ack)).await.is_err() {
                return Ok(());
            }
        }
        if ended {
            return Ok(());
        }
        synced = Instant::now();
        if gangs.len() > GANGS {
            gangs.clear();
        }
    }
}

type Batch = BTreeMap<GangId, Vec<Chunk>>;

/// Waits for the first chunk, then takes what comes until `until` or until there is enough.
async fn gather(incoming: &mut Streaming<v1::LogChunk>, until: Instant) -> Result<(Batch, bool), Status> {
    let mut batch = Batch::new();
    let (mut bytes, mut chunks) = (0, 0);
    let mut next = incoming.message().await?;
    while let Some(chunk) = next {
        let (gang, chunk) = read(chunk)?;
        bytes += chunk.data.len();
        chunks += 1;
        batch.entry(gang).or_default().push(chunk);
        if bytes >= BATCH_BYTES || chunks >= BATCH_CHUNKS {
            return Ok((batch, false));
        }
        // `biased`: what is there already is taken even if the time is over.
        next = tokio::select! {
            biased;
            message = incoming.message() => message?,
            () = tokio::time::sleep_until(until) => return Ok((batch, false)),
        };
    }
    Ok((batch, true))
}

fn read(chunk: v1::LogChunk) -> Result<(GangId, Chunk), Status> {
    let gang = chunk.gang.ok_or_else(|| Status::invalid_argument("a chunk belongs to no gang"))?;
    let file = FileName::parse(&chunk.file).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let end = chunk.offset.checked_add(chunk.data.len() as u64).and_then(|end| end.checked_add(chunk.gap));
    if end.is_none_or(|end| end > i64::MAX as u64) {
        return Err(Status::invalid_argument("an offset is out of range"));
    }
    if chunk.gap > 0 && !chunk.data.is_empty() {
        return Err(Status::invalid_argument("a chunk has bytes or a gap, not both"));
    }
    Ok((gang.into(), Chunk { file, offset: chunk.offset, data: chunk.data, gap: chunk.gap, end: chunk.end }))
}

fn write(agents: &Agents, gangs: &mut Gangs, batch: Batch) -> Result<Vec<v1::LogAck>, Status> {
    let mut acks = Vec::new();
    for (id, chunks) in batch {
        let gang = match gangs.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(open(agents, id)?),
        };
        let written = match gang {
            Some(gang) => gang.append(&chunks).map_err(|error| failed(agents, id, error))?,
            None => accept_unread(&chunks),
        };
        acks.extend(written.into_iter().map(|ack| to_wire(id, ack)));
    }
    Ok(acks)
}

/// `None`: the job is gone, nobody wants its logs.
fn open(agents: &Agents, id: GangId) -> Result<Option<Arc<GangLogs>>, Status> {
    let known = agents.reader.job_by_id(id.job).map_err(|error| {
        tracing::error!(%error, "the database cannot be read");
        Status::unavailable("the coordinator cannot read its database")
    })?;
    // Work that a lost database gave goes on, and so do its logs.
    if known.is_none() && !agents.driver.view().recovery.is_lost(id.job) {
        return Ok(None);
    }
    agents.logs.gang(id).map(Some).map_err(|error| failed(agents, id, error))
}

fn failed(agents: &Agents, gang: GangId, error: std::io::Error) -> Status {
    tracing::error!(%gang, %error, "logs cannot be written");
    if error.kind() == std::io::ErrorKind::StorageFull {
        return Status::resource_exhausted("the coordinator's disk is full");
    }
    if error.raw_os_error() == Some(nix::libc::EIO) {
        // After a failed sync nobody knows what is on the disk, and another sync would only say that all is well.
        agents.driver.broken(StoreError::broken("write logs", error));
    }
    Status::unavailable("the coordinator cannot write logs")
}

fn to_wire(gang: GangId, ack: Ack) -> v1::LogAck {
    v1::LogAck {
        gang: Some(gang.into()),
        file: ack.file.to_string(),
        durable_offset: ack.durable,
        end: ack.end,
    }
}
