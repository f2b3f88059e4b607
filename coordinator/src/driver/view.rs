//! What readers see of the state without asking the loop.

use std::collections::BTreeMap;

use trainyard_core::coordinator::State;
use trainyard_core::coordinator::reason::WaitReason;
use trainyard_core::coordinator::state::{Job, Node};
use trainyard_core::id::{JobId, NodeId};

/// Nodes and wait reasons, as of the last commit that changed them.
#[derive(Debug, Default)]
pub struct View {
    /// Every node that ever joined.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Why queued jobs wait; those behind `head` are not in it.
    pub waiting: BTreeMap<JobId, WaitReason>,
    /// The queued job that holds back everything behind it.
    pub head: Option<(Job, WaitReason)>,
}

impl View {
    pub(super) fn of(state: &State) -> View {
        let head =
            state.head.and_then(|id| Some((state.jobs.get(&id)?.clone(), state.waiting.get(&id)?.clone())));
        View { nodes: state.nodes.clone(), waiting: state.waiting.clone(), head }
    }
}
