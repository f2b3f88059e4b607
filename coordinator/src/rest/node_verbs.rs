//! What an operator does with nodes: drain, resume, declare lost. Each answers with the node as it is then.

use axum::Json;
use axum::extract::State;
use axum::routing::post;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use trainyard_core::coordinator::Answer;
use trainyard_core::id::NodeId;

use super::App;
use super::authz::{Authz, OperateNodes};
use super::body::Body;
use super::error::ApiError;
use super::nodes::node_json;
use super::path::Last;
use super::route::{Route, route};

/// Characters of a reason: it is shown in one line.
const REASON_CHARACTERS: usize = 200;

pub(crate) const ROUTES: &[Route] = &[
    route::<OperateNodes>(Method::POST, "/api/v1/nodes/{last}/drain", || post(drain)),
    route::<OperateNodes>(Method::POST, "/api/v1/nodes/{last}/resume", || post(resume)),
    route::<OperateNodes>(Method::POST, "/api/v1/nodes/{last}/declareLost", || post(declare_lost)),
];

/// The body of a drain; an empty one is the same as `{}`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Drain {
    #[serde(default)]
    reason: String,
}

/// The body of `declareLost`; an empty one is the same as `{}`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeclareLost {
    #[serde(default)]
    force: bool,
}

async fn drain(
    _: Authz<OperateNodes>,
    State(app): State<App>,
    Last(name): Last,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let Drain { reason } = read(&body)?;
    if reason.chars().count() > REASON_CHARACTERS || reason.chars().any(char::is_control) {
        return Err(ApiError::bad(
            "InvalidReason",
            format!("`reason` has to be one line of at most {REASON_CHARACTERS} characters"),
        ));
    }
    let answer = app.driver.drain(NodeId(name), reason).await?;
    shown(&app, answer).await
}

async fn resume(
    _: Authz<OperateNodes>,
    State(app): State<App>,
    Last(name): Last,
) -> Result<Json<Value>, ApiError> {
    let answer = app.driver.resume(NodeId(name)).await?;
    shown(&app, answer).await
}

async fn declare_lost(
    _: Authz<OperateNodes>,
    State(app): State<App>,
    Last(name): Last,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let DeclareLost { force } = read(&body)?;
    let answer = app.driver.declare_lost(NodeId(name), force).await?;
    shown(&app, answer).await
}

fn read<T: Default + for<'de> Deserialize<'de>>(Body(bytes): &Body) -> Result<T, ApiError> {
    if bytes.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(bytes).map_err(|error| {
        ApiError::bad("InvalidRequestContent", format!("The body is not as expected: {error}"))
    })
}

async fn shown(app: &App, answer: Answer) -> Result<Json<Value>, ApiError> {
    match answer {
        Answer::NodeChanged(node) => {
            let view = app.driver.view();
            let node = view.nodes.get(&node).ok_or_else(|| ApiError::not_found("node", &node.0))?;
            Ok(Json(node_json(app, node).await?))
        }
        Answer::NoSuchNode(node) => Err(ApiError::not_found("node", &node.0)),
        Answer::NodeConnected(node) => Err(ApiError::new(
            StatusCode::CONFLICT,
            "NodeConnected",
            format!(
                "Node {node} is connected, so it is not lost: drain it, or cancel its job. With `force` its job is given up all the same, and may run twice until the node has ended it."
            ),
        )),
        other => {
            tracing::error!(?other, "a node's verb was answered by something else");
            Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "An unexpected answer."))
        }
    }
}
