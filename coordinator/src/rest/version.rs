//! What this coordinator is, and whether it lives.

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use http::Method;
use serde_json::{Value, json};

use super::App;
use super::api_version;
use super::authz::{Anything, Authz, Read};
use super::error::ApiError;
use super::route::{Route, route};

pub(crate) const ROUTES: &[Route] = &[
    route::<Anything>(Method::GET, "/healthz", || get(health)),
    route::<Read>(Method::GET, "/api/v1/version", || get(version)),
];

/// Answers once the loop has come around.
async fn health(_: Authz<Anything>, State(app): State<App>) -> Result<&'static str, ApiError> {
    app.driver.ping().await?;
    Ok("ok\n")
}

async fn version(_: Authz<Read>, State(app): State<App>) -> Json<Value> {
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "commit": app.commit,
        "apiVersion": api_version::CURRENT,
        "generation": app.driver.generation(),
    }))
}
