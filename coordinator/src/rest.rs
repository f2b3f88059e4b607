//! REST for clients: all route tables joined, and the layers around them.
//!
//! A handler takes an `Authz`, reads views and committed records, and asks the driver; none decides
//! anything. Wire types stand beside their handlers, apart from the domain's.

mod api_version;
mod authz;
mod body;
mod clusters;
mod error;
mod events;
mod experiments;
mod explain;
mod files;
mod job_json;
mod jobs;
mod logs;
mod node_state;
mod node_verbs;
mod nodes;
mod operation;
mod output_files;
mod page;
mod path;
mod range;
mod recovery;
mod route;
mod time;
mod version;
mod workspaces;

use std::ops::Deref;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, Uri};
use tokio::sync::Semaphore;
use trainyard_core::id::GangId;
use trainyard_core::text::Secret;

use crate::download::Signer;
use crate::driver::Driver;
use crate::grpc::Sessions;
use crate::logs::{GangLogs, LogStore};
use crate::metrics::History;
use crate::store::{Read, StoreError};
use error::ApiError;
use route::{Route, Templates};

/// Every resource.
const TABLES: [&[Route]; 14] = [
    version::ROUTES,
    workspaces::ROUTES,
    experiments::ROUTES,
    clusters::ROUTES,
    jobs::ROUTES,
    output_files::ROUTES,
    operation::ROUTES,
    explain::ROUTES,
    logs::ROUTES,
    files::ROUTES,
    events::ROUTES,
    nodes::ROUTES,
    recovery::ROUTES,
    node_verbs::ROUTES,
];

/// Reads of the database at one time: more would only wait for the disk.
const READERS: usize = 16;

/// What handlers work with; cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Parts>);

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// The parts of [`App`].
pub(crate) struct Parts {
    pub(crate) driver: Driver,
    pub(crate) reader: Arc<dyn Read>,
    pub(crate) readers: Semaphore,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) logs: Arc<LogStore>,
    pub(crate) history: Arc<Mutex<History>>,
    pub(crate) signer: Signer,
    /// Of the build; empty if it is not known.
    pub(crate) commit: String,
}

impl App {
    pub(crate) fn new(
        driver: Driver,
        reader: Arc<dyn Read>,
        sessions: Arc<Sessions>,
        logs: Arc<LogStore>,
        history: Arc<Mutex<History>>,
        signer: Signer,
        commit: String,
    ) -> App {
        let readers = Semaphore::new(READERS);
        App(Arc::new(Parts { driver, reader, readers, sessions, logs, history, signer, commit }))
    }
}

impl Parts {
    /// Reads the store on a blocking thread.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Read) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let _permit =
            self.readers.acquire().await.map_err(|_| StoreError::broken("read", "the readers are closed"))?;
        let reader = self.reader.clone();
        let result = tokio::task::spawn_blocking(move || read(reader.as_ref())).await;
        Ok(result.map_err(|panic| StoreError::broken("read", panic))??)
    }

    /// The logs of a gang.
    pub(crate) async fn gang_logs(&self, gang: GangId) -> Result<Arc<GangLogs>, ApiError> {
        let logs = self.logs.clone();
        let result = tokio::task::spawn_blocking(move || logs.gang(gang)).await;
        Ok(result.map_err(std::io::Error::other)??)
    }
}

/// REST and gRPC on one router. Layers, from the outside in: authentication (nothing gets past it by being
/// forgotten), then the routes, whose fallbacks answer in ARM's form.
pub(crate) fn router(app: App, grpc: Router, token: Arc<Secret>) -> Router {
    let mut arm = Router::new();
    let mut own = Router::new();
    for route in TABLES.into_iter().flatten() {
        tracing::trace!(method = %route.method, path = route.path, action = ?route.action, "route");
        if route.path.starts_with("/subscriptions/") {
            arm = arm.route(route.path, (route.handler)());
        } else {
            own = own.route(route.path, (route.handler)());
        }
    }
    arm.route_layer(from_fn(api_version::check))
        .merge(own)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
        .merge(grpc)
        .fallback(no_route)
        .layer(from_fn_with_state(token, authz::authenticate))
}

/// Changes the literal segments of a request's path to the case of the route that fits, before routing.
#[derive(Clone)]
pub(crate) struct CanonicalPath(Arc<Templates>);

impl CanonicalPath {
    pub(crate) fn new() -> CanonicalPath {
        CanonicalPath(Arc::new(Templates::new(TABLES.into_iter().flatten().map(|route| route.path))))
    }

    pub(crate) fn apply<B>(&self, request: &mut http::Request<B>) {
        let uri = request.uri();
        let Some(path) = self.0.canonical(uri.path()) else { return };
        let with_query = match uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        let mut parts = uri.clone().into_parts();
        // It is made of what was a path just now.
        parts.path_and_query = with_query.parse().ok();
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
}

async fn no_route(request: Request) -> Response {
    if authz::is_grpc(request.headers()) {
        return tonic::Status::unimplemented("this service does not exist here").into_http::<Body>();
    }
    let message = format!("There is nothing at {}.", request.uri().path().escape_default());
    ApiError::new(StatusCode::NOT_FOUND, "NotFound", message).into_response()
}

async fn wrong_method(request: Request) -> ApiError {
    let message =
        format!("{} is not possible at {}.", request.method(), request.uri().path().escape_default());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
}

#[cfg(test)]
mod tests;
