//! Nodes: sessions, what they report, what a reconnecting node still holds, and leases that run out.

use std::collections::BTreeSet;

use serde_json::json;

use super::drain::{self, FaultKind};
use super::effect::{Answer, Effect, Record, Step};
use super::event::{Now, ReplyTo};
use super::state::{JobPhase, Node, NodePhase, State};
use super::{gang, recovery};
use crate::id::{AttemptId, Epoch, GangId, NodeId};
use crate::session::{Command, GangPhase, HeldGang, Hello, NodeFacts, Report, Welcome};

pub(super) fn on_joined(state: &mut State, now: Now, reply: ReplyTo, hello: Hello, step: &mut Step) {
    let ahead = recovery::refusal(state, now, &hello);
    if let Some(why) = ahead.or_else(|| refusal(state, &hello)) {
        step.then.push(Effect::Reply(reply, Answer::Refused(why)));
        return;
    }
    let epoch = state.next_epoch;
    state.next_epoch = Epoch(epoch.0 + 1);
    let id = hello.node.clone();
    let (gang, drain, faults) =
        state.nodes.remove(&id).map_or((None, None, vec![]), |node| (node.gang, node.drain, node.faults));
    state.nodes.insert(
        id.clone(),
        Node {
            id: id.clone(),
            epoch,
            facts: hello.facts.clone(),
            session: Some(epoch),
            last_heard: now.tick,
            last_heard_wall: now.wall,
            gang,
            drain,
            faults,
        },
    );
    step.commit.push(Record::PutNode { node: id.clone(), epoch, facts: hello.facts });
    state.journal_node(now, "nodeJoined", &id, json!({ "epoch": epoch }), step);
    state.placement_due = true;
    state.changed = true;
    step.then.push(Effect::Reply(
        reply,
        Answer::Welcome(Welcome {
            generation: state.generation,
            epoch,
            lease_ms: state.config.lease_ms,
            heartbeat_ms: state.config.heartbeat_ms,
            metrics_period_ms: state.config.metrics_period_ms,
        }),
    ));
    recovery::on_joined(state, &id);
    reconcile(state, now, &id, hello.held, step);
    gang::end_on_lost_gpu(state, now, &id, step);
}

fn refusal(state: &State, hello: &Hello) -> Option<String> {
    let node = state.nodes.get(&hello.node)?;
    let other = node.facts.root != hello.facts.root || node.facts.port_space != hello.facts.port_space;
    (node.session.is_some() && other).then(|| {
        format!(
            "another node named {} is connected (root {}): give one of them another name",
            node.id, node.facts.root
        )
    })
}

pub(super) fn on_left(state: &mut State, now: Now, id: &NodeId, epoch: Epoch, step: &mut Step) {
    let Some(node) = state.nodes.get_mut(id).filter(|n| n.session == Some(epoch)) else { return };
    node.session = None;
    node.last_heard = now.tick;
    node.last_heard_wall = now.wall;
    state.placement_due = true;
    state.changed = true;
    state.journal_node(now, "nodeUnknown", id, json!({}), step);
}

pub(super) fn on_facts(
    state: &mut State,
    now: Now,
    id: &NodeId,
    epoch: Epoch,
    facts: NodeFacts,
    step: &mut Step,
) {
    let Some(node) = state.nodes.get_mut(id).filter(|n| n.session == Some(epoch)) else { return };
    // What is stuck is told by reports alone, in order with the ends that make it so.
    let facts = NodeFacts { stuck: std::mem::take(&mut node.facts.stuck), ..facts };
    node.facts = facts.clone();
    state.placement_due = true;
    state.changed = true;
    step.commit.push(Record::PutNode { node: id.clone(), epoch, facts });
    gang::end_on_lost_gpu(state, now, id, step);
}

/// In one step with the end of the attempt, so that nothing is placed there in between.
fn on_stuck(state: &mut State, now: Now, id: &NodeId, attempt: AttemptId, is_stuck: bool, step: &mut Step) {
    let Some(node) = state.nodes.get_mut(id) else { return };
    if node.facts.stuck.contains(&attempt) == is_stuck {
        return;
    }
    if is_stuck {
        node.facts.stuck.push(attempt);
    } else {
        node.facts.stuck.retain(|held| *held != attempt);
    }
    let record = Record::PutNode { node: id.clone(), epoch: node.epoch, facts: node.facts.clone() };
    state.placement_due = true;
    state.changed = true;
    step.commit.push(record);
    let kind = if is_stuck { "nodeStuck" } else { "nodeFreed" };
    state.journal_node(now, kind, id, json!({ "attempt": attempt }), step);
}

pub(super) fn on_heard(
    state: &mut State,
    now: Now,
    id: &NodeId,
    epoch: Epoch,
    reports: Vec<Report>,
    step: &mut Step,
) {
    // What an earlier session says late is repeated by the Hello of the present one.
    let Some(node) = state.nodes.get_mut(id).filter(|n| n.session == Some(epoch)) else { return };
    node.last_heard = now.tick;
    node.last_heard_wall = now.wall;
    let mut acked: Vec<AttemptId> = Vec::new();
    for report in reports {
        match report {
            Report::Prepared(gang) => gang::on_prepared(state, gang, id, step),
            Report::PrepareFailed(failed) => {
                let gang = failed.gang;
                gang::on_prepare_failed(state, now, id, failed, step);
                release_if_not_live(state, gang, id, step);
            }
            Report::Started { attempt, pid, at } => gang::on_started(state, now, id, attempt, pid, at, step),
            Report::Stuck(attempt) => on_stuck(state, now, id, attempt, true, step),
            Report::Gone(attempt) => on_stuck(state, now, id, attempt, false, step),
            Report::Ended(ended) => {
                acked.push(ended.attempt);
                recovery::on_task_ended(state, now, id, &ended, step);
                gang::on_task_ended(state, now, id, ended, step);
            }
            Report::GangEnded(gang) => {
                gang::on_gang_ended(state, now, gang, id, step);
                recovery::on_gang_ended(state, gang, id);
                release_if_not_live(state, gang, id, step);
            }
        }
    }
    if !acked.is_empty() {
        state.send(id, Command::EndedAck(acked), step);
    }
}

/// A gang that is not live here, or no longer, is forgotten by its node once it has ended there.
fn release_if_not_live(state: &mut State, id: GangId, node: &NodeId, step: &mut Step) {
    if gang::live(state, id, node).is_none() {
        state.send(node, Command::Release(id), step);
    }
}

/// Brings together what the coordinator knows of a node and what the node says that it holds.
fn reconcile(state: &mut State, now: Now, node: &NodeId, held: Vec<HeldGang>, step: &mut Step) {
    let mut seen = BTreeSet::new();
    for gang in held {
        seen.insert(gang.gang);
        if gang::live(state, gang.gang, node).is_some() {
            reconcile_live(state, now, node, gang, step);
        } else if recovery::is_foreign(state, gang.gang) {
            recovery::on_held(state, now, node, &gang, step);
        } else {
            reconcile_dead(state, node, &gang, step);
        }
    }
    let unheld = state.nodes.get(node).and_then(|n| n.gang).filter(|gang| !seen.contains(gang));
    if let Some(id) = unheld {
        reconcile_unheld(state, now, node, id, step);
    }
}

fn reconcile_live(state: &mut State, now: Now, node: &NodeId, held: HeldGang, step: &mut Step) {
    let id = held.gang;
    for attempt in held.attempts {
        if let Some((pid, at)) = attempt.started {
            gang::on_started(state, now, node, attempt.attempt, pid, at, step);
        }
        if let Some(ended) = attempt.ended {
            state.send(node, Command::EndedAck(vec![ended.attempt]), step);
            gang::on_task_ended(state, now, node, ended, step);
        }
    }
    match held.phase {
        GangPhase::Preparing => {}
        GangPhase::Prepared => gang::on_prepared(state, id, node, step),
        GangPhase::Running => {
            if let Some(gang) = gang::live(state, id, node) {
                gang::advance(gang, node, NodePhase::Started);
            }
        }
        GangPhase::Ended => match held.prepare_failed {
            Some(failed) => gang::on_prepare_failed(state, now, node, failed, step),
            None => gang::on_gang_ended(state, now, id, node, step),
        },
    }
    let Some(gang) = gang::live(state, id, node) else { return };
    let phase = gang.nodes.iter().find(|n| n.node == *node).map(|n| n.phase);
    let ended = gang.outcome.is_some();
    match (held.phase, phase) {
        (_, None) | (GangPhase::Ended, _) => {}
        _ if ended && mutant!("stop-not-repeated") => {}
        _ if ended => gang::stop(state, id, node, step),
        // Known as started here, but the Start did not arrive.
        (GangPhase::Prepared, Some(NodePhase::Started)) => state.send(node, Command::Start(id), step),
        (GangPhase::Preparing, _) => send_prepare(state, id, node, step),
        (GangPhase::Prepared | GangPhase::Running, _) => {}
    }
}

/// The node holds a gang that is over here, or was given up.
fn reconcile_dead(state: &mut State, node: &NodeId, held: &HeldGang, step: &mut Step) {
    let ended: Vec<AttemptId> =
        held.attempts.iter().filter(|a| a.ended.is_some()).map(|a| a.attempt).collect();
    if !ended.is_empty() {
        state.send(node, Command::EndedAck(ended), step);
    }
    match held.phase {
        GangPhase::Ended if mutant!("release-not-repeated") => {}
        GangPhase::Ended => state.send(node, Command::Release(held.gang), step),
        _ if mutant!("dead-gang-not-stopped") => {}
        GangPhase::Preparing | GangPhase::Prepared | GangPhase::Running => {
            gang::stop(state, held.gang, node, step)
        }
    }
}

/// The node does not hold a gang that is on it: it never got the `Prepare`, or lost its memory.
fn reconcile_unheld(state: &mut State, now: Now, node: &NodeId, id: GangId, step: &mut Step) {
    let Some(gang) = gang::live(state, id, node) else { return };
    let decided = gang.outcome.is_some();
    match gang.nodes.iter().find(|n| n.node == *node).map(|n| n.phase) {
        Some(NodePhase::Preparing) if decided => gang::on_gang_ended(state, now, id, node, step),
        Some(NodePhase::Preparing) if mutant!("prepare-not-repeated") => {}
        Some(NodePhase::Preparing) => send_prepare(state, id, node, step),
        Some(NodePhase::Prepared | NodePhase::Started) => {
            let what = "its agent no longer knows what it ran";
            gang::lose_node(state, now, id, node, what, step);
            drain::note_fault(state, now, node, id.job, FaultKind::OfNode, what, step);
        }
        Some(NodePhase::Ended | NodePhase::Lost) | None => {}
    }
}

/// Sends the node its part of the plan, with the secrets.
pub(super) fn send_prepare(state: &mut State, id: GangId, node: &NodeId, step: &mut Step) {
    let Some(job) = state.jobs.get(&id.job) else { return };
    let JobPhase::Active(gang) = &job.phase else { return };
    let Some(plan) = state.plans.get(&id).and_then(|nodes| nodes.iter().find(|plan| plan.node == *node))
    else {
        return;
    };
    let command = Command::Prepare {
        gang: id,
        plan: Box::new(plan.clone()),
        start_when_prepared: gang.nodes.len() == 1,
        lease_ms: gang.lease_ms,
    };
    state.send(node, command, step);
}

pub(super) fn expire_leases(state: &mut State, now: Now, step: &mut Step) {
    let expired: Vec<(NodeId, GangId)> = state
        .nodes
        .values()
        .filter(|node| state.lease_end(node).is_some_and(|end| end <= now.tick))
        .filter_map(|node| Some((node.id.clone(), node.gang?)))
        .collect();
    for (node, gang) in expired {
        state.journal_node(now, "nodeLost", &node, json!({ "gang": gang }), step);
        let what = "it was not heard of for longer than its lease";
        gang::lose_node(state, now, gang, &node, what, step);
        drain::note_fault(state, now, &node, gang.job, FaultKind::OfNode, what, step);
    }
}
