//! What a node does now, from the view and the job that has it.

use serde::Serialize;
use trainyard_core::coordinator::state::{Job, JobPhase, Node, NodePhase};

use super::App;
use super::error::ApiError;

/// What a node does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum NodeState {
    /// It waits for work.
    Idle,
    /// It gets ready for a job.
    Preparing,
    /// It runs a job.
    Running,
    /// It finishes what it runs, and takes nothing new.
    Draining,
    /// It runs nothing, and takes nothing.
    Drained,
    /// It is not heard of.
    Unknown,
    /// It holds work that this coordinator never gave it, or says that something is wrong with it: an
    /// operator has to look.
    Unusable,
}

/// The state of a node, and the job that has it.
pub(crate) async fn state_of(app: &App, node: &Node) -> Result<(NodeState, Option<Job>), ApiError> {
    let job = match node.gang {
        Some(gang) => app.read(move |reader| reader.job_by_id(gang.job)).await?,
        None => None,
    };
    let phase = job.as_ref().and_then(|job| match &job.phase {
        JobPhase::Active(gang) => gang.nodes.iter().find(|n| n.node == node.id).map(|n| n.phase),
        JobPhase::Queued { .. } | JobPhase::Ended { .. } => None,
    });
    let state = match (node.session, phase) {
        (None, _) => NodeState::Unknown,
        (Some(_), _) if app.driver.view().recovery.holds_foreign(&node.id) => NodeState::Unusable,
        (Some(_), None) if node.facts.problem().is_some() => NodeState::Unusable,
        (Some(_), _) if node.drain.is_some() && node.gang.is_some() => NodeState::Draining,
        (Some(_), _) if node.drain.is_some() => NodeState::Drained,
        (Some(_), Some(NodePhase::Preparing | NodePhase::Prepared)) => NodeState::Preparing,
        (Some(_), Some(NodePhase::Started)) => NodeState::Running,
        (Some(_), Some(NodePhase::Ended | NodePhase::Lost) | None) => NodeState::Idle,
    };
    Ok((state, job))
}
