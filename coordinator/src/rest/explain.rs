//! What Batch AI never told about a job: why it is as it is, its plan; and the list of all jobs, newest first.

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use trainyard_core::coordinator::explain::{Explanation, explain};
use trainyard_core::id::{GangId, GangNo, NodeId};
use trainyard_core::unit::WallMs;

use super::App;
use super::authz::{Authz, Read};
use super::error::ApiError;
use super::job_json::{self, Summary};
use super::jobs;
use super::page::Page;
use super::path::{JobPath, Query};
use super::route::{Route, route};
use crate::store::JobsQuery;

pub(crate) const ROUTES: &[Route] = &[
    route::<Read>(Method::GET, "/api/v1/jobs", || get(list)),
    route::<Read>(
        Method::GET,
        "/api/v1/subscriptions/{subscription}/resourceGroups/{group}/workspaces/{workspace}/experiments/{experiment}/jobs/{job}/explain",
        || get(show),
    ),
    route::<Read>(
        Method::GET,
        "/api/v1/subscriptions/{subscription}/resourceGroups/{group}/workspaces/{workspace}/experiments/{experiment}/jobs/{job}/plan",
        || get(plan),
    ),
];

async fn list(_: Authz<Read>, State(app): State<App>, query: Query) -> Result<Json<Page<Summary>>, ApiError> {
    let limit = query.number("limit", 1, 10_000)?.unwrap_or(100);
    let jobs = JobsQuery {
        scope: None,
        experiment: query.get("experiment").map(str::to_ascii_lowercase),
        states: query.get("state").map(states).unwrap_or_default(),
        newest_first: true,
        beyond: None,
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
    };
    let found = app.read(move |reader| reader.jobs(&jobs)).await?;
    let view = app.driver.view();
    let value = found.iter().map(|job| job_json::summary(job, &view)).collect();
    Ok(Json(Page { value, next_link: None }))
}

/// `running,terminating`
fn states(list: &str) -> Vec<String> {
    list.split(',').filter(|state| !state.is_empty()).map(str::to_ascii_lowercase).collect()
}

async fn show(
    _: Authz<Read>,
    State(app): State<App>,
    JobPath(key): JobPath,
) -> Result<Json<Explanation>, ApiError> {
    let job = jobs::find(&app, &key).await?;
    let view = app.driver.view();
    let unknown: Vec<(NodeId, WallMs)> = view
        .nodes
        .values()
        .filter(|node| node.session.is_none())
        .map(|node| (node.id.clone(), node.last_heard_wall))
        .collect();
    let head = view.head.as_ref().map(|(job, why)| (job, why));
    Ok(Json(explain(&job, view.waiting.get(&job.id), head, &unknown)))
}

/// Of the present gang, or of the one that `?gang=` names.
async fn plan(
    _: Authz<Read>,
    State(app): State<App>,
    JobPath(key): JobPath,
    query: Query,
) -> Result<Json<Value>, ApiError> {
    let job = jobs::find(&app, &key).await?;
    let gang = gang_of(&query)?.or(job.gang());
    let plan = match gang.map(|gang| GangId { job: job.id, gang }) {
        Some(id) => app.read(move |reader| reader.plan(id)).await?.map(|nodes| (id.gang, nodes)),
        None => None,
    };
    let (gang, nodes) = plan.ok_or_else(|| {
        ApiError::new(
            StatusCode::NOT_FOUND,
            "PlanNotFound",
            "The job has not been planned yet: it waits for nodes.",
        )
    })?;
    Ok(Json(json!({ "gang": gang, "nodes": nodes })))
}

/// `?gang=`
pub(crate) fn gang_of(query: &Query) -> Result<Option<GangNo>, ApiError> {
    let gang = query.number("gang", 1, u64::from(u32::MAX))?;
    Ok(gang.and_then(|gang| u32::try_from(gang).ok()).map(GangNo))
}
