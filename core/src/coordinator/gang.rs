//! The life of a gang: what its nodes report, when its outcome is decided, and what follows.

use std::collections::BTreeMap;

use serde_json::json;

use super::drain::{self, FaultKind};
use super::effect::Step;
use super::event::Now;
use super::job;
use super::reason::{EndReason, Fault};
use super::state::{Gang, Job, JobPhase, Node, NodePhase, State, Task, TaskState};
use crate::id::{AttemptId, GangId, JobId, NodeId};
use crate::plan::task::Role;
use crate::session::{Command, EndCause, PrepareFailed, PrepareFailure, TaskEnded};
use crate::unit::{Exit, WallMs};

/// Pauses before another try, in ms: doubled from the first to the last.
const BACK_OFF_MS: (u64, u64) = (1_000, 60_000);
/// A gang that has lived so long ends the row of infrastructure faults before it, ms.
const FAULTS_FORGOTTEN_MS: u64 = 60 * 60 * 1000;

/// The live gang of this id, if it is live and has this node.
pub(super) fn live<'a>(state: &'a mut State, id: GangId, node: &NodeId) -> Option<&'a mut Gang> {
    let job = state.jobs.get_mut(&id.job)?;
    match &mut job.phase {
        JobPhase::Active(gang) if gang.id == id && gang.nodes.iter().any(|n| n.node == *node) => Some(gang),
        JobPhase::Active(_) | JobPhase::Queued { .. } | JobPhase::Ended { .. } => None,
    }
}

pub(super) fn on_prepared(state: &mut State, id: GangId, node: &NodeId, step: &mut Step) {
    let Some(gang) = live(state, id, node) else { return };
    let told = gang.nodes.iter().any(|n| n.node == *node && n.phase == NodePhase::Started);
    if told && gang.outcome.is_none() {
        // Its agent was restarted before the Start reached it, and has prepared again.
        state.send(node, Command::Start(id), step);
        return;
    }
    advance(gang, node, NodePhase::Prepared);
    let start = (gang.all_prepared() || mutant!("gang-starts-half")) && gang.outcome.is_none();
    state.touch(id.job);
    if start {
        start_all(state, id, step);
    }
}

/// Tells every node that is prepared and not started to start.
pub(super) fn start_all(state: &mut State, id: GangId, step: &mut Step) {
    let Some(JobPhase::Active(gang)) = state.jobs.get_mut(&id.job).map(|job| &mut job.phase) else { return };
    let mut nodes = Vec::new();
    for node in gang.nodes.iter_mut().filter(|n| n.phase == NodePhase::Prepared) {
        node.phase = NodePhase::Started;
        nodes.push(node.node.clone());
    }
    state.touch(id.job);
    for node in nodes {
        state.send(&node, Command::Start(id), step);
    }
}

pub(super) fn on_prepare_failed(
    state: &mut State,
    now: Now,
    node: &NodeId,
    failed: PrepareFailed,
    step: &mut Step,
) {
    let id = failed.gang;
    let Some(gang) = live(state, id, node) else { return };
    has_ended(gang, node);
    let node = node.clone();
    let (outcome, fault) = match failed.kind {
        PrepareFailure::Command(exit) => {
            (EndReason::PreparationFailed { node: node.clone(), exit, message: failed.message }, None)
        }
        PrepareFailure::Setup => {
            (EndReason::SetupFailed { node: node.clone(), message: failed.message }, Some(FaultKind::PerJob))
        }
        PrepareFailure::PortsTaken(ports) => (EndReason::PortsTaken { node: node.clone(), ports }, None),
        PrepareFailure::Preflight => (
            EndReason::PreflightFailed { node: node.clone(), message: failed.message },
            Some(FaultKind::PerJob),
        ),
    };
    if let Some(kind) = fault {
        drain::note_fault(state, now, &node, id.job, kind, &headline(&outcome), step);
    }
    decide(state, now, id.job, outcome, step);
}

pub(super) fn on_started(
    state: &mut State,
    now: Now,
    node: &NodeId,
    attempt: AttemptId,
    pid: u32,
    at: WallMs,
    step: &mut Step,
) {
    let Some(gang) = live(state, attempt.gang_id(), node) else { return };
    advance(gang, node, NodePhase::Started);
    let Some(task) = gang.tasks.iter_mut().find(|t| t.rank == attempt.rank && t.node == *node) else {
        return;
    };
    match task.state {
        TaskState::Waiting => task.state = TaskState::Running { pid, at },
        TaskState::Running { .. } | TaskState::Ended(_) => return,
    }
    let detail = json!({ "task": task.name, "pid": pid });
    state.touch(attempt.job);
    state.journal(now, "taskStarted", attempt.job, Some(node), detail, step);
}

/// Idempotent: the first end of a task is kept.
pub(super) fn on_task_ended(state: &mut State, now: Now, node: &NodeId, ended: TaskEnded, step: &mut Step) {
    let id = ended.attempt.gang_id();
    let rank = ended.attempt.rank;
    let Some(gang) = live(state, id, node) else { return };
    advance(gang, node, NodePhase::Started);
    let Some(task) = gang.tasks.iter_mut().find(|t| t.rank == rank && t.node == *node) else { return };
    match task.state {
        TaskState::Waiting | TaskState::Running { .. } => {}
        TaskState::Ended(ref kept) => {
            let conflict = (kept.exit, kept.cause) != (ended.exit, ended.cause);
            if conflict {
                let detail = json!({
                    "task": task.name,
                    "kept": { "exit": kept.exit, "cause": kept.cause },
                    "said": { "exit": ended.exit, "cause": ended.cause },
                });
                state.journal(now, "taskEndConflict", id.job, Some(node), detail, step);
            }
            return;
        }
    }
    let outcome = failure(&task.name, &task.role, node, &ended);
    let detail = json!({ "task": task.name, "exit": ended.exit, "cause": ended.cause });
    task.state = TaskState::Ended(ended);
    let outcome = outcome.or_else(|| gang_has_succeeded(gang).then_some(EndReason::Succeeded));
    state.touch(id.job);
    state.journal(now, "taskEnded", id.job, Some(node), detail, step);
    if let Some(outcome) = outcome {
        decide(state, now, id.job, outcome, step);
    }
}

/// What a task's end means for its gang, if it is a failure.
fn failure(task: &str, role: &Role, node: &NodeId, ended: &TaskEnded) -> Option<EndReason> {
    let node = node.clone();
    let lost = |message: &str| {
        Some(EndReason::NodeLost { node: node.clone(), message: format!("task {task}: {message}") })
    };
    match ended.cause {
        EndCause::Itself | EndCause::Stopped if ended.exit.is_success() => None,
        EndCause::Itself | EndCause::Stopped | EndCause::Oom => Some(EndReason::TaskFailed {
            task: task.to_owned(),
            node,
            exit: ended.exit,
            out_of_memory: ended.cause == EndCause::Oom,
            stderr_tail: ended.stderr_tail.clone(),
        }),
        EndCause::NotStarted => {
            let (task, message) = (task.to_owned(), ended.message.clone());
            Some(EndReason::TaskNotStarted { task, node, exit: ended.exit, message })
        }
        EndCause::Fenced => lost("its lease ran out"),
        EndCause::Lost if *role == Role::ParameterServer || ended.exit != Exit::Code(0) => {
            lost("nobody saw its exit")
        }
        EndCause::Lost => None,
        EndCause::Unkillable => lost("it survived SIGKILL; its node takes no work until it is gone"),
    }
}

/// All that train have exited 0; parameter servers never end by themselves.
fn gang_has_succeeded(gang: &Gang) -> bool {
    gang.tasks.iter().filter(|task| task.role != Role::ParameterServer).all(|task| match &task.state {
        TaskState::Ended(ended) => ended.exit.is_success(),
        TaskState::Waiting | TaskState::Running { .. } => false,
    })
}

pub(super) fn on_gang_ended(state: &mut State, now: Now, id: GangId, node: &NodeId, step: &mut Step) {
    let Some(gang) = live(state, id, node) else { return };
    has_ended(gang, node);
    state.touch(id.job);
    settle(state, now, id.job, step);
}

/// The node lost what it ran, or is counted as lost.
pub(super) fn lose_node(
    state: &mut State,
    now: Now,
    id: GangId,
    node: &NodeId,
    message: &str,
    step: &mut Step,
) {
    let Some(gang) = live(state, id, node) else { return };
    advance(gang, node, NodePhase::Lost);
    for task in gang.tasks.iter_mut().filter(|t| t.node == *node) {
        let started = match task.state {
            TaskState::Waiting => WallMs(0),
            TaskState::Running { at, .. } => at,
            TaskState::Ended(_) => continue,
        };
        task.state = TaskState::Ended(TaskEnded {
            attempt: id.attempt(task.rank),
            exit: Exit::Unknown,
            cause: EndCause::Lost,
            started,
            ended: now.wall,
            stderr_tail: String::new(),
            message: message.to_owned(),
        });
    }
    let outcome = EndReason::NodeLost { node: node.clone(), message: message.to_owned() };
    decide(state, now, id.job, outcome, step);
}

/// A task that runs on a GPU which has become faulty ends by the infrastructure's fault.
///
/// While NVML does not answer, nothing is known of any GPU, and what runs goes on.
pub(super) fn end_on_lost_gpu(state: &mut State, now: Now, node: &NodeId, step: &mut Step) {
    let Some(id) = state.nodes.get(node).and_then(|node| node.gang) else { return };
    let Some(JobPhase::Active(gang)) = state.jobs.get(&id.job).map(|job| &job.phase) else { return };
    if gang.id != id || gang.outcome.is_some() {
        return;
    }
    let tasks = gang.tasks.iter().filter(|task| task.node == *node);
    let lost = tasks
        .filter(|task| match task.state {
            TaskState::Waiting | TaskState::Running { .. } => true,
            TaskState::Ended(_) => false,
        })
        .find_map(|task| lost_gpu(&state.nodes, task));
    if let Some(outcome) = lost {
        drain::note_fault(state, now, node, id.job, FaultKind::OfNode, &headline(&outcome), step);
        decide(state, now, id.job, outcome, step);
    }
}

fn lost_gpu(nodes: &BTreeMap<NodeId, Node>, task: &Task) -> Option<EndReason> {
    let facts = nodes.get(&task.node).map(|node| &node.facts).filter(|facts| facts.gpu_problem.is_empty())?;
    let gpu = facts.gpus.iter().find(|gpu| !gpu.fault.is_empty() && task.gpus.contains(&gpu.uuid))?;
    Some(EndReason::GpuLost {
        node: task.node.clone(),
        gpu: gpu.uuid.clone(),
        task: task.name.clone(),
        fault: gpu.fault.clone(),
    })
}

/// A task that failed because its GPU did: its exit may be heard of before the fault.
fn blame_gpu(nodes: &BTreeMap<NodeId, Node>, tasks: &[Task], outcome: EndReason) -> EndReason {
    if let EndReason::TaskFailed { task, node, .. } = &outcome
        && let Some(lost) = tasks
            .iter()
            .find(|entry| entry.name == *task && entry.node == *node)
            .and_then(|task| lost_gpu(nodes, task))
    {
        return lost;
    }
    outcome
}

/// Settles why the gang ends, once, and ends what still runs of it.
pub(super) fn decide(state: &mut State, now: Now, job: JobId, outcome: EndReason, step: &mut Step) {
    let Some(JobPhase::Active(gang)) = state.jobs.get_mut(&job).map(|job| &mut job.phase) else { return };
    if gang.outcome.is_none() {
        gang.outcome = Some(outcome);
        if !mutant!("failure-stops-nothing") {
            stop_all(state, job, step);
        }
    }
    state.touch(job);
    settle(state, now, job, step);
}

fn stop_all(state: &mut State, job: JobId, step: &mut Step) {
    let Some(JobPhase::Active(gang)) = state.jobs.get(&job).map(|job| &job.phase) else { return };
    let nodes: Vec<NodeId> =
        gang.nodes.iter().filter(|n| !n.phase.is_over()).map(|n| n.node.clone()).collect();
    let id = gang.id;
    for node in nodes {
        stop(state, id, &node, step);
    }
}

/// Tells one node to end the gang, with the reason that is decided.
pub(super) fn stop(state: &mut State, id: GangId, node: &NodeId, step: &mut Step) {
    let reason = match state.jobs.get(&id.job).map(|job| &job.phase) {
        Some(JobPhase::Active(gang)) if gang.id == id => {
            gang.outcome.as_ref().map(headline).unwrap_or_default()
        }
        Some(_) | None => "the coordinator no longer wants it".to_owned(),
    };
    let grace_ms = state.config.stop_grace_ms;
    state.send(node, Command::Stop { gang: id, grace_ms, reason }, step);
}

fn headline(reason: &EndReason) -> String {
    reason.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Once nothing of a gang runs anywhere, its job ends or waits for the next gang.
fn settle(state: &mut State, now: Now, id: JobId, step: &mut Step) {
    let Some(job) = state.jobs.get_mut(&id) else { return };
    let JobPhase::Active(gang) = &mut job.phase else { return };
    let waits = gang.nodes.iter().any(|n| !n.phase.is_over());
    if waits && !(mutant!("nodes-freed-early") && gang.outcome.is_some()) {
        return;
    }
    let gang_id = gang.id;
    let limit_ms = job.spec.constraints.max_wall_clock_time.as_millis().try_into().unwrap_or(u64::MAX);
    let ran_ms = now.tick.plus_ms(limit_ms).0.saturating_sub(gang.deadline.0);
    let outcome = gang.outcome.clone().unwrap_or_else(|| EndReason::NodeLost {
        node: gang.nodes[0].node.clone(),
        message: "every process ended, and none said why".to_owned(),
    });
    let outcome = blame_gpu(&state.nodes, &gang.tasks, outcome);
    gang.outcome = Some(outcome.clone());
    let nodes: Vec<(NodeId, NodePhase)> = gang.nodes.iter().map(|n| (n.node.clone(), n.phase)).collect();
    job.history.push((gang_id.gang, outcome.clone()));
    for (node, phase) in &nodes {
        if let Some(node) = state.nodes.get_mut(node).filter(|n| n.gang == Some(gang_id)) {
            node.gang = None;
        }
        // A lost node is told once it is back and has said that it holds nothing more of the gang.
        if *phase == NodePhase::Ended {
            state.send(node, Command::Release(gang_id), step);
        }
    }
    state.plans.remove(&gang_id);
    state.placement_due = true;
    state.changed = true;
    match next_try(state, id, ran_ms, &outcome) {
        Next::End => job::end(state, now, id, outcome, step),
        Next::Terminated => job::end(state, now, id, EndReason::Terminated, step),
        Next::Again { after_ms } => requeue(state, now, id, &outcome, after_ms, step),
    }
}

enum Next {
    End,
    Terminated,
    Again { after_ms: u64 },
}

fn next_try(state: &mut State, id: JobId, ran_ms: u64, outcome: &EndReason) -> Next {
    let tries = state.config.infrastructure_tries;
    let spaces = port_space_of(state, outcome);
    let Some(job) = state.jobs.get_mut(&id) else { return Next::End };
    if job.cancelled && *outcome != EndReason::Succeeded && !mutant!("requeued-though-cancelled") {
        return Next::Terminated;
    }
    match outcome.fault() {
        Fault::Final => Next::End,
        Fault::User if job.retries_used < job.spec.retries => {
            job.retries_used += 1;
            Next::Again { after_ms: back_off(job.retries_used) }
        }
        Fault::User => Next::End,
        Fault::Infrastructure => {
            if ran_ms >= FAULTS_FORGOTTEN_MS {
                job.infrastructure_faults = 0;
            }
            job.infrastructure_faults += 1;
            job.retries_used += u32::from(mutant!("infrastructure-uses-retries"));
            if let Some(node) = outcome.unfit_node()
                && !job.avoid.contains(node)
            {
                job.avoid.push(node.clone());
            }
            if job.infrastructure_faults >= tries {
                return Next::End;
            }
            if let (EndReason::PortsTaken { ports, .. }, Some(space)) = (outcome, spaces) {
                avoid(job, space, ports);
                return Next::Again { after_ms: 0 };
            }
            Next::Again { after_ms: back_off(job.infrastructure_faults) }
        }
    }
}

fn port_space_of(state: &State, outcome: &EndReason) -> Option<crate::plan::PortSpace> {
    match outcome {
        EndReason::PortsTaken { node, .. } => state.nodes.get(node).map(|n| n.facts.port_space.clone()),
        EndReason::Succeeded
        | EndReason::TaskFailed { .. }
        | EndReason::TaskNotStarted { .. }
        | EndReason::PreparationFailed { .. }
        | EndReason::SetupFailed { .. }
        | EndReason::NodeLost { .. }
        | EndReason::GpuLost { .. }
        | EndReason::PreflightFailed { .. }
        | EndReason::NotBuilt { .. }
        | EndReason::PlanFailed { .. }
        | EndReason::Terminated
        | EndReason::WallClockExceeded { .. } => None,
    }
}

fn avoid(job: &mut Job, space: crate::plan::PortSpace, ports: &[crate::unit::Port]) {
    match job.taken_ports.iter_mut().find(|t| t.space == space) {
        Some(taken) => taken.ports.extend(ports),
        None => {
            job.taken_ports.push(super::state::TakenPorts { space, ports: ports.iter().copied().collect() })
        }
    }
}

fn back_off(tries: u32) -> u64 {
    BACK_OFF_MS.0.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(BACK_OFF_MS.1)
}

fn requeue(state: &mut State, now: Now, id: JobId, outcome: &EndReason, after_ms: u64, step: &mut Step) {
    let Some(job) = state.jobs.get_mut(&id) else { return };
    let not_before = (after_ms > 0).then(|| now.tick.plus_ms(after_ms));
    job.phase = JobPhase::Queued { not_before };
    job.transition = now.wall;
    let job = job.clone();
    state.enqueue(&job);
    state.touch(id);
    state.journal(now, "jobRequeued", id, None, json!({ "afterMs": after_ms, "reason": outcome }), step);
}

pub(super) fn expire_deadlines(state: &mut State, now: Now, step: &mut Step) {
    let late: Vec<(JobId, String)> = state
        .jobs
        .values()
        .filter_map(|job| match &job.phase {
            JobPhase::Active(gang) if gang.outcome.is_none() && gang.deadline <= now.tick => {
                let limit = job.spec.constraints.max_wall_clock_time;
                Some((job.id, crate::spec::job::iso_duration::print(limit)))
            }
            JobPhase::Active(_) | JobPhase::Queued { .. } | JobPhase::Ended { .. } => None,
        })
        .collect();
    for (id, limit) in late {
        decide(state, now, id, EndReason::WallClockExceeded { limit }, step);
    }
}

/// Also from `Lost`: now it is known, and the node can be told to forget the gang.
fn has_ended(gang: &mut Gang, node: &NodeId) {
    if let Some(entry) = gang.nodes.iter_mut().find(|n| n.node == *node) {
        entry.phase = NodePhase::Ended;
    }
}

/// A node's phase only goes forward.
pub(super) fn advance(gang: &mut Gang, node: &NodeId, phase: NodePhase) {
    if let Some(entry) = gang.nodes.iter_mut().find(|n| n.node == *node) {
        entry.phase = entry.phase.max(phase);
    }
}
