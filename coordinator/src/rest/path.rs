//! Names out of a path and values out of a query, checked at the door.

use std::collections::BTreeMap;

use axum::extract::{FromRequestParts, Query as AxumQuery, RawPathParams};
use http::request::Parts;
use http::{HeaderValue, header};
use trainyard_core::coordinator::JobKey;
use trainyard_core::text::Name;

use super::error::ApiError;
use crate::store::fold;

/// The parameters of a path, as they came.
struct Params(BTreeMap<String, String>);

impl Params {
    async fn of<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<Params, ApiError> {
        let raw = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::bad("InvalidPath", "The path is not UTF-8 once it is decoded."))?;
        Ok(Params(raw.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn name(&self, kind: &str) -> Result<Name, ApiError> {
        Name::parse(self.get(kind))
            .map_err(|error| ApiError::bad("InvalidResourceName", format!("The name of the {kind}: {error}")))
    }

    /// Subscription ids and resource groups: `^[-\w\._()]+$`, 1..90.
    fn scope(&self, kind: &str) -> Result<String, ApiError> {
        let text = self.get(kind);
        let fits = (1..=90).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.()".contains(&b))
            && text.bytes().any(|b| b != b'.');
        if fits {
            Ok(text.to_owned())
        } else {
            Err(ApiError::bad(
                "InvalidResourceName",
                format!("The {kind} has to have 1 to 90 of the characters A-Z a-z 0-9 - _ . ( )"),
            ))
        }
    }
}

/// The subscription of a path.
pub(crate) struct SubscriptionPath(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for SubscriptionPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Ok(SubscriptionPath(Params::of(parts, state).await?.scope("subscription")?))
    }
}

/// Subscription and resource group of a path.
#[derive(Clone, Debug)]
pub(crate) struct GroupPath {
    pub(crate) subscription: String,
    pub(crate) resource_group: String,
}

impl GroupPath {
    pub(crate) fn folded(&self) -> String {
        fold(&[&self.subscription, &self.resource_group])
    }

    fn of(params: &Params) -> Result<GroupPath, ApiError> {
        Ok(GroupPath { subscription: params.scope("subscription")?, resource_group: params.scope("group")? })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for GroupPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        GroupPath::of(&Params::of(parts, state).await?)
    }
}

/// A workspace of a path.
#[derive(Clone, Debug)]
pub(crate) struct WorkspacePath {
    pub(crate) group: GroupPath,
    pub(crate) workspace: Name,
}

impl WorkspacePath {
    pub(crate) fn folded(&self) -> String {
        fold(&[&self.group.subscription, &self.group.resource_group, self.workspace.as_str()])
    }

    /// Its resource id.
    pub(crate) fn id(&self) -> String {
        let GroupPath { subscription, resource_group } = &self.group;
        format!(
            "/subscriptions/{subscription}/resourceGroups/{resource_group}/providers/Microsoft.BatchAI/workspaces/{}",
            self.workspace
        )
    }

    fn of(params: &Params) -> Result<WorkspacePath, ApiError> {
        Ok(WorkspacePath { group: GroupPath::of(params)?, workspace: params.name("workspace")? })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for WorkspacePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        WorkspacePath::of(&Params::of(parts, state).await?)
    }
}

/// An experiment of a path.
#[derive(Clone, Debug)]
pub(crate) struct ExperimentPath {
    pub(crate) workspace: WorkspacePath,
    pub(crate) experiment: Name,
}

impl ExperimentPath {
    pub(crate) fn folded(&self) -> String {
        format!("{}/{}", self.workspace.folded(), self.experiment.as_str().to_ascii_lowercase())
    }

    pub(crate) fn of_key(key: &JobKey) -> ExperimentPath {
        let group =
            GroupPath { subscription: key.subscription.clone(), resource_group: key.resource_group.clone() };
        ExperimentPath {
            workspace: WorkspacePath { group, workspace: key.workspace.clone() },
            experiment: key.experiment.clone(),
        }
    }

    fn of(params: &Params) -> Result<ExperimentPath, ApiError> {
        Ok(ExperimentPath { workspace: WorkspacePath::of(params)?, experiment: params.name("experiment")? })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ExperimentPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        ExperimentPath::of(&Params::of(parts, state).await?)
    }
}

/// A job of a path.
pub(crate) struct JobPath(pub(crate) JobKey);

impl<S: Send + Sync> FromRequestParts<S> for JobPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params = Params::of(parts, state).await?;
        let ExperimentPath { workspace, experiment } = ExperimentPath::of(&params)?;
        let job = params.name("job")?;
        let WorkspacePath { group: GroupPath { subscription, resource_group }, workspace } = workspace;
        Ok(JobPath(JobKey { subscription, resource_group, workspace, experiment, job }))
    }
}

/// One parameter of a path that is no name of ours: a node, a file, an operation.
pub(crate) struct Last(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Last {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Ok(Last(Params::of(parts, state).await?.get("last").to_owned()))
    }
}

/// The query of a request; keys in lower case, the last of equal ones counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(BTreeMap<String, String>);

impl Query {
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// A whole number from `low` to `high`.
    pub(crate) fn number(&self, key: &'static str, low: u64, high: u64) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.get(key) else { return Ok(None) };
        match text.parse() {
            Ok(number) if (low..=high).contains(&number) => Ok(Some(number)),
            Ok(_) | Err(_) => Err(ApiError::bad(
                "InvalidQueryParameterValue",
                format!("`{key}` has to be a whole number from {low} to {high}"),
            )),
        }
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| matches!(value, "1" | "true" | ""))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let AxumQuery(pairs) = AxumQuery::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::bad("InvalidQuery", "The query of the URL cannot be read."))?;
        Ok(Query(pairs.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), value)).collect()))
    }
}

/// The address that the client reaches this server by, as `http://host:port`.
#[derive(Clone, Debug)]
pub(crate) struct Base(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Base {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let host = parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
        let host = host.and_then(|host| std::str::from_utf8(host).ok());
        let host = host.or_else(|| parts.uri.authority().map(http::uri::Authority::as_str));
        let fits = |host: &&str| {
            !host.is_empty()
                && host.len() <= 255
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:[]%".contains(&b))
        };
        match host.filter(fits) {
            Some(host) => Ok(Base(format!("http://{host}"))),
            None => Err(ApiError::bad("InvalidHost", "The header `Host` is missing or cannot be read.")),
        }
    }
}

/// A segment of a path, percent-encoded as far as needed.
pub(crate) fn encode(segment: &str) -> String {
    use std::fmt::Write;
    segment.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a String takes everything");
        }
        out
    })
}
