//! `api-version`: every route of Batch AI asks for the one that is spoken here.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;

/// The last one of the service.
pub(crate) const CURRENT: &str = "2018-05-01";

/// The layer of all routes of Batch AI.
pub(crate) async fn check(request: Request, next: Next) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let version = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(key, value)| key.eq_ignore_ascii_case("api-version").then_some(value));
    match version {
        Some(CURRENT) => next.run(request).await,
        Some(_) => ApiError::bad(
            "InvalidApiVersionParameter",
            format!("This api-version is not spoken here: the only one is {CURRENT}."),
        )
        .into_response(),
        None => ApiError::bad(
            "MissingApiVersionParameter",
            format!("The api-version query parameter (?api-version={CURRENT}) is required for all requests."),
        )
        .into_response(),
    }
}
