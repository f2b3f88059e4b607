//! Jobs, on Batch AI's routes: put, get, delete, list, terminate.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use http::{Method, StatusCode};
use serde_json::Value;
use trainyard_core::coordinator::state::Job;
use trainyard_core::coordinator::{Answer, JobKey, NewJob};
use trainyard_core::id::JobId;
use trainyard_core::spec::{self, JobSpec};

use super::authz::{Authz, Read, WriteJobs};
use super::body::Body;
use super::error::ApiError;
use super::job_json;
use super::operation::{Kind, Operation};
use super::page::{Page, PageAsk, page};
use super::path::{Base, ExperimentPath, JobPath, Query};
use super::route::{Route, route};
use super::{App, clusters, experiments};
use crate::clock::wall_now;
use crate::store::JobsQuery;

const ONE: &str = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.BatchAI/workspaces/{workspace}/experiments/{experiment}/jobs/{job}";

pub(crate) const ROUTES: &[Route] = &[
    route::<Read>(
        Method::GET,
        "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.BatchAI/workspaces/{workspace}/experiments/{experiment}/jobs",
        || get(list),
    ),
    route::<Read>(Method::GET, ONE, || get(show)),
    route::<WriteJobs>(Method::PUT, ONE, || put(create)),
    route::<WriteJobs>(Method::DELETE, ONE, || delete(remove)),
    route::<WriteJobs>(
        Method::POST,
        "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.BatchAI/workspaces/{workspace}/experiments/{experiment}/jobs/{job}/terminate",
        || post(terminate),
    ),
    route::<Read>(
        Method::POST,
        "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.BatchAI/workspaces/{workspace}/experiments/{experiment}/jobs/{job}/listRemoteLoginInformation",
        || post(logins),
    ),
];

/// The job of this name.
pub(crate) async fn find(app: &App, key: &JobKey) -> Result<Job, ApiError> {
    let folded = key.folded();
    let job = app.read(move |reader| reader.job(&folded)).await?;
    job.ok_or_else(|| ApiError::not_found("job", key.job.as_str()))
}

async fn show(
    _: Authz<Read>,
    State(app): State<App>,
    JobPath(key): JobPath,
) -> Result<Json<Value>, ApiError> {
    let job = find(&app, &key).await?;
    Ok(Json(job_json::resource(&job, &app.driver.view())))
}

/// 202 for a new job; 200 with the job if it is there with the same spec; 409 if another is there.
async fn create(
    _: Authz<WriteJobs>,
    State(app): State<App>,
    base: Base,
    JobPath(key): JobPath,
    Body(body): Body,
) -> Result<Response, ApiError> {
    let spec = read(&key, &body)?;
    experiments::find(&app, &ExperimentPath::of_key(&key)).await?;
    let uuid = uuid::Uuid::new_v4().to_string();
    let subscription = key.subscription.clone();
    let name = key.job.to_string();
    match app.driver.submit(NewJob { key: key.clone(), uuid, spec }).await? {
        Answer::Created(job) => {
            Ok(Operation::new(Kind::Create, wall_now(), job).accepted(&base, &subscription))
        }
        Answer::Existed(_) => {
            let job = find(&app, &key).await?;
            Ok(Json(job_json::resource(&job, &app.driver.view())).into_response())
        }
        Answer::Conflict(_) => Err(ApiError::new(
            StatusCode::CONFLICT,
            "JobAlreadyExists",
            format!(
                "A job named {name} with another specification exists: delete it first, or choose another name."
            ),
        )),
        Answer::Refused(why) => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "RecoveryNeeded", why)),
        other => Err(unexpected(&other)),
    }
}

fn read(key: &JobKey, body: &[u8]) -> Result<JobSpec, ApiError> {
    let options = spec::Options { source: spec::Source::RestBody, ..spec::Options::default() };
    let spec = spec::read(body, &options)?.spec;
    let cluster = spec.cluster.as_ref().map_or("", |cluster| cluster.id.as_str());
    if clusters::is_default(cluster, &ExperimentPath::of_key(key).workspace) {
        return Ok(spec);
    }
    let name = cluster.rsplit('/').next().unwrap_or_default();
    Err(ApiError::new(
        StatusCode::NOT_FOUND,
        "ClusterNotFound",
        format!(
            "The specified cluster {} is not found: `cluster.id` has to name the cluster `default` of the job's own workspace",
            name.escape_default()
        ),
    ))
}

async fn remove(
    _: Authz<WriteJobs>,
    State(app): State<App>,
    base: Base,
    JobPath(key): JobPath,
) -> Result<Response, ApiError> {
    let folded = key.folded();
    let job = app.read(move |reader| reader.job(&folded)).await?.map_or(JobId(0), |job| job.id);
    let subscription = key.subscription.clone();
    match app.driver.delete(key).await? {
        Answer::Deleted { .. } => {
            Ok(Operation::new(Kind::Delete, wall_now(), job).accepted(&base, &subscription))
        }
        Answer::NotFound(_) => Ok(StatusCode::NO_CONTENT.into_response()),
        other => Err(unexpected(&other)),
    }
}

/// A job that is over stays as it is: 200, without a body.
async fn terminate(
    _: Authz<WriteJobs>,
    State(app): State<App>,
    base: Base,
    JobPath(key): JobPath,
) -> Result<Response, ApiError> {
    let subscription = key.subscription.clone();
    match app.driver.cancel(key).await? {
        Answer::Terminating { already: true, .. } => Ok(StatusCode::OK.into_response()),
        Answer::Terminating { job, already: false } => {
            Ok(Operation::new(Kind::Terminate, wall_now(), job).accepted(&base, &subscription))
        }
        Answer::NotFound(key) => Err(ApiError::not_found("job", key.job.as_str())),
        other => Err(unexpected(&other)),
    }
}

/// Nodes do not report how people log in to them: an empty list would say that there are none.
async fn logins(_: Authz<Read>, State(app): State<App>, JobPath(key): JobPath) -> Result<Response, ApiError> {
    find(&app, &key).await?;
    Err(ApiError::not_built(
        "Login information is not kept by this version: log in to the nodes as you do without it.",
    ))
}

async fn list(
    _: Authz<Read>,
    State(app): State<App>,
    base: Base,
    path: ExperimentPath,
    query: Query,
) -> Result<Json<Page<Value>>, ApiError> {
    experiments::find(&app, &path).await?;
    let ask = PageAsk::of(&query)?;
    let beyond = ask.after.as_ref().and_then(|after| after.parse().ok()).map(JobId);
    let jobs = JobsQuery { scope: Some(path.folded()), beyond, limit: ask.probe(), ..JobsQuery::default() };
    let found = app.read(move |reader| reader.jobs(&jobs)).await?;
    let view = app.driver.view();
    let link = format!("{}/experiments/{}/jobs", path.workspace.id(), path.experiment);
    let token = |job: &Job| job.id.to_string();
    Ok(Json(page(&ask, found, token, (&base, &link, ""), |job| job_json::resource(&job, &view))))
}

/// The loop answered with something that belongs to another question: an error of ours.
pub(crate) fn unexpected(answer: &Answer) -> ApiError {
    tracing::error!(?answer, "an answer that belongs to another question");
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "InternalError",
        "The coordinator gave no fitting answer.",
    )
}
