//! The event log as server-sent events: replayed from the journal, then live, without a gap and without a
//! double. A subscriber that falls behind reads from the journal again.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::get;
use futures_util::Stream;
use http::{HeaderMap, Method};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast;
use trainyard_core::id::JobId;

use super::App;
use super::authz::{Authz, ReadNodes};
use super::error::ApiError;
use super::path::Query;
use super::route::{Route, route};
use super::time::iso;
use crate::store::Entry;

pub(crate) const ROUTES: &[Route] = &[route::<ReadNodes>(Method::GET, "/api/v1/events", || get(follow))];

/// Entries that are read from the journal at once.
const PAGE: u32 = 500;
/// So that proxies and clients see that the stream lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

async fn follow(
    _: Authz<ReadNodes>,
    State(app): State<App>,
    query: Query,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok());
    let after = query.number("after", 0, u64::MAX)?.or(last);
    let job = query.number("job", 0, u64::MAX)?.map(JobId);
    // Subscribed before the journal is read: nothing falls between the two.
    let live = app.driver.journal();
    let (after, replay) = match after {
        Some(after) => (after, true),
        None => (0, false),
    };
    let follower = Follower { app, live, job, after, replay, ready: VecDeque::new() };
    let events = futures_util::stream::unfold(follower, |mut follower| async move {
        let entry = follower.next().await?;
        Some((Ok(event(&entry)), follower))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

struct Follower {
    app: App,
    live: broadcast::Receiver<Arc<Entry>>,
    job: Option<JobId>,
    /// The last entry that was looked at.
    after: u64,
    /// The journal has to be read before what is live.
    replay: bool,
    ready: VecDeque<Entry>,
}

impl Follower {
    /// `None`: the coordinator goes down, or its journal cannot be read; the client comes again.
    async fn next(&mut self) -> Option<Entry> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Some(entry);
            }
            if self.replay {
                self.read_page().await.ok()?;
                continue;
            }
            match self.live.recv().await {
                Ok(entry) if entry.seq <= self.after => {}
                Ok(entry) => {
                    self.after = entry.seq;
                    if self.wants(&entry) {
                        return Some((*entry).clone());
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => self.replay = true,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    async fn read_page(&mut self) -> Result<(), ApiError> {
        let after = self.after;
        let page = self.app.read(move |reader| reader.journal(after, PAGE)).await?;
        self.replay = page.len() as u64 == u64::from(PAGE);
        self.after = page.last().map_or(self.after, |entry| entry.seq);
        let job = self.job;
        self.ready.extend(page.into_iter().filter(|entry| job.is_none() || entry.job_id == job));
        Ok(())
    }

    fn wants(&self, entry: &Entry) -> bool {
        self.job.is_none() || entry.job_id == self.job
    }
}

fn event(entry: &Entry) -> Event {
    Event::default().id(entry.seq.to_string()).event(&entry.kind).data(data(entry).to_string())
}

/// The detail stands beside the common fields.
fn data(entry: &Entry) -> Value {
    let mut data = Map::new();
    if let Value::Object(detail) = &entry.detail {
        data.extend(detail.clone());
    }
    data.insert("seq".to_owned(), json!(entry.seq));
    data.insert("at".to_owned(), json!(iso(entry.at)));
    data.insert("kind".to_owned(), json!(entry.kind));
    if let Some(id) = entry.job_id {
        data.insert("jobId".to_owned(), json!(id));
    }
    if let Some(job) = &entry.job {
        data.insert("job".to_owned(), json!(job));
    }
    if let Some(node) = &entry.node {
        data.insert("node".to_owned(), json!(node));
    }
    Value::Object(data)
}
