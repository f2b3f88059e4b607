//! A request's body, read whole within its limits.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use trainyard_core::spec::limits::SPEC_BYTES;

use super::error::ApiError;

/// How long a body may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A body of at most 1 MiB.
pub(crate) struct Body(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let reading = Limited::new(request.into_body(), SPEC_BYTES).collect();
        match tokio::time::timeout(TIMEOUT, reading).await {
            Ok(Ok(body)) => Ok(Body(body.to_bytes())),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(cut(
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestBodyTooLarge",
                format!("The body is larger than {SPEC_BYTES} bytes."),
            )),
            Ok(Err(_)) => Err(ApiError::bad("InvalidRequestContent", "The body ended before its end.")),
            Err(_elapsed) => Err(cut(
                StatusCode::REQUEST_TIMEOUT,
                "RequestTimeout",
                "The body did not come within 30 seconds.".to_owned(),
            )),
        }
    }
}

/// The rest of the body is not read, so the connection cannot be used again; clients are told.
fn cut(status: StatusCode, code: &'static str, message: String) -> ApiError {
    ApiError::new(status, code, message).header(header::CONNECTION, HeaderValue::from_static("close"))
}
