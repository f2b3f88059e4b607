//! Errors as ARM shows them: a status and `{"error":{"code","message","details"}}`.

use std::borrow::Cow;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use trainyard_core::spec::Refusal;

use crate::driver::Unavailable;
use crate::grpc::FileError;
use crate::store::StoreError;

/// What goes wrong for a client.
#[derive(Debug, thiserror::Error)]
#[error("{}", .body.error.message)]
pub(crate) struct ApiError {
    status: StatusCode,
    headers: HeaderMap,
    body: Box<Envelope>,
}

#[derive(Debug, Serialize)]
struct Envelope {
    error: Body,
}

#[derive(Debug, Serialize)]
struct Body {
    code: Cow<'static, str>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Body>,
}

impl ApiError {
    pub(crate) fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> ApiError {
        let error = Body { code: code.into(), message: message.into(), target: None, details: vec![] };
        ApiError { status, headers: HeaderMap::new(), body: Box::new(Envelope { error }) }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> ApiError {
        self.headers.insert(name, value);
        self
    }

    pub(crate) fn bad(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// As the service said it: `JobNotFound`, "The specified job j is not found".
    pub(crate) fn not_found(kind: &'static str, name: &str) -> ApiError {
        let mut code = kind.to_owned();
        if let Some(first) = code.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        let message = format!("The specified {kind} {name} is not found");
        ApiError::new(StatusCode::NOT_FOUND, format!("{code}NotFound"), message)
    }

    /// A part of the service that this version does not have.
    pub(crate) fn not_built(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_IMPLEMENTED, "NotBuilt", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, self.headers, Json(self.body)).into_response()
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        let mut error = ApiError::bad("InvalidJobSpec", refusal.to_string());
        error.body.error.details = refusal
            .errors
            .iter()
            .map(|problem| Body {
                code: Cow::Borrowed("InvalidValue"),
                message: problem.to_string(),
                target: Some(problem.path.clone()),
                details: vec![],
            })
            .collect();
        error
    }
}

impl From<Unavailable> for ApiError {
    fn from(why: Unavailable) -> ApiError {
        let (status, code) = match why {
            Unavailable::Full => (StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage"),
            Unavailable::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "Stopping"),
        };
        ApiError::new(status, code, why.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        // Logged here, with its cause; the client can do nothing about it.
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        tracing::error!(%error, source, "a request failed");
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            "The coordinator cannot read its database.",
        )
    }
}

impl From<std::io::Error> for ApiError {
    fn from(error: std::io::Error) -> ApiError {
        tracing::error!(%error, "logs cannot be read");
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            "The coordinator cannot read its logs.",
        )
    }
}

impl From<FileError> for ApiError {
    fn from(error: FileError) -> ApiError {
        let (status, code) = match &error {
            FileError::NotFound => (StatusCode::NOT_FOUND, "FileNotFound"),
            FileError::NotConnected(_) => (StatusCode::SERVICE_UNAVAILABLE, "NodeNotConnected"),
            FileError::TimedOut(_) => (StatusCode::GATEWAY_TIMEOUT, "NodeTimedOut"),
            FileError::Failed { .. } => (StatusCode::BAD_GATEWAY, "NodeCannotRead"),
        };
        ApiError::new(status, code, error.to_string())
    }
}
