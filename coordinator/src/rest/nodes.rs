//! Nodes: what they are, what they do, and their numbers.

use std::sync::PoisonError;

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use http::Method;
use serde_json::{Map, Value, json};
use trainyard_core::coordinator::state::{Job, Node};
use trainyard_core::id::NodeId;
use trainyard_core::unit::WallMs;

use super::App;
use super::authz::{Authz, ReadNodes};
use super::error::ApiError;
use super::job_json;
use super::node_state::{NodeState, state_of};
use super::path::{Last, Query};
use super::route::{Route, route};
use super::time::{self, iso};
use crate::inventory::Inventory;
use crate::metrics::History;

pub(crate) const ROUTES: &[Route] = &[
    route::<ReadNodes>(Method::GET, "/api/v1/nodes", || get(list)),
    route::<ReadNodes>(Method::GET, "/api/v1/nodes/{last}", || get(show)),
    route::<ReadNodes>(Method::GET, "/api/v1/nodes/{last}/metrics", || get(metrics)),
];

async fn list(_: Authz<ReadNodes>, State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let view = app.driver.view();
    let mut nodes: Vec<&Node> = view.nodes.values().collect();
    nodes.sort_by(|a, b| trainyard_core::place::natural_order(&a.id.0, &b.id.0));
    let mut value = Vec::with_capacity(nodes.len());
    for node in nodes {
        value.push(node_json(&app, node).await?);
    }
    Ok(Json(json!({ "value": value })))
}

async fn show(
    _: Authz<ReadNodes>,
    State(app): State<App>,
    Last(name): Last,
) -> Result<Json<Value>, ApiError> {
    let view = app.driver.view();
    let node = view.nodes.get(&NodeId(name.clone())).ok_or_else(|| ApiError::not_found("node", &name))?;
    Ok(Json(node_json(&app, node).await?))
}

pub(crate) async fn node_json(app: &App, node: &Node) -> Result<Value, ApiError> {
    let (state, job) = state_of(app, node).await?;
    let note = app.sessions.note(&node.id);
    let last_heard =
        note.as_ref().map_or(node.last_heard_wall, |note| note.last_heard.max(node.last_heard_wall));
    let mut shown = Map::new();
    shown.insert("name".to_owned(), json!(node.id));
    shown.insert("state".to_owned(), json!(state));
    if state == NodeState::Unknown {
        shown.insert("unknownSince".to_owned(), json!(iso(node.last_heard_wall)));
    }
    if let Some(problem) = node.facts.problem() {
        shown.insert("problem".to_owned(), json!(problem));
    }
    if let Some(drain) = &node.drain {
        let drain = json!({ "by": drain.by, "reason": drain.reason, "since": iso(drain.since) });
        shown.insert("drain".to_owned(), drain);
    }
    shown.insert("address".to_owned(), json!(node.facts.address));
    shown.insert("root".to_owned(), json!(node.facts.root));
    if let Some(job) = &job {
        let gang = node.gang.map(|gang| gang.gang);
        let job = json!({ "id": job_json::id(job), "jobId": job.id, "name": job.key.job, "gang": gang });
        shown.insert("job".to_owned(), job);
    }
    shown.insert("version".to_owned(), json!(node.facts.version));
    if let Some(note) = note {
        shown.insert("inventory".to_owned(), json!(with_users(&note.inventory, job.as_ref())));
    }
    shown.insert("lastHeartbeat".to_owned(), json!(iso(last_heard)));
    Ok(Value::Object(shown))
}

/// Which of the GPUs belong to tasks of the job.
fn with_users(inventory: &Inventory, job: Option<&Job>) -> Inventory {
    let mut inventory = inventory.clone();
    for gpu in &mut inventory.gpus {
        let task =
            job.into_iter().flat_map(Job::tasks).find(|task| task.gpus.iter().any(|uuid| uuid.0 == gpu.uuid));
        gpu.used_by = job.zip(task).map(|(job, task)| format!("{}/{}", job.key.job, task.name));
    }
    inventory
}

/// The newest samples; with `?since=` the history from that time on.
async fn metrics(
    _: Authz<ReadNodes>,
    State(app): State<App>,
    Last(name): Last,
    query: Query,
) -> Result<Json<Value>, ApiError> {
    let node = NodeId(name);
    if !app.driver.view().nodes.contains_key(&node) {
        return Err(ApiError::not_found("node", &node.0));
    }
    let since = match query.get("since") {
        Some(since) => Some(time::parse(since).ok_or_else(|| {
            ApiError::bad("InvalidQueryParameterValue", "`since` has to be a time as 2026-01-31T12:00:00Z")
        })?),
        None => None,
    };
    let history = app.history.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Json(match since {
        Some(since) => {
            let series = history.since(&node.0, since.0).into_iter();
            let series: Vec<Value> = series
                .map(
                    |series| json!({ "name": series.name, "labels": series.labels, "points": series.points }),
                )
                .collect();
            json!({ "series": series })
        }
        None => latest(&history, &node),
    }))
}

fn latest(history: &History, node: &NodeId) -> Value {
    let Some(batch) = history.latest(&node.0) else { return json!({ "samples": [] }) };
    let samples = batch.samples.iter();
    let samples: Vec<Value> = samples
        .map(|sample| json!({ "name": sample.name, "labels": sample.labels, "value": sample.value }))
        .collect();
    json!({ "at": iso(WallMs(batch.at_ms)), "samples": samples })
}
