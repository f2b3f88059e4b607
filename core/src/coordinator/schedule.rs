//! From the queue to gangs: asks `place` which jobs start where, and `plan` what that means.

use std::collections::BTreeMap;

use serde_json::json;

use super::effect::{Record, Step};
use super::event::Now;
use super::node::send_prepare;
use super::reason::{EndReason, WaitReason};
use super::state::{Config, Gang, GangNode, Job, JobPhase, NodePhase, State, Task, TaskState};
use super::{job, recovery};
use crate::id::{GangId, JobId, NodeId};
use crate::place::{Offer, Placement, Request, Share, natural_order, place};
use crate::plan::task::ReservedPorts;
use crate::plan::{NodeGrant, PlanError, PlanInput, plan};
use crate::spec::JobSpec;
use crate::spec::job::OnLeaseLost;
use crate::unit::GpuUuid;

pub(super) fn start_what_fits(state: &mut State, now: Now, step: &mut Step) {
    // A start can fail at once (the plan is impossible), which frees its nodes for the next in the queue.
    while std::mem::take(&mut state.placement_due) || back_off_is_over(state, now) {
        let placement = look(state, now);
        state.changed = true;
        for (id, nodes) in placement.starts {
            start(state, now, id, nodes, step);
        }
    }
}

fn back_off_is_over(state: &mut State, now: Now) -> bool {
    let mut any = false;
    for job in state.jobs.values_mut() {
        if let JobPhase::Queued { not_before } = &mut job.phase
            && not_before.is_some_and(|tick| tick <= now.tick)
        {
            *not_before = None;
            any = true;
        }
    }
    any
}

fn look(state: &mut State, now: Now) -> Placement {
    let mut offers: Vec<Offer> = state.nodes.values().map(|node| offer(state, node)).collect();
    offers.sort_by(|a, b| natural_order(&a.node.0, &b.node.0));
    offer_each_gpu_once(&mut offers);
    let mut waiting = Vec::new();
    let mut ready = Vec::new();
    if recovery::holds_back(state) {
        state.head = None;
        state.waiting = state.queue.iter().map(|(_, id)| (*id, WaitReason::RecoveryNeeded)).collect();
        return Placement::default();
    }
    for (_, id) in &state.queue {
        let Some(job) = state.jobs.get(id) else { continue };
        match &job.phase {
            JobPhase::Queued { not_before: Some(tick) } if *tick > now.tick => {
                let last = job.history.last().map(|(_, reason)| reason.to_string()).unwrap_or_default();
                let until = crate::unit::WallMs(now.wall.0 + (tick.0 - now.tick.0) as i64);
                waiting.push((*id, WaitReason::BackOff { until, last }));
            }
            JobPhase::Queued { .. } => match recovery::runs_elsewhere(state, *id) {
                Some((node, gang)) => waiting.push((*id, WaitReason::RunsElsewhere { node, gang })),
                None => ready.push(*id),
            },
            JobPhase::Active(_) | JobPhase::Ended { .. } => {}
        }
    }
    let jobs = &state.jobs;
    let placement = place(ready.into_iter().filter_map(|id| jobs.get(&id)).map(request), &offers);
    state.head = placement.head;
    state.waiting = waiting.into_iter().chain(placement.waiting.iter().cloned()).collect();
    placement
}

fn request(job: &Job) -> Request {
    Request {
        job: job.id,
        name: job.key.job.to_string(),
        node_count: job.spec.node_count,
        gpus_per_node: job.spec.resources.and_then(|r| r.gpus_per_node),
        avoid: job.avoid.clone(),
    }
}

fn offer(state: &State, node: &super::state::Node) -> Offer {
    Offer {
        node: node.id.clone(),
        busy: node.gang.map(|gang| gang.job).filter(|_| !mutant!("busy-node-offered")),
        unknown_since: node.session.is_none().then_some(node.last_heard_wall),
        foreign_work: state.recovery.holds_foreign(&node.id),
        problem: node.facts.problem(),
        drained: node.drain.as_ref().map(|drain| (drain.since, drain.reason.clone())),
        gpus: node.facts.gpus.iter().filter(|gpu| gpu.fault.is_empty()).map(|gpu| gpu.uuid.clone()).collect(),
        gpu_problem: node.facts.gpu_problem.clone(),
    }
}

/// A GPU that two nodes tell of (two agents that were given the same one) belongs to the first.
fn offer_each_gpu_once(offers: &mut [Offer]) {
    let mut owners: BTreeMap<GpuUuid, NodeId> = BTreeMap::new();
    for offer in offers {
        let mut other = None;
        offer.gpus.retain(|gpu| match owners.get(gpu) {
            Some(owner) => {
                other = Some(format!("{gpu} is a GPU of {owner} too: give each agent its own"));
                false
            }
            None => {
                owners.insert(gpu.clone(), offer.node.clone());
                true
            }
        });
        if let Some(problem) = other
            && offer.gpu_problem.is_empty()
        {
            offer.gpu_problem = problem;
        }
    }
}

fn start(state: &mut State, now: Now, id: JobId, nodes: Vec<Share>, step: &mut Step) {
    let reserved = reserved_ports(state, id);
    let grants: Vec<NodeGrant> = nodes.iter().filter_map(|(node, gpus)| grant(state, node, gpus)).collect();
    let local = state.config.keep_local
        && grants.iter().all(|grant| grant.port_space.boot_id == state.config.boot_id);
    let Some(job) = state.jobs.get_mut(&id) else { return };
    let lease_ms = lease_ms(&state.config, &job.spec, local);
    let gang_id = GangId { job: id, gang: job.next_gang() };
    let input = PlanInput {
        spec: &job.spec,
        subscription: &job.key.subscription,
        resource_group: &job.key.resource_group,
        workspace: job.key.workspace.as_str(),
        experiment: job.key.experiment.as_str(),
        job: job.key.job.as_str(),
        uuid: &job.uuid,
        gang: gang_id.gang,
    };
    let planned = match plan(&input, &grants, &reserved) {
        Ok(planned) => planned,
        Err(error) => {
            let reason = plan_failed(&error);
            job::end(state, now, id, reason, step);
            return;
        }
    };
    let limit = job.spec.constraints.max_wall_clock_time;
    job.gangs = gang_id.gang.0;
    job.started = Some(now.wall);
    job.transition = now.wall;
    job.phase = JobPhase::Active(Box::new(Gang {
        id: gang_id,
        nodes: planned
            .nodes
            .iter()
            .map(|n| GangNode {
                node: n.node.clone(),
                phase: NodePhase::Preparing,
                space: grants.iter().find(|grant| grant.node == n.node).map(|grant| grant.port_space.clone()),
            })
            .collect(),
        tasks: tasks(&planned.nodes),
        lease_ms,
        deadline: now.tick.plus_ms(limit.as_millis().try_into().unwrap_or(u64::MAX)),
        outcome: None,
    }));
    let names: Vec<&NodeId> = nodes.iter().map(|(node, _)| node).collect();
    let detail = json!({ "gang": gang_id.gang, "nodes": names });
    state.dequeue(id);
    for (node, _) in &nodes {
        if let Some(node) = state.nodes.get_mut(node) {
            node.gang = Some(gang_id);
        }
    }
    step.commit.push(Record::PutPlan { gang: gang_id, nodes: planned.nodes.clone() });
    state.plans.insert(gang_id, planned.nodes);
    state.touch(id);
    state.journal(now, "jobStarted", id, None, detail, step);
    for (node, _) in &nodes {
        send_prepare(state, gang_id, node, step);
    }
}

/// 0: the attempts are kept however long their node is silent.
fn lease_ms(config: &Config, spec: &JobSpec, local: bool) -> u64 {
    let (wanted, seconds) =
        if config.job_leases { (spec.on_lease_lost, spec.lease_seconds) } else { (None, None) };
    let keep = match wanted {
        Some(OnLeaseLost::Keep) => true,
        Some(OnLeaseLost::Fence) => false,
        None => local,
    };
    match seconds {
        _ if keep => 0,
        Some(seconds) => u64::from(seconds) * 1000,
        None => config.lease_ms,
    }
}

fn plan_failed(error: &PlanError) -> EndReason {
    EndReason::PlanFailed { message: error.to_string() }
}

fn tasks(nodes: &[crate::plan::NodePlan]) -> Vec<Task> {
    let mut tasks: Vec<Task> = nodes
        .iter()
        .flat_map(|node| node.tasks.iter().map(move |task| (node, task)))
        .map(|(node, task)| Task {
            rank: task.rank,
            name: task.name.clone(),
            role: task.role,
            index: task.index,
            node: node.node.clone(),
            gpus: task.gpus.clone(),
            state: TaskState::Waiting,
        })
        .collect();
    tasks.sort_by_key(|task| task.rank);
    tasks
}

fn grant(state: &State, node: &NodeId, gpus: &[GpuUuid]) -> Option<NodeGrant> {
    let facts = &state.nodes.get(node)?.facts;
    Some(NodeGrant {
        node: node.clone(),
        address: facts.address.clone(),
        root: facts.root.clone(),
        gpus: gpus.to_vec(),
        port_space: facts.port_space.clone(),
        base_environment: facts.base_environment.clone(),
        privileged: facts.privileged,
    })
}

/// Ports of every live gang, and those that this job found taken.
fn reserved_ports(state: &State, id: JobId) -> ReservedPorts {
    let mut reserved = ReservedPorts::new();
    for (gang, plan) in
        state.plans.iter().flat_map(|(gang, plans)| plans.iter().map(move |plan| (*gang, plan)))
    {
        if let Some(space) = state.port_space(gang, &plan.node).filter(|_| !mutant!("ports-not-reserved")) {
            reserved.entry(space.clone()).or_default().extend(&plan.ports);
        }
    }
    for taken in state.jobs.get(&id).into_iter().flat_map(|job| &job.taken_ports) {
        reserved.entry(taken.space.clone()).or_default().extend(&taken.ports);
    }
    reserved
}
