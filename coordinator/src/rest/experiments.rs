//! Experiments: put, get, delete, list; the one named `default` is made on first use.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, put};
use http::{Method, StatusCode};
use serde::Serialize;
use trainyard_core::id::JobId;

use super::App;
use super::authz::{Authz, Read, WriteWorkspaces};
use super::error::ApiError;
use super::operation::{Kind, Operation};
use super::page::{Page, PageAsk, page};
use super::path::{Base, ExperimentPath, Query, WorkspacePath};
use super::route::{Route, route};
use super::workspaces::{self, DEFAULT, Properties};
use crate::clock::wall_now;
use crate::store::{Change, Experiment, JobsQuery};

const ONE: &str = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.BatchAI/workspaces/{workspace}/experiments/{experiment}";

pub(crate) const ROUTES: &[Route] = &[
    route::<Read>(
        Method::GET,
        "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.BatchAI/workspaces/{workspace}/experiments",
        || get(list),
    ),
    route::<Read>(Method::GET, ONE, || get(show)),
    route::<WriteWorkspaces>(Method::PUT, ONE, || put(create)),
    route::<WriteWorkspaces>(Method::DELETE, ONE, || delete(remove)),
];

#[derive(Debug, Serialize)]
struct Resource {
    id: String,
    name: String,
    r#type: &'static str,
    properties: Properties,
}

fn resource(workspace: &WorkspacePath, experiment: &Experiment) -> Resource {
    Resource {
        id: format!("{}/experiments/{}", workspace.id(), experiment.name),
        name: experiment.name.to_string(),
        r#type: "Microsoft.BatchAI/workspaces/experiments",
        properties: Properties::made(experiment.created),
    }
}

/// The experiment, made now if it is a default one.
pub(crate) async fn find(app: &App, path: &ExperimentPath) -> Result<Experiment, ApiError> {
    let folded = path.folded();
    if let Some(experiment) = app.read(move |reader| reader.experiment(&folded)).await? {
        return Ok(experiment);
    }
    workspaces::find(app, &path.workspace).await?;
    if !path.experiment.as_str().eq_ignore_ascii_case(DEFAULT) {
        return Err(ApiError::not_found("experiment", path.experiment.as_str()));
    }
    make(app, path).await
}

async fn make(app: &App, path: &ExperimentPath) -> Result<Experiment, ApiError> {
    let experiment = Experiment {
        subscription: path.workspace.group.subscription.clone(),
        resource_group: path.workspace.group.resource_group.clone(),
        workspace: path.workspace.workspace.clone(),
        name: path.experiment.clone(),
        created: wall_now(),
    };
    app.driver.write(vec![Change::PutExperiment(experiment.clone())]).await?;
    Ok(experiment)
}

async fn show(_: Authz<Read>, State(app): State<App>, path: ExperimentPath) -> Result<Response, ApiError> {
    let experiment = find(&app, &path).await?;
    Ok(Json(resource(&path.workspace, &experiment)).into_response())
}

/// An existing one is given back as it is.
async fn create(
    _: Authz<WriteWorkspaces>,
    State(app): State<App>,
    path: ExperimentPath,
) -> Result<Response, ApiError> {
    workspaces::find(&app, &path.workspace).await?;
    let folded = path.folded();
    let experiment = match app.read(move |reader| reader.experiment(&folded)).await? {
        Some(experiment) => experiment,
        None => make(&app, &path).await?,
    };
    Ok(Json(resource(&path.workspace, &experiment)).into_response())
}

/// Its jobs go with it; those that run are ended first.
async fn remove(
    _: Authz<WriteWorkspaces>,
    State(app): State<App>,
    base: Base,
    path: ExperimentPath,
) -> Result<Response, ApiError> {
    let folded = path.folded();
    if app.read(move |reader| reader.experiment(&folded)).await?.is_none() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    delete_jobs(&app, &path).await?;
    app.driver.write(vec![Change::DeleteExperiment(path.folded())]).await?;
    let operation = Operation::new(Kind::DeleteParent, wall_now(), JobId(0));
    Ok(operation.accepted(&base, &path.workspace.group.subscription))
}

/// Asks for the removal of every job of the experiment.
pub(crate) async fn delete_jobs(app: &App, path: &ExperimentPath) -> Result<(), ApiError> {
    let mut beyond = None;
    loop {
        let query = JobsQuery { scope: Some(path.folded()), beyond, limit: 500, ..JobsQuery::default() };
        let jobs = app.read(move |reader| reader.jobs(&query)).await?;
        let Some(last) = jobs.last() else { return Ok(()) };
        beyond = Some(last.id);
        for job in jobs {
            app.driver.delete(job.key).await?;
        }
    }
}

async fn list(
    _: Authz<Read>,
    State(app): State<App>,
    base: Base,
    path: WorkspacePath,
    query: Query,
) -> Result<Json<Page<impl Serialize>>, ApiError> {
    workspaces::find(&app, &path).await?;
    let ask = PageAsk::of(&query)?;
    let (scope, after, limit) = (path.folded(), ask.after.clone().unwrap_or_default(), ask.probe());
    let found = app.read(move |reader| reader.experiments(&scope, &after, limit)).await?;
    let link = format!("{}/experiments", path.id());
    Ok(Json(page(&ask, found, Experiment::folded, (&base, &link, ""), |e| resource(&path, &e))))
}
