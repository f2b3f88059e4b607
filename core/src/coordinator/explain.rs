//! Why a job is as it is, in words and as data: for `job explain`.

use serde::Serialize;
use serde_json::{Value, json};

use super::reason::WaitReason;
use super::state::{Job, JobPhase, NodePhase};
use crate::id::NodeId;
use crate::unit::WallMs;

/// Why a job is as it is.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// `executionState`
    pub execution_state: &'static str,
    /// A stable code with its evidence.
    pub reason: Value,
    /// One or more sentences.
    pub text: String,
    /// What is known of each node of the present gang.
    pub nodes: Vec<NodeNote>,
}

/// What is known of one node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeNote {
    /// The node.
    pub node: NodeId,
    /// In words.
    pub reason: String,
}

/// Explains a job. `waiting` is its entry in `State::waiting`, `head` the job that holds back the queue,
/// `unknown` the nodes that are not heard of.
#[must_use]
pub fn explain(
    job: &Job,
    waiting: Option<&WaitReason>,
    head: Option<(&Job, &WaitReason)>,
    unknown: &[(NodeId, WallMs)],
) -> Explanation {
    let execution_state = job.execution_state();
    match &job.phase {
        JobPhase::Queued { .. } => {
            let behind = head
                .filter(|(first, _)| first.id != job.id)
                .map(|(first, _)| WaitReason::Behind { job: first.id, name: first.key.job.to_string() });
            let reason = waiting.cloned().or(behind);
            let text =
                reason.as_ref().map_or_else(|| "It is about to start.".to_owned(), ToString::to_string);
            let text = match (&reason, head) {
                (Some(WaitReason::Behind { name, .. }), Some((_, why))) => format!("{text} {name}: {why}"),
                _ => text,
            };
            Explanation {
                execution_state,
                reason: reason.map_or_else(|| json!({ "code": "Starting" }), |r| json!(r)),
                text: format!("Queued. {text}"),
                nodes: vec![],
            }
        }
        JobPhase::Active(gang) => {
            let nodes: Vec<NodeNote> = gang
                .nodes
                .iter()
                .map(|n| NodeNote { node: n.node.clone(), reason: phase(n, unknown) })
                .collect();
            let (code, text) = match &gang.outcome {
                Some(outcome) => ("Ending", format!("Ending. {outcome}")),
                None if gang.all_prepared() => ("Running", format!("Running on {}.", list(&nodes))),
                None => ("Preparing", format!("Preparing on {}.", list(&nodes))),
            };
            Explanation {
                execution_state,
                reason: json!({ "code": code, "evidence": gang.outcome }),
                text,
                nodes,
            }
        }
        JobPhase::Ended { reason, .. } => {
            let tries = super::recovery::tries(job);
            let tries = if tries > 1 { format!(" It was tried {tries} times.") } else { String::new() };
            Explanation {
                execution_state,
                reason: json!(reason),
                text: format!("{reason}{tries}"),
                nodes: vec![],
            }
        }
    }
}

fn phase(node: &super::state::GangNode, unknown: &[(NodeId, WallMs)]) -> String {
    let phase = match node.phase {
        NodePhase::Preparing => "preparing",
        NodePhase::Prepared => "prepared, waits for the others",
        NodePhase::Started => "running",
        NodePhase::Ended => "ended",
        NodePhase::Lost => "lost",
    };
    match unknown.iter().find(|(id, _)| *id == node.node) {
        Some((_, since)) => {
            let since =
                jiff::Timestamp::from_millisecond(since.0).map_or_else(|_| "?".to_owned(), |t| t.to_string());
            format!("{phase} when last heard of; unknown since {since}")
        }
        None => phase.to_owned(),
    }
}

fn list(nodes: &[NodeNote]) -> String {
    nodes.iter().map(|n| format!("{} ({})", n.node, n.reason)).collect::<Vec<_>>().join(", ")
}
