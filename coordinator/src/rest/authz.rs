//! Who calls, and what it may do: a layer outside everything tells callers apart, and each handler takes an
//! [`Authz`], which only a caller with that right can bring.
//!
//! For now there is one token, which may do everything.

use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use subtle::ConstantTimeEq;
use trainyard_core::text::Secret;

use super::error::ApiError;

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Health, and files by a signed link.
    Anything,
    /// See jobs, workspaces, experiments and clusters.
    Read,
    /// See files and logs of jobs.
    ReadFiles,
    /// Submit, end and remove jobs.
    WriteJobs,
    /// Make and remove workspaces and experiments.
    WriteWorkspaces,
    /// See nodes, their metrics and the event log.
    ReadNodes,
    /// Decide what becomes of a database that went back.
    Recover,
    /// Take nodes out of service and back.
    OperateNodes,
}

/// An action as a type.
pub(crate) trait Act {
    const ACTION: Action;
}

macro_rules! acts {
    ($($name:ident),*) => {$(
        #[doc = concat!("[`Action::", stringify!($name), "`]")]
        pub(crate) struct $name;
        impl Act for $name {
            const ACTION: Action = Action::$name;
        }
    )*};
}

acts!(Anything, Read, ReadFiles, WriteJobs, WriteWorkspaces, ReadNodes, Recover, OperateNodes);

/// The proof that the caller may do `A`.
pub(crate) struct Authz<A>(PhantomData<A>);

impl<A: Act, S: Sync> FromRequestParts<S> for Authz<A> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Authz<A>, ApiError> {
        let caller = parts.extensions.get::<Caller>().copied().unwrap_or(Caller::Nobody);
        if caller.may(A::ACTION) { Ok(Authz(PhantomData)) } else { Err(ApiError::unauthorized()) }
    }
}

/// Who calls. Put into a request by [`authenticate`] alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// Without a valid token.
    Nobody,
    /// With the token.
    Owner,
}

impl Caller {
    fn may(self, action: Action) -> bool {
        match (self, action) {
            (Caller::Owner, _) | (Caller::Nobody, Action::Anything) => true,
            (
                Caller::Nobody,
                Action::Read
                | Action::ReadFiles
                | Action::WriteJobs
                | Action::WriteWorkspaces
                | Action::ReadNodes
                | Action::Recover
                | Action::OperateNodes,
            ) => false,
        }
    }
}

/// The layer outside all routes, gRPC and unknown paths included: without the token nothing but health and
/// signed links gets further.
pub(crate) async fn authenticate(
    State(token): State<Arc<Secret>>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = if is_right(request.headers(), &token) { Caller::Owner } else { Caller::Nobody };
    let path = request.uri().path();
    if caller == Caller::Nobody && !(path == "/healthz" || path.starts_with("/api/v1/files/")) {
        return refuse(request.headers());
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

fn is_right(headers: &HeaderMap, token: &Secret) -> bool {
    let Some(value) = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes) else { return false };
    let Some((scheme, given)) = value.split_at_checked(7) else { return false };
    scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(given.ct_eq(token.expose().as_bytes()))
}

/// gRPC clients look for a status of their own.
fn refuse(headers: &HeaderMap) -> Response {
    if is_grpc(headers) {
        let status = tonic::Status::unauthenticated("the bearer token is missing or wrong");
        return status.into_http::<axum::body::Body>();
    }
    ApiError::unauthorized().into_response()
}

pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

impl ApiError {
    pub(crate) fn unauthorized() -> ApiError {
        ApiError::new(
            StatusCode::UNAUTHORIZED,
            "AuthenticationFailed",
            "The bearer token is missing or wrong: send the header `Authorization: Bearer TOKEN` (`trainyard token` prints it).",
        )
        .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }
}
