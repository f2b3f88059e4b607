//! One agent's stream: Hello -> join -> Welcome or Refused; then what it says becomes events.
//! Messages are numbered in both directions, and either silence ends the session.
//!
//! Task: the reader of the stream. It ends with the stream, or when the session is closed from here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use trainyard_core::coordinator::{Answer, Event};
use trainyard_core::id::{Epoch, Generation, NodeId};
use trainyard_core::session::{Hello, NodeFacts, Order, Sequence};
use trainyard_proto::convert::{Down, Up};
use trainyard_proto::{PROTOCOL_VERSION, v1};

use super::sessions::{Link, Outgoing, QUEUE};
use super::{Agents, from_wire};
use crate::driver::Unavailable;

/// How long a new stream may say nothing.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Heartbeats that come faster are answered, but do not reach the driver; far below every lease's margin.
const HEARD_AT_MOST_EVERY: Duration = Duration::from_secs(2);
/// Heartbeats that may stay out before the node counts as unknown: a cut link says nothing.
const MISSED_MAX: u32 = 3;
/// The shortest silence that counts, however short the heartbeats.
const SILENCE_MIN: Duration = Duration::from_secs(3);

pub(super) fn serve(
    agents: Agents,
    incoming: Streaming<v1::FromAgent>,
) -> impl Stream<Item = Result<v1::ToAgent, Status>> + Send {
    let (out, queue) = mpsc::channel(QUEUE);
    let sent = Arc::new(AtomicU64::new(0));
    let numbered = Arc::clone(&sent);
    tokio::spawn(async move {
        if let Err(status) = Session::run(agents, incoming, &out, sent).await {
            // The agent may be gone; then nobody needs to know.
            out.try_send(Err(status)).unwrap_or_default();
        }
    });
    ReceiverStream::new(queue).map(move |message| {
        message.map(|(generation, epoch, down): (_, _, Down)| {
            let seq = numbered.fetch_add(1, Ordering::Relaxed) + 1;
            v1::ToAgent { seq, ..down.into_wire(generation, epoch) }
        })
    })
}

struct Session {
    agents: Agents,
    node: NodeId,
    facts: NodeFacts,
    generation: Generation,
    epoch: Epoch,
    told: Instant,
    /// After so long a silence the session is over.
    silence_max: Duration,
    sequence: Sequence,
    /// Messages that went down.
    sent: Arc<AtomicU64>,
    /// Until when the agent is known to have heard everything, or something new.
    heard: Instant,
    /// The last message that it has heard of.
    heard_seq: u64,
}

impl Session {
    async fn run(
        agents: Agents,
        mut incoming: Streaming<v1::FromAgent>,
        out: &mpsc::Sender<Outgoing>,
        sent: Arc<AtomicU64>,
    ) -> Result<(), Status> {
        let mut sequence = Sequence::default();
        let (hello, inventory) = match first(&mut incoming, &mut sequence).await? {
            First::Hello(hello, inventory) => (hello, inventory),
            First::OtherVersion(version) => {
                let reason = format!(
                    "the agent speaks protocol version {version}, this coordinator {PROTOCOL_VERSION}: install one version on both"
                );
                refuse(out, agents.driver.generation(), reason);
                return Ok(());
            }
        };
        let (node, facts) = (hello.node.clone(), hello.facts.clone());
        agents.sessions.set_inventory(&node, from_wire::inventory(*inventory));
        agents.sessions.heard(&node, crate::clock::wall_now());
        let (open, mut closed) = oneshot::channel();
        let link = Link { out: out.clone(), _open: open };
        let answer = agents.driver.join(*hello, link).await.map_err(unavailable)?;
        let welcome = match answer {
            Answer::Welcome(welcome) => welcome,
            Answer::Refused(reason) => {
                tracing::warn!(%node, reason, "an agent is refused");
                refuse(out, agents.driver.generation(), reason);
                return Ok(());
            }
            other => return Err(Status::internal(format!("a join was answered by {other:?}"))),
        };
        let (generation, epoch) = (welcome.generation, welcome.epoch);
        tracing::info!(%node, %epoch, version = facts.version, "an agent has joined");
        let silence_max = (Duration::from_millis(welcome.heartbeat_ms) * MISSED_MAX).max(SILENCE_MIN);
        let now = Instant::now();
        let mut session = Session {
            agents,
            node,
            facts,
            generation,
            epoch,
            told: now,
            silence_max,
            sequence,
            sent,
            heard: now,
            heard_seq: 0,
        };
        let result = session.listen(&mut incoming, &mut closed, out).await;
        session.agents.sessions.close(&session.node, epoch);
        tracing::info!(node = %session.node, %epoch, "an agent has left");
        let left = Event::NodeLeft { node: session.node, epoch };
        // The driver has ended: so does the process.
        session.agents.driver.tell(left).await.unwrap_or_default();
        result
    }

    async fn listen(
        &mut self,
        incoming: &mut Streaming<v1::FromAgent>,
        closed: &mut oneshot::Receiver<()>,
        out: &mpsc::Sender<Outgoing>,
    ) -> Result<(), Status> {
        loop {
            let message = tokio::select! {
                _ = &mut *closed => return Ok(()),
                message = tokio::time::timeout(self.silence_max, incoming.message()) => {
                    message.map_err(|_elapsed| Status::deadline_exceeded("no heartbeat came"))??
                }
            };
            match message {
                Some(message) => self.take(message, out).await?,
                None => return Ok(()),
            }
        }
    }

    async fn take(&mut self, message: v1::FromAgent, out: &mpsc::Sender<Outgoing>) -> Result<(), Status> {
        if message.generation != self.generation.0 || message.epoch != self.epoch.0 {
            return Err(Status::failed_precondition("this message belongs to another session"));
        }
        match self.sequence.accept(message.seq) {
            Order::Next => {}
            Order::Repeated => {
                tracing::warn!(node = %self.node, seq = message.seq, "a repeated message is dropped");
                return Ok(());
            }
            Order::Gap { expected } => {
                let gap = format!("message {} came where {expected} was due", message.seq);
                return Err(Status::data_loss(gap));
            }
        }
        self.check_heard(message.seq, message.heard)?;
        let up = Up::try_from(message).map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.agents.sessions.heard(&self.node, crate::clock::wall_now());
        match up {
            Up::Hello(..) => Err(Status::failed_precondition("Hello comes once in a session")),
            Up::Heartbeat { boot_ms } => self.on_heartbeat(boot_ms, out).await,
            Up::Reports(reports, inventory) => {
                if let Some(inventory) = inventory {
                    self.on_inventory(*inventory).await?;
                }
                self.told = Instant::now();
                self.tell(Event::Heard { node: self.node.clone(), epoch: self.epoch, reports }).await
            }
            Up::Metrics(batch) => {
                self.agents
                    .history
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .record(&self.node.0, batch);
                Ok(())
            }
            Up::FileReply(reply) => {
                self.agents.sessions.requests.answer(&self.node, reply);
                Ok(())
            }
        }
    }

    /// An agent that speaks but hears nothing is as good as silent: what it is told never reaches it.
    fn check_heard(&mut self, seq: u64, heard: u64) -> Result<(), Status> {
        let everything = heard >= self.sent.load(Ordering::Relaxed);
        if seq == 0 || everything || heard > self.heard_seq {
            self.heard = Instant::now();
            self.heard_seq = heard;
        }
        if self.heard.elapsed() > self.silence_max {
            return Err(Status::deadline_exceeded("the agent does not hear this coordinator"));
        }
        Ok(())
    }

    /// The driver hears of it before the agent may move its fence: the coordinator must never count an
    /// attempt as lost before the node's own fence has ended it.
    async fn on_heartbeat(&mut self, boot_ms: u64, out: &mpsc::Sender<Outgoing>) -> Result<(), Status> {
        if self.told.elapsed() >= HEARD_AT_MOST_EVERY {
            self.told = Instant::now();
            self.tell(Event::Heard { node: self.node.clone(), epoch: self.epoch, reports: vec![] }).await?;
        }
        // One that does not fit is made up for by the next.
        out.try_send(Ok((self.generation, self.epoch, Down::HeartbeatAck { boot_ms }))).unwrap_or_default();
        Ok(())
    }

    async fn on_inventory(&mut self, inventory: v1::Inventory) -> Result<(), Status> {
        let facts = from_wire::facts(&self.facts, &inventory);
        self.agents.sessions.set_inventory(&self.node, from_wire::inventory(inventory));
        if facts == self.facts {
            return Ok(());
        }
        self.facts = facts.clone();
        self.tell(Event::FactsChanged { node: self.node.clone(), epoch: self.epoch, facts: Box::new(facts) })
            .await
    }

    async fn tell(&self, event: Event) -> Result<(), Status> {
        self.agents.driver.tell(event).await.map_err(unavailable)
    }
}

fn unavailable(why: Unavailable) -> Status {
    match why {
        Unavailable::Full => Status::resource_exhausted(why.to_string()),
        Unavailable::Stopped => Status::unavailable(why.to_string()),
    }
}

enum First {
    Hello(Box<Hello>, Box<v1::Inventory>),
    OtherVersion(u32),
}

async fn first(incoming: &mut Streaming<v1::FromAgent>, sequence: &mut Sequence) -> Result<First, Status> {
    let message = tokio::time::timeout(HELLO_TIMEOUT, incoming.message())
        .await
        .map_err(|_elapsed| Status::deadline_exceeded("no Hello came"))??
        .ok_or_else(|| Status::invalid_argument("the stream ended before a Hello"))?;
    sequence.accept(message.seq);
    // Before anything else is read: another version may mean other things by its fields.
    if let Some(v1::from_agent::Body::Hello(hello)) = &message.body
        && hello.protocol_version != PROTOCOL_VERSION
    {
        return Ok(First::OtherVersion(hello.protocol_version));
    }
    match Up::try_from(message).map_err(|error| Status::invalid_argument(error.to_string()))? {
        Up::Hello(hello, inventory) => Ok(First::Hello(hello, inventory)),
        Up::Heartbeat { .. } | Up::Reports(..) | Up::Metrics(_) | Up::FileReply(_) => {
            Err(Status::failed_precondition("the first message of a session is Hello"))
        }
    }
}

fn refuse(out: &mpsc::Sender<Outgoing>, generation: Generation, reason: String) {
    // The queue of a new stream is empty.
    out.try_send(Ok((generation, Epoch(0), Down::Refused { reason }))).unwrap_or_default();
}
