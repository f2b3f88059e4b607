//! Nodes that take no new work: an operator's verbs, and the cordon of a node with repeated faults.
//!
//! A drain is durable; the faults that lead to one are counted in memory, by the monotonic clock.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::effect::{Answer, Effect, Record, Step};
use super::event::{Now, ReplyTo};
use super::gang;
use super::state::State;
use crate::id::{JobId, NodeId};
use crate::unit::{Tick, WallMs};

/// Faults of one node that are remembered at most.
const FAULTS_KEPT: usize = 1000;

/// Why a node takes no new work. What it runs goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// Who wants it.
    pub by: DrainedBy,
    /// In words; empty: none was given.
    pub reason: String,
    /// Since when.
    pub since: WallMs,
}

/// Who took a node out of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DrainedBy {
    /// An operator.
    Operator,
    /// The coordinator itself, after repeated faults.
    System,
}

/// An infrastructure fault that speaks against a node.
#[derive(Clone, Debug)]
pub(crate) struct NodeFault {
    at: Tick,
    job: JobId,
    kind: FaultKind,
}

/// What a fault says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// A job could bring it about by itself on every node (a folder that is nowhere): counts once per job.
    PerJob,
    /// No job can bring it about.
    OfNode,
}

pub(super) fn on_drained(
    state: &mut State,
    now: Now,
    reply: ReplyTo,
    id: &NodeId,
    reason: String,
    step: &mut Step,
) {
    let Some(node) = state.nodes.get(id) else { return no_such_node(reply, id, step) };
    let same =
        node.drain.as_ref().is_some_and(|drain| drain.by == DrainedBy::Operator && drain.reason == reason);
    if !same {
        // One who only gives a reason, or another one, does not begin anew.
        let since = node.drain.as_ref().map_or(now.wall, |drain| drain.since);
        drain(state, now, id, Drain { by: DrainedBy::Operator, reason, since }, step);
    }
    step.then.push(Effect::Reply(reply, Answer::NodeChanged(id.clone())));
}

pub(super) fn on_resumed(state: &mut State, now: Now, reply: ReplyTo, id: &NodeId, step: &mut Step) {
    let Some(node) = state.nodes.get_mut(id) else { return no_such_node(reply, id, step) };
    node.faults.clear();
    if node.drain.take().is_some() {
        state.placement_due = true;
        state.changed = true;
        step.commit.push(Record::PutDrain { node: id.clone(), drain: None });
        state.journal_node(now, "nodeResumed", id, json!({}), step);
    }
    step.then.push(Effect::Reply(reply, Answer::NodeChanged(id.clone())));
}

/// An operator says that the machine is gone: what it ran ends as lost, and may start elsewhere at once.
///
/// If it is not gone after all, it takes no new work until it is resumed, and ends what it still holds.
pub(super) fn on_declared_lost(
    state: &mut State,
    now: Now,
    reply: ReplyTo,
    id: &NodeId,
    force: bool,
    step: &mut Step,
) {
    let Some(node) = state.nodes.get(id) else { return no_such_node(reply, id, step) };
    if node.session.is_some() && !force {
        step.then.push(Effect::Reply(reply, Answer::NodeConnected(id.clone())));
        return;
    }
    let gang = node.gang;
    state.journal_node(now, "nodeDeclaredLost", id, json!({ "gang": gang, "force": force }), step);
    let reason = "an operator declared it lost".to_owned();
    drain(state, now, id, Drain { by: DrainedBy::Operator, reason: reason.clone(), since: now.wall }, step);
    if let Some(gang) = gang {
        // Heard only if it is connected after all; else the Hello of its return brings the same.
        gang::stop(state, gang, id, step);
        gang::lose_node(state, now, gang, id, &reason, step);
    }
    step.then.push(Effect::Reply(reply, Answer::NodeChanged(id.clone())));
}

fn no_such_node(reply: ReplyTo, id: &NodeId, step: &mut Step) {
    step.then.push(Effect::Reply(reply, Answer::NoSuchNode(id.clone())));
}

/// Takes a node out of service because of what the coordinator itself has seen.
fn cordon(state: &mut State, now: Now, id: &NodeId, reason: String, step: &mut Step) {
    if state.nodes.get(id).is_some_and(|node| node.drain.is_none()) {
        drain(state, now, id, Drain { by: DrainedBy::System, reason, since: now.wall }, step);
    }
}

/// Counts a fault of a node; too many within the window take it out of service.
pub(super) fn note_fault(
    state: &mut State,
    now: Now,
    id: &NodeId,
    job: JobId,
    kind: FaultKind,
    what: &str,
    step: &mut Step,
) {
    let (max, window_ms) = (state.config.node_faults_max as usize, state.config.node_faults_window_ms);
    let Some(node) = state.nodes.get_mut(id) else { return };
    node.faults.retain(|fault| fault.at.plus_ms(window_ms) > now.tick);
    let again = node.faults.iter().any(|fault| fault.job == job && fault.kind == FaultKind::PerJob);
    if node.faults.len() >= FAULTS_KEPT || kind == FaultKind::PerJob && again {
        return;
    }
    node.faults.push(NodeFault { at: now.tick, job, kind });
    let count = node.faults.len();
    if max > 0 && count >= max {
        let minutes = window_ms.div_ceil(60_000);
        let reason = format!("{count} infrastructure faults within {minutes} min; the last: {what}");
        cordon(state, now, id, reason, step);
    }
}

fn drain(state: &mut State, now: Now, id: &NodeId, drain: Drain, step: &mut Step) {
    let Some(node) = state.nodes.get_mut(id) else { return };
    node.drain = Some(drain.clone());
    state.placement_due = true;
    state.changed = true;
    state.journal_node(now, "nodeDrained", id, json!({ "by": drain.by, "reason": drain.reason }), step);
    step.commit.push(Record::PutDrain { node: id.clone(), drain: Some(drain) });
}
