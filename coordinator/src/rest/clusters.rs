//! Clusters: for now one per workspace, `default`, which scales itself from 0 to all nodes. Its numbers are
//! computed from the nodes. Making others is not built yet, and said so.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post, put};
use http::{Method, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};
use trainyard_core::unit::WallMs;

use super::authz::{Authz, Read, WriteWorkspaces};
use super::error::ApiError;
use super::node_state::{NodeState, state_of};
use super::page::Page;
use super::path::{Last, WorkspacePath};
use super::route::{Route, route};
use super::workspaces::{self, DEFAULT};
use super::{App, time};

const ONE: &str = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.BatchAI/workspaces/{workspace}/clusters/{last}";

pub(crate) const ROUTES: &[Route] = &[
    route::<Read>(
        Method::GET,
        "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.BatchAI/workspaces/{workspace}/clusters",
        || get(list),
    ),
    route::<Read>(Method::GET, ONE, || get(show)),
    route::<WriteWorkspaces>(Method::PUT, ONE, || put(create)),
    route::<WriteWorkspaces>(Method::PATCH, ONE, || patch(update)),
    route::<WriteWorkspaces>(Method::DELETE, ONE, || delete(remove)),
    route::<Read>(
        Method::POST,
        "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.BatchAI/workspaces/{workspace}/clusters/{last}/listRemoteLoginInformation",
        || post(logins),
    ),
    route::<Read>(
        Method::GET,
        "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.BatchAI/workspaces/{workspace}/fileServers",
        || get(no_file_servers),
    ),
    route::<WriteWorkspaces>(
        Method::PUT,
        "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.BatchAI/workspaces/{workspace}/fileServers/{last}",
        || put(file_servers),
    ),
];

/// Whether this resource id names the default cluster of the workspace.
pub(crate) fn is_default(id: &str, workspace: &WorkspacePath) -> bool {
    id.eq_ignore_ascii_case(&format!("{}/clusters/{DEFAULT}", workspace.id()))
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    idle_node_count: u32,
    running_node_count: u32,
    preparing_node_count: u32,
    unusable_node_count: u32,
    leaving_node_count: u32,
}

async fn resource(app: &App, path: &WorkspacePath, created: WallMs) -> Result<Value, ApiError> {
    let view = app.driver.view();
    let mut counts = Counts::default();
    for node in view.nodes.values() {
        match state_of(app, node).await?.0 {
            NodeState::Idle => counts.idle_node_count += 1,
            NodeState::Preparing => counts.preparing_node_count += 1,
            NodeState::Running => counts.running_node_count += 1,
            NodeState::Draining => counts.leaving_node_count += 1,
            NodeState::Drained | NodeState::Unknown | NodeState::Unusable => counts.unusable_node_count += 1,
        }
    }
    Ok(json!({
        "id": format!("{}/clusters/{DEFAULT}", path.id()),
        "name": DEFAULT,
        "type": "Microsoft.BatchAI/workspaces/clusters",
        "properties": {
            "vmSize": "LOCAL",
            "vmPriority": "dedicated",
            "scaleSettings": { "autoScale": {
                "minimumNodeCount": 0,
                "maximumNodeCount": view.nodes.len(),
                "initialNodeCount": 0,
            }},
            "creationTime": time::iso(created),
            "provisioningState": "succeeded",
            "provisioningStateTransitionTime": time::iso(created),
            "allocationState": "steady",
            "allocationStateTransitionTime": time::iso(created),
            "currentNodeCount": view.nodes.len(),
            "nodeStateCounts": counts,
        },
    }))
}

async fn list(
    _: Authz<Read>,
    State(app): State<App>,
    path: WorkspacePath,
) -> Result<Json<Page<Value>>, ApiError> {
    let workspace = workspaces::find(&app, &path).await?;
    let value = vec![resource(&app, &path, workspace.created).await?];
    Ok(Json(Page { value, next_link: None }))
}

async fn show(
    _: Authz<Read>,
    State(app): State<App>,
    path: WorkspacePath,
    Last(name): Last,
) -> Result<Json<Value>, ApiError> {
    let workspace = workspaces::find(&app, &path).await?;
    if !name.eq_ignore_ascii_case(DEFAULT) {
        return Err(ApiError::not_found("cluster", &name));
    }
    Ok(Json(resource(&app, &path, workspace.created).await?))
}

/// The default cluster is there already, whatever size is asked for.
async fn create(_: Authz<WriteWorkspaces>, path: WorkspacePath, Last(name): Last) -> ApiError {
    let WorkspacePath { workspace, .. } = path;
    ApiError::not_built(format!(
        "Cluster {name} cannot be made: this version has the cluster `{DEFAULT}` alone, which takes all nodes; submit jobs to workspaces/{workspace}/clusters/{DEFAULT}."
    ))
}

async fn update(_: Authz<WriteWorkspaces>, _: WorkspacePath, Last(name): Last) -> ApiError {
    ApiError::not_built(format!(
        "Cluster {name} cannot be scaled: `{DEFAULT}` scales itself from 0 to all nodes."
    ))
}

async fn remove(_: Authz<WriteWorkspaces>, _: WorkspacePath, Last(name): Last) -> Response {
    if name.eq_ignore_ascii_case(DEFAULT) {
        return ApiError::not_built(format!("Cluster {DEFAULT} is always there and cannot be removed."))
            .into_response();
    }
    StatusCode::NO_CONTENT.into_response()
}

async fn logins(_: Authz<Read>, _: WorkspacePath) -> ApiError {
    ApiError::not_built(
        "Login information is not kept by this version: log in to the nodes as you do without it.",
    )
}

async fn no_file_servers(
    _: Authz<Read>,
    State(app): State<App>,
    path: WorkspacePath,
) -> Result<Json<Page<Value>>, ApiError> {
    workspaces::find(&app, &path).await?;
    Ok(Json(Page { value: vec![], next_link: None }))
}

async fn file_servers(_: Authz<WriteWorkspaces>, _: WorkspacePath) -> ApiError {
    ApiError::not_built("File servers cannot be made by this version.")
}
