//! Workspaces: put, patch, get, delete, list; and the ones named `default`, which are made on first use.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, put};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use trainyard_core::id::JobId;

use super::authz::{Authz, Read, WriteWorkspaces};
use super::body::Body;
use super::error::ApiError;
use super::operation::{Kind, Operation};
use super::page::{Page, PageAsk, page};
use super::path::{Base, ExperimentPath, GroupPath, Query, SubscriptionPath, WorkspacePath};
use super::route::{Route, route};
use super::{App, experiments, time};
use crate::clock::wall_now;
use crate::store::{Change, Workspace};

const ONE: &str =
    "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.BatchAI/workspaces/{workspace}";

pub(crate) const ROUTES: &[Route] = &[
    route::<Read>(
        Method::GET,
        "/subscriptions/{subscription}/providers/Microsoft.BatchAI/workspaces",
        || get(list_all),
    ),
    route::<Read>(
        Method::GET,
        "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.BatchAI/workspaces",
        || get(list),
    ),
    route::<Read>(Method::GET, ONE, || get(show)),
    route::<WriteWorkspaces>(Method::PUT, ONE, || put(create)),
    route::<WriteWorkspaces>(Method::PATCH, ONE, || patch(update)),
    route::<WriteWorkspaces>(Method::DELETE, ONE, || delete(remove)),
];

/// The name of what is made on first use.
pub(crate) const DEFAULT: &str = "default";
/// Where everything lies.
const LOCATION: &str = "local";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    id: String,
    name: String,
    r#type: &'static str,
    location: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
    properties: Properties,
}

/// Of workspaces and experiments.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Properties {
    pub(crate) provisioning_state: &'static str,
    pub(crate) provisioning_state_transition_time: String,
    pub(crate) creation_time: String,
}

impl Properties {
    pub(crate) fn made(at: trainyard_core::unit::WallMs) -> Properties {
        Properties {
            provisioning_state: "succeeded",
            provisioning_state_transition_time: time::iso(at),
            creation_time: time::iso(at),
        }
    }
}

fn resource(workspace: Workspace) -> Resource {
    let path = WorkspacePath {
        group: GroupPath { subscription: workspace.subscription, resource_group: workspace.resource_group },
        workspace: workspace.name,
    };
    Resource {
        id: path.id(),
        name: path.workspace.to_string(),
        r#type: "Microsoft.BatchAI/workspaces",
        location: workspace.location,
        tags: workspace.tags,
        properties: Properties::made(workspace.created),
    }
}

/// The workspace, made now if it is a default one.
pub(crate) async fn find(app: &App, path: &WorkspacePath) -> Result<Workspace, ApiError> {
    let folded = path.folded();
    if let Some(workspace) = app.read(move |reader| reader.workspace(&folded)).await? {
        return Ok(workspace);
    }
    if !path.workspace.as_str().eq_ignore_ascii_case(DEFAULT) {
        return Err(ApiError::not_found("workspace", path.workspace.as_str()));
    }
    let workspace = new(path, LOCATION.to_owned(), BTreeMap::new());
    app.driver.write(vec![Change::PutWorkspace(workspace.clone())]).await?;
    Ok(workspace)
}

fn new(path: &WorkspacePath, location: String, tags: BTreeMap<String, String>) -> Workspace {
    Workspace {
        subscription: path.group.subscription.clone(),
        resource_group: path.group.resource_group.clone(),
        name: path.workspace.clone(),
        location,
        tags,
        created: wall_now(),
    }
}

async fn show(_: Authz<Read>, State(app): State<App>, path: WorkspacePath) -> Result<Response, ApiError> {
    Ok(Json(resource(find(&app, &path).await?)).into_response())
}

#[derive(Debug, Deserialize)]
struct Ask {
    location: Option<String>,
    tags: Option<BTreeMap<String, String>>,
}

fn ask(body: &Body) -> Result<Ask, ApiError> {
    serde_json::from_slice(&body.0).map_err(|error| {
        ApiError::bad(
            "InvalidRequestContent",
            format!("The body is no workspace ({error}): an object with `location` and `tags` is expected."),
        )
    })
}

async fn create(
    _: Authz<WriteWorkspaces>,
    State(app): State<App>,
    path: WorkspacePath,
    body: Body,
) -> Result<Response, ApiError> {
    let Ask { location, tags } = ask(&body)?;
    let location = location.filter(|location| !location.is_empty()).ok_or_else(|| {
        ApiError::bad("LocationRequired", "The body has to name a `location`, as {\"location\": \"local\"}.")
    })?;
    let folded = path.folded();
    let existing = app.read(move |reader| reader.workspace(&folded)).await?;
    let workspace = match existing {
        Some(workspace) => Workspace { location, tags: tags.unwrap_or_default(), ..workspace },
        None => new(&path, location, tags.unwrap_or_default()),
    };
    app.driver.write(vec![Change::PutWorkspace(workspace.clone())]).await?;
    Ok(Json(resource(workspace)).into_response())
}

async fn update(
    _: Authz<WriteWorkspaces>,
    State(app): State<App>,
    path: WorkspacePath,
    body: Body,
) -> Result<Response, ApiError> {
    let Ask { tags, .. } = ask(&body)?;
    let workspace = find(&app, &path).await?;
    let workspace = Workspace { tags: tags.unwrap_or(workspace.tags), ..workspace };
    app.driver.write(vec![Change::PutWorkspace(workspace.clone())]).await?;
    Ok(Json(resource(workspace)).into_response())
}

/// Its experiments and their jobs go with it.
async fn remove(
    _: Authz<WriteWorkspaces>,
    State(app): State<App>,
    base: Base,
    path: WorkspacePath,
) -> Result<Response, ApiError> {
    let folded = path.folded();
    let scope = folded.clone();
    if app.read(move |reader| reader.workspace(&scope)).await?.is_none() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let scope = folded.clone();
    let experiments = app.read(move |reader| reader.experiments(&scope, "", u32::MAX)).await?;
    for experiment in experiments {
        let path = ExperimentPath { workspace: path.clone(), experiment: experiment.name };
        experiments::delete_jobs(&app, &path).await?;
    }
    app.driver.write(vec![Change::DeleteWorkspace(folded)]).await?;
    let operation = Operation::new(Kind::DeleteParent, wall_now(), JobId(0));
    Ok(operation.accepted(&base, &path.group.subscription))
}

async fn list(
    _: Authz<Read>,
    State(app): State<App>,
    base: Base,
    path: GroupPath,
    query: Query,
) -> Result<Json<Page<impl Serialize>>, ApiError> {
    let GroupPath { subscription, resource_group } = &path;
    let link = format!(
        "/subscriptions/{subscription}/resourceGroups/{resource_group}/providers/Microsoft.BatchAI/workspaces"
    );
    pages(&app, path.folded(), &base, &link, &query).await
}

async fn list_all(
    _: Authz<Read>,
    State(app): State<App>,
    base: Base,
    SubscriptionPath(subscription): SubscriptionPath,
    query: Query,
) -> Result<Json<Page<impl Serialize>>, ApiError> {
    let link = format!("/subscriptions/{subscription}/providers/Microsoft.BatchAI/workspaces");
    pages(&app, subscription.to_ascii_lowercase(), &base, &link, &query).await
}

async fn pages(
    app: &App,
    scope: String,
    base: &Base,
    link: &str,
    query: &Query,
) -> Result<Json<Page<Resource>>, ApiError> {
    let ask = PageAsk::of(query)?;
    let (after, limit) = (ask.after.clone().unwrap_or_default(), ask.probe());
    let found = app.read(move |reader| reader.workspaces(&scope, &after, limit)).await?;
    Ok(Json(page(&ask, found, Workspace::folded, (base, link, ""), resource)))
}
