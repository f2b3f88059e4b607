//! Log bytes of a job: the list of its files, and each file from an offset on, followed if asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::{HeaderName, Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use trainyard_core::coordinator::state::Job;
use trainyard_core::id::{GangId, GangNo};

use super::App;
use super::authz::{Authz, ReadFiles};
use super::error::ApiError;
use super::explain::gang_of;
use super::jobs;
use super::path::{JobPath, Last, Query};
use super::route::{Route, route};
use crate::logs::{FileName, GangLogs};
use crate::store::Entry;

pub(crate) const ROUTES: &[Route] = &[
    route::<ReadFiles>(
        Method::GET,
        "/api/v1/subscriptions/{subscription}/resourceGroups/{group}/workspaces/{workspace}/experiments/{experiment}/jobs/{job}/logs",
        || get(list),
    ),
    route::<ReadFiles>(
        Method::GET,
        "/api/v1/subscriptions/{subscription}/resourceGroups/{group}/workspaces/{workspace}/experiments/{experiment}/jobs/{job}/logs/{last}",
        || get(read),
    ),
];

/// Bytes that are read at once.
const PIECE: usize = 256 * 1024;
/// How long the last bytes of a job that is over may be on their way: after that a follower is let go even
/// if the end never came, as when the node is lost.
const GRACE: Duration = Duration::from_secs(10);

async fn list(
    _: Authz<ReadFiles>,
    State(app): State<App>,
    JobPath(key): JobPath,
    query: Query,
) -> Result<Json<Value>, ApiError> {
    let job = jobs::find(&app, &key).await?;
    let files = match gang_of(&query)?.or(job.gang()) {
        Some(gang) => app.gang_logs(GangId { job: job.id, gang }).await?.files(),
        None => BTreeMap::new(),
    };
    let value: Vec<Value> = files
        .into_iter()
        .map(|(name, file)| {
            json!({ "file": name.as_str(), "size": file.size, "end": file.end, "gaps": file.gaps })
        })
        .collect();
    Ok(Json(json!({ "value": value })))
}

async fn read(
    _: Authz<ReadFiles>,
    State(app): State<App>,
    JobPath(key): JobPath,
    Last(file): Last,
    query: Query,
) -> Result<Response, ApiError> {
    let name = FileName::parse(&file).map_err(|error| ApiError::bad("InvalidFileName", error.to_string()))?;
    let offset = query.number("offset", 0, i64::MAX as u64)?.unwrap_or(0);
    let follow = query.flag("follow");
    let events = app.driver.journal();
    let job = jobs::find(&app, &key).await?;
    let gang = gang_of(&query)?.or(job.gang());
    let logs = match gang {
        Some(gang) => Some(app.gang_logs(GangId { job: job.id, gang }).await?),
        None => None,
    };
    if !follow && logs.as_ref().and_then(|logs| logs.file(&name)).is_none() {
        let message = format!("The job has no log file {name}.");
        return Err(ApiError::new(StatusCode::NOT_FOUND, "FileNotFound", message));
    }
    let reader = Reader { app, job, gang, logs, name, offset, follow, events, over: None };
    let pieces = futures_util::stream::try_unfold(reader, |mut reader| async move {
        let piece = reader.next().await?;
        Ok::<_, std::io::Error>(piece.map(|piece| (piece, reader)))
    });
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (HeaderName::from_static("x-trainyard-offset"), offset.to_string()),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

struct Reader {
    app: App,
    job: Job,
    /// `None`: none has been made yet.
    gang: Option<GangNo>,
    logs: Option<Arc<GangLogs>>,
    name: FileName,
    offset: u64,
    follow: bool,
    events: broadcast::Receiver<Arc<Entry>>,
    /// When a follower is let go: the job, or this gang of it, is over.
    over: Option<Instant>,
}

impl Reader {
    /// The next bytes; `None`: there are no more.
    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        loop {
            let Some(logs) = self.logs.clone() else {
                if !self.follow || !self.wait_for_gang().await? {
                    return Ok(None);
                }
                continue;
            };
            let mut changes = logs.changes();
            let file = logs.file(&self.name).unwrap_or_default();
            // Dropped bytes are passed over: the list of files tells where they were.
            if let Some((_, to)) = file.gaps.iter().find(|(from, to)| (*from..*to).contains(&self.offset)) {
                self.offset = *to;
            }
            if self.offset < file.size {
                return self.piece(logs, &file.gaps).await.map(Some);
            }
            if file.end || !self.follow || logs.is_forgotten() || !self.wait_for_change(&mut changes).await? {
                return Ok(None);
            }
        }
    }

    async fn piece(&mut self, logs: Arc<GangLogs>, gaps: &[(u64, u64)]) -> std::io::Result<Bytes> {
        let next_gap = gaps.iter().map(|(from, _)| *from).find(|from| *from > self.offset);
        let room = next_gap.map_or(u64::MAX, |from| from - self.offset);
        let limit = usize::try_from(room).unwrap_or(usize::MAX).min(PIECE);
        let (name, offset) = (self.name.clone(), self.offset);
        let piece = tokio::task::spawn_blocking(move || logs.read(&name, offset, limit)).await??;
        self.offset += piece.len() as u64;
        Ok(piece)
    }

    /// `false`: the job is over without a gang, or gone.
    async fn wait_for_gang(&mut self) -> std::io::Result<bool> {
        loop {
            let Some(job) = self.look().await? else { return Ok(false) };
            if let Some(gang) = self.gang.or(job.gang()) {
                let logs =
                    self.app.gang_logs(GangId { job: job.id, gang }).await.map_err(std::io::Error::other)?;
                (self.gang, self.logs) = (Some(gang), Some(logs));
                return Ok(true);
            }
            if !job.is_open() {
                return Ok(false);
            }
            self.event().await;
        }
    }

    /// `false`: nothing will change any more.
    async fn wait_for_change(&mut self, changes: &mut watch::Receiver<u64>) -> std::io::Result<bool> {
        loop {
            if self.over.is_none() {
                let over = match self.look().await? {
                    Some(job) => !job.is_open() || job.gang() != self.gang,
                    None => true,
                };
                self.over = over.then(|| Instant::now() + GRACE);
            }
            let over = self.over;
            let let_go = async {
                match over {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changes.changed() => return Ok(changed.is_ok()),
                () = self.event(), if over.is_none() => {}
                () = let_go => return Ok(false),
            }
        }
    }

    async fn look(&self) -> std::io::Result<Option<Job>> {
        let id = self.job.id;
        self.app.read(move |reader| reader.job_by_id(id)).await.map_err(std::io::Error::other)
    }

    /// Returns when something has happened to the job.
    async fn event(&mut self) {
        loop {
            match self.events.recv().await {
                Ok(entry) if entry.job_id == Some(self.job.id) => return,
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => return,
                // The process goes down, and this request with it.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}
