//! Long-running calls: what a 202 bears, and the routes that clients poll.
//!
//! An operation is not stored: its id, a UUID of version 8, holds what it is about (kind, start, number of
//! the job), and its status is computed from the job as it is now.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};
use trainyard_core::coordinator::state::{Job, JobPhase};
use trainyard_core::id::JobId;
use trainyard_core::unit::WallMs;
use uuid::Uuid;

use super::authz::{Authz, Read};
use super::error::ApiError;
use super::path::{Base, Last, SubscriptionPath};
use super::route::{Route, route};
use super::{App, api_version, time};

pub(crate) const ROUTES: &[Route] = &[
    route::<Read>(
        Method::GET,
        "/subscriptions/{subscription}/providers/Microsoft.BatchAI/locations/{location}/operationresults/{last}",
        || get(result),
    ),
    route::<Read>(
        Method::GET,
        "/subscriptions/{subscription}/providers/Microsoft.BatchAI/locations/{location}/operationstatuses/{last}",
        || get(status),
    ),
];

/// Clients wait 30 s between two polls unless each answer says otherwise.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The job is accepted: done at once.
    Create = 1,
    /// The job is over.
    Terminate = 2,
    /// The job is gone.
    Delete = 3,
    /// A workspace or experiment is gone: done at once.
    DeleteParent = 4,
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    pub(crate) start: WallMs,
    /// 0 where none is concerned; below 2^56.
    pub(crate) job: JobId,
}

impl Operation {
    pub(crate) fn new(kind: Kind, start: WallMs, job: JobId) -> Operation {
        Operation { kind, start, job }
    }

    /// 48 bits of time, version and kind, variant, 56 bits of the job's number.
    fn id(self) -> Uuid {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&self.start.0.to_be_bytes()[2..]);
        bytes[6] = 0x80 | self.kind as u8;
        bytes[8] = 0x80;
        bytes[9..].copy_from_slice(&self.job.0.to_be_bytes()[1..]);
        Uuid::from_bytes(bytes)
    }

    fn parse(text: &str) -> Option<Operation> {
        let bytes = Uuid::parse_str(text).ok()?.into_bytes();
        let kind = match bytes[6] {
            0x81 => Kind::Create,
            0x82 => Kind::Terminate,
            0x83 => Kind::Delete,
            0x84 => Kind::DeleteParent,
            _ => return None,
        };
        let mut start = [0; 8];
        start[2..].copy_from_slice(&bytes[..6]);
        let mut job = [0; 8];
        job[1..].copy_from_slice(&bytes[9..]);
        let start = WallMs(i64::from_be_bytes(start));
        Some(Operation { kind, start, job: JobId(u64::from_be_bytes(job)) })
    }

    /// The 202 that begins it.
    pub(crate) fn accepted(self, Base(base): &Base, subscription: &str) -> Response {
        // The names of the two look swapped; the service had them so.
        let url = |what| {
            let version = api_version::CURRENT;
            format!(
                "{base}/subscriptions/{subscription}/providers/Microsoft.BatchAI/locations/local/{what}/{}?api-version={version}",
                self.id()
            )
        };
        let mut headers = HeaderMap::new();
        let links = [
            (HeaderName::from_static("azure-asyncoperation"), url("operationresults")),
            (header::LOCATION, url("operationstatuses")),
        ];
        for (name, url) in links {
            headers.insert(name, HeaderValue::from_str(&url).expect("host and ids were checked to be plain"));
        }
        headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        (StatusCode::ACCEPTED, headers).into_response()
    }

    /// The poll's body, and whether the call is over.
    fn show(self, url: &str, job: Option<&Job>) -> (Value, bool) {
        let ended = job.and_then(|job| match &job.phase {
            JobPhase::Ended { at, .. } => Some(*at),
            JobPhase::Queued { .. } | JobPhase::Active(_) => None,
        });
        let end = match self.kind {
            Kind::Create | Kind::DeleteParent => Some(self.start),
            Kind::Terminate if job.is_none() => Some(self.start),
            Kind::Terminate => ended.map(|at| at.max(self.start)),
            Kind::Delete => job.is_none().then_some(self.start),
        };
        let mut body = json!({
            "id": url,
            "name": self.id().to_string(),
            "status": if end.is_some() { "Succeeded" } else { "InProgress" },
            "startTime": time::iso(self.start),
        });
        if let Some(end) = end {
            body["endTime"] = json!(time::iso(end));
        }
        if let (Some(_), Some(job)) = (end, job) {
            let key = &job.key;
            let id = [
                &key.subscription,
                &key.resource_group,
                key.workspace.as_str(),
                key.experiment.as_str(),
                key.job.as_str(),
            ];
            body["properties"] = json!({ "resourceId": id.join("$") });
        }
        (body, end.is_some())
    }
}

async fn look(app: &App, id: &str) -> Result<(Operation, Option<Job>), ApiError> {
    let operation = Operation::parse(id).ok_or_else(|| ApiError::not_found("operation", id))?;
    let job = app.read(move |reader| reader.job_by_id(operation.job)).await?;
    Ok((operation, job))
}

async fn result(
    _: Authz<Read>,
    State(app): State<App>,
    Base(base): Base,
    SubscriptionPath(subscription): SubscriptionPath,
    Last(id): Last,
) -> Result<Response, ApiError> {
    let (operation, job) = look(&app, &id).await?;
    let url = format!(
        "{base}/subscriptions/{subscription}/providers/Microsoft.BatchAI/locations/local/operationresults/{id}"
    );
    let (body, _) = operation.show(&url, job.as_ref());
    Ok(([(header::RETRY_AFTER, RETRY_AFTER)], Json(body)).into_response())
}

/// The target of `Location`: newer clients get it once more at the end, and want a 2xx.
async fn status(
    _: Authz<Read>,
    State(app): State<App>,
    _: SubscriptionPath,
    Last(id): Last,
) -> Result<Response, ApiError> {
    let (operation, job) = look(&app, &id).await?;
    let (_, over) = operation.show("", job.as_ref());
    let status = if over { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, [(header::RETRY_AFTER, RETRY_AFTER)]).into_response())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_gives_its_operation_back(start in 0_i64..(1 << 47), job in 0_u64..(1 << 55), kind in 0..4_usize) {
            let kind = [Kind::Create, Kind::Terminate, Kind::Delete, Kind::DeleteParent][kind];
            let operation = Operation::new(kind, WallMs(start), JobId(job));
            prop_assert_eq!(Operation::parse(&operation.id().to_string()), Some(operation));
        }

        #[test]
        fn other_texts_are_no_operations(text in "\\PC{0,40}") {
            prop_assert!(Operation::parse(&text).is_none());
        }
    }
}
