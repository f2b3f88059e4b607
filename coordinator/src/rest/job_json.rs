//! A job as clients see it: Batch AI's resource, with what Batch AI lacks under `properties.trainyard`; and
//! the summary that our own list shows.

use serde::Serialize;
use serde_json::{Map, Value, json};
use trainyard_core::coordinator::reason::{EndReason, WaitReason};
use trainyard_core::coordinator::state::{Job, JobPhase, Task, TaskState};
use trainyard_core::unit::{Exit, WallMs};

use super::path::ExperimentPath;
use super::time::iso;
use crate::driver::View;

/// The resource id of a job.
pub(crate) fn id(job: &Job) -> String {
    let path = ExperimentPath::of_key(&job.key);
    format!("{}/experiments/{}/jobs/{}", path.workspace.id(), path.experiment, job.key.job)
}

/// The resource.
pub(crate) fn resource(job: &Job, view: &View) -> Value {
    json!({
        "id": id(job),
        "name": job.key.job,
        "type": "Microsoft.BatchAI/workspaces/experiments/jobs",
        "properties": properties(job, view),
    })
}

fn properties(job: &Job, view: &View) -> Map<String, Value> {
    let mut properties = Map::new();
    let mut put = |key: &str, value: Value| {
        properties.insert(key.to_owned(), value);
    };
    put("experimentName", json!(job.key.experiment));
    // The public form: no secret value is in it.
    if let Ok(Value::Object(spec)) = serde_json::to_value(&job.spec) {
        for (key, value) in spec {
            put(&key, value);
        }
    }
    put("toolType", json!(job.spec.toolkit.tool_type()));
    put("jobOutputDirectoryPathSegment", json!(job.segment()));
    put("creationTime", json!(iso(job.created)));
    put("provisioningState", json!("succeeded"));
    put("provisioningStateTransitionTime", json!(iso(job.created)));
    put("executionState", json!(job.execution_state()));
    put("executionStateTransitionTime", json!(iso(job.transition)));
    if let Some(info) = execution_info(job) {
        put("executionInfo", info);
    }
    put("trainyard", trainyard(job, view));
    properties
}

/// Absent while the job has not started.
fn execution_info(job: &Job) -> Option<Value> {
    let mut info = Map::new();
    info.insert("startTime".to_owned(), json!(iso(job.started?)));
    match &job.phase {
        // Between two tries there is a start, but it is queued again.
        JobPhase::Queued { .. } => return None,
        JobPhase::Active(_) => {}
        JobPhase::Ended { reason, at, .. } => {
            info.insert("endTime".to_owned(), json!(iso(*at)));
            if let Some(code) = reason.exit_code() {
                info.insert("exitCode".to_owned(), json!(code));
            }
            if let Some(code) = reason.error_code() {
                let error =
                    json!({ "code": code, "message": reason.to_string(), "details": details(reason) });
                info.insert("errors".to_owned(), json!([error]));
            }
        }
    }
    Some(Value::Object(info))
}

/// The evidence as Batch AI's list of names and values.
fn details(reason: &EndReason) -> Vec<Value> {
    let Ok(Value::Object(mut reason)) = serde_json::to_value(reason) else { return vec![] };
    let Some(Value::Object(evidence)) = reason.remove("evidence") else { return vec![] };
    let shown = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    evidence.into_iter().map(|(name, value)| json!({ "name": name, "value": shown(value) })).collect()
}

fn trainyard(job: &Job, view: &View) -> Value {
    let mut extension = Map::new();
    extension.insert("jobId".to_owned(), json!(job.id));
    if let Some(gang) = job.gang() {
        extension.insert("gang".to_owned(), json!(gang));
    }
    if let Some(reason) = reason(job, view) {
        extension.insert("reason".to_owned(), reason);
    }
    if job.retries_used > 0 {
        extension.insert("retriesUsed".to_owned(), json!(job.retries_used));
    }
    extension.insert("tasks".to_owned(), job.tasks().iter().map(|it| task(it, view)).collect());
    Value::Object(extension)
}

/// Why it waits or why it ended: `{code, evidence}`.
fn reason(job: &Job, view: &View) -> Option<Value> {
    match &job.phase {
        JobPhase::Queued { .. } => waits(job, view).map(|reason| json!(reason)),
        JobPhase::Active(gang) => gang.outcome.as_ref().map(|reason| json!(reason)),
        JobPhase::Ended { reason, .. } => Some(json!(reason)),
    }
}

/// Why a queued job waits; those behind the head of the queue wait for it.
fn waits(job: &Job, view: &View) -> Option<WaitReason> {
    view.waiting.get(&job.id).cloned().or_else(|| {
        let (head, _) = view.head.as_ref().filter(|(head, _)| head.id != job.id)?;
        Some(WaitReason::Behind { job: head.id, name: head.key.job.to_string() })
    })
}

fn task(task: &Task, view: &View) -> Value {
    let mut shown = json!({
        "name": task.name,
        "role": task.role,
        "index": task.index,
        "rank": task.rank,
        "node": task.node,
        "gpus": task.gpus,
    });
    let started = |at: WallMs| json!(iso(at));
    match &task.state {
        TaskState::Waiting => shown["state"] = json!("waiting"),
        TaskState::Running { pid, at } => {
            // Its node is not heard of: whether it still runs is not known, and that is all.
            match view.nodes.get(&task.node).filter(|node| node.session.is_none()) {
                Some(node) => {
                    shown["state"] = json!("unknown");
                    shown["unknownSince"] = json!(iso(node.last_heard_wall));
                }
                None => shown["state"] = json!("running"),
            }
            shown["pid"] = json!(pid);
            shown["startTime"] = started(*at);
        }
        TaskState::Ended(ended) => {
            shown["state"] = json!("ended");
            if ended.started.0 > 0 {
                shown["startTime"] = started(ended.started);
            }
            shown["endTime"] = json!(iso(ended.ended));
            shown["cause"] = json!(ended.cause);
            match ended.exit {
                Exit::Code(code) => shown["exitCode"] = json!(code),
                Exit::Signal(signal) => shown["signal"] = json!(signal),
                Exit::Unknown => {}
            }
            if !ended.message.is_empty() {
                shown["message"] = json!(ended.message);
            }
        }
    }
    shown
}

/// A job in our own list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    id: String,
    job_id: u64,
    name: String,
    experiment: String,
    workspace: String,
    tool_type: &'static str,
    node_count: u32,
    execution_state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Value>,
    creation_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<String>,
}

/// A job in our own list.
pub(crate) fn summary(job: &Job, view: &View) -> Summary {
    let (exit_code, end) = match &job.phase {
        JobPhase::Ended { reason, at, .. } => (reason.exit_code(), Some(*at)),
        JobPhase::Queued { .. } | JobPhase::Active(_) => (None, None),
    };
    Summary {
        id: id(job),
        job_id: job.id.0,
        name: job.key.job.to_string(),
        experiment: job.key.experiment.to_string(),
        workspace: job.key.workspace.to_string(),
        tool_type: job.spec.toolkit.tool_type(),
        node_count: job.spec.node_count,
        execution_state: job.execution_state(),
        exit_code,
        reason: reason(job, view),
        creation_time: iso(job.created),
        start_time: job.started.map(iso),
        end_time: end.map(iso),
    }
}
