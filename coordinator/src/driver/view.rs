//! What readers see of the state without asking the loop.

use std::collections::BTreeMap;

use trainyard_core::coordinator::State;
use trainyard_core::coordinator::reason::WaitReason;
use trainyard_core::coordinator::recovery::{self, Knowledge, Recovery};
use trainyard_core::coordinator::state::{Job, Node};
use trainyard_core::id::{GangId, JobId, NodeId};

/// Nodes and wait reasons, as of the last commit that changed them.
#[derive(Debug, Default)]
pub struct View {
    /// Every node that ever joined.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Why queued jobs wait; those behind `head` are not in it.
    pub waiting: BTreeMap<JobId, WaitReason>,
    /// The queued job that holds back everything behind it.
    pub head: Option<(Job, WaitReason)>,
    /// Whether the database is older than what agents have obeyed.
    pub recovery: Recovery,
    /// What becomes of each gang that agents hold which were refused because of that.
    pub held: BTreeMap<GangId, Knowledge>,
    /// Nodes that were not heard of since the coordinator's start.
    pub missing: Vec<NodeId>,
}

impl View {
    pub(super) fn of(state: &State) -> View {
        let head =
            state.head.and_then(|id| Some((state.jobs.get(&id)?.clone(), state.waiting.get(&id)?.clone())));
        let recovery = state.recovery.clone();
        let gangs = recovery.ahead.values().flat_map(|ahead| &ahead.held).map(|held| held.gang);
        let held = gangs.map(|gang| (gang, recovery::knowledge(state, gang))).collect();
        View {
            nodes: state.nodes.clone(),
            waiting: state.waiting.clone(),
            head,
            recovery,
            held,
            missing: recovery::missing(state),
        }
    }
}
