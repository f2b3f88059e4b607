//! A database that went back: what agents hold, and what an operator does about it.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::routing::{get, post};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use trainyard_core::coordinator::Answer;
use trainyard_core::coordinator::recovery::{Ahead, Knowledge};
use trainyard_core::id::{GangId, GangNo, JobId, NodeId};

use super::App;
use super::authz::{Authz, ReadNodes, Recover};
use super::body::Body;
use super::error::ApiError;
use super::job_json;
use super::jobs::unexpected;
use super::route::{Route, route};
use super::time::iso;
use crate::driver::{AdoptError, View};

pub(crate) const ROUTES: &[Route] = &[
    route::<ReadNodes>(Method::GET, "/api/v1/recovery", || get(show)),
    route::<Recover>(Method::POST, "/api/v1/recovery/adopt", || post(adopt)),
    route::<Recover>(Method::POST, "/api/v1/recovery/stop", || post(stop)),
];

async fn show(_: Authz<ReadNodes>, State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let view = app.driver.view();
    let mut nodes = Vec::new();
    for (node, ahead) in &view.recovery.ahead {
        nodes.push(ahead_json(&app, &view, node, ahead).await?);
    }
    let mut foreign = Vec::new();
    for (node, gangs) in &view.recovery.foreign {
        let connected = view.nodes.get(node).is_some_and(|node| node.session.is_some());
        for gang in gangs {
            let job = job_of(&app, *gang).await?;
            foreign
                .push(json!({ "node": node, "gang": gang.to_string(), "job": job, "connected": connected }));
        }
    }
    let missing = if view.recovery.is_needed() { view.missing.as_slice() } else { &[] };
    let lost = view.recovery.lost.iter();
    let lost: Vec<Value> =
        lost.map(|lost| json!({ "from": lost.from, "to": lost.to.0.saturating_sub(1) })).collect();
    Ok(Json(json!({
        "needed": view.recovery.is_needed(),
        "restored": view.recovery.restored,
        "generation": app.driver.generation(),
        "nodes": nodes,
        "missingNodes": missing,
        "foreign": foreign,
        "lostJobNumbers": lost,
    })))
}

async fn ahead_json(app: &App, view: &View, node: &NodeId, ahead: &Ahead) -> Result<Value, ApiError> {
    let mut gangs = Vec::new();
    for held in &ahead.held {
        let knowledge = view.held.get(&held.gang).copied().unwrap_or(Knowledge::Foreign);
        let phase = format!("{:?}", held.phase).to_ascii_lowercase();
        let job = job_of(app, held.gang).await?;
        gangs.push(json!({
            "gang": held.gang.to_string(),
            "job": job,
            "phase": phase,
            "after": knowledge,
        }));
    }
    Ok(json!({
        "node": node,
        "known": ahead.known,
        "generation": ahead.generation,
        "heard": iso(ahead.at),
        "gangs": gangs,
    }))
}

/// Null where the database does not know it.
async fn job_of(app: &App, gang: GangId) -> Result<Value, ApiError> {
    let job = app.read(move |reader| reader.job_by_id(gang.job)).await?;
    Ok(job.map_or(Value::Null, |job| json!({ "id": job_json::id(&job), "name": job.key.job })))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Adopt {
    without: BTreeSet<NodeId>,
}

async fn adopt(_: Authz<Recover>, State(app): State<App>, Body(body): Body) -> Result<Json<Value>, ApiError> {
    let Adopt { without } = if body.is_empty() { Adopt::default() } else { read(&body)? };
    let adoption = app.driver.adopt(without).await.map_err(refused)?;
    let foreign: usize = adoption.foreign.values().map(BTreeSet::len).sum();
    Ok(Json(json!({
        "generation": adoption.generation,
        "nextJob": adoption.next_job,
        "foreign": foreign,
    })))
}

fn refused(error: AdoptError) -> ApiError {
    match error {
        AdoptError::Unavailable(why) => why.into(),
        AdoptError::NotAdopted(why) => ApiError::new(StatusCode::CONFLICT, "NotAdopted", why.to_string()),
        AdoptError::Logs => {
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", error.to_string())
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    gang: String,
    #[serde(default)]
    gone: bool,
}

async fn stop(_: Authz<Recover>, State(app): State<App>, Body(body): Body) -> Result<Json<Value>, ApiError> {
    let Stop { gang, gone } = read(&body)?;
    let id = parse(&gang).ok_or_else(|| {
        ApiError::bad("InvalidGang", format!("`{}` is no gang, as 7.1 is", gang.escape_default()))
    })?;
    match app.driver.stop_foreign(id, gone).await? {
        Answer::Stopping { nodes } if nodes.is_empty() => Err(ApiError::not_found("gang", &id.to_string())),
        Answer::Stopping { nodes } => Ok(Json(json!({ "gang": gang, "nodes": nodes }))),
        other => Err(unexpected(&other)),
    }
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::bad("InvalidRequestContent", error.to_string()))
}

fn parse(gang: &str) -> Option<GangId> {
    let (job, gang) = gang.split_once('.')?;
    Some(GangId { job: JobId(job.parse().ok()?), gang: GangNo(gang.parse().ok()?) })
}
