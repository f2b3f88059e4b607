//! The life of a gang on this node, from its plan to its release.

use super::Turn;
use super::effect::{Effect, Record};
use super::event::SetupProblem;
use super::fence;
use super::state::{Attempt, Outcome, Phase};
use crate::id::{GangId, Rank};
use crate::plan::NodePlan;
use crate::session::{PrepareFailed, PrepareFailure, Report, TaskEnded};
use crate::unit::{Exit, Port};

pub(super) fn on_prepare(
    turn: &mut Turn<'_>,
    id: GangId,
    plan: NodePlan,
    start_when_prepared: bool,
    lease_ms: u64,
) {
    if turn.state.barred.contains(&id) || turn.state.is_released(id) {
        return say_again(turn, id);
    }
    match turn.state.gangs.get_mut(&id) {
        None => {
            let notes = plan.notes.clone();
            let record = Record::Planned { gang: id, plan: Box::new(plan), start_when_prepared, lease_ms };
            turn.record(record);
            turn.then(Effect::OpenLogs { gang: id });
            turn.note(id, "plan: received");
            for note in notes {
                turn.note(id, format!("plan: {note}"));
            }
            set_up(turn, id);
        }
        Some(gang) if !gang.whole && same_but_secrets(&gang.plan, &plan) => {
            gang.plan = plan;
            gang.whole = true;
            match gang.phase {
                Phase::Awaiting => set_up(turn, id),
                Phase::SettingUp | Phase::Preparation(_) | Phase::Prepared | Phase::Running(_) => {}
                Phase::Closing(_) | Phase::Ended(_) => say_again(turn, id),
            }
        }
        // A plan is never edited: whatever else comes under this id is a repetition.
        Some(_) => say_again(turn, id),
    }
}

/// Secrets are not in the journal: whether they differ cannot be told after a restart.
fn same_but_secrets(held: &NodePlan, sent: &NodePlan) -> bool {
    fn bare(plan: &NodePlan) -> NodePlan {
        let mut plan = plan.clone();
        for command in plan.tasks.iter_mut().map(|task| &mut task.command).chain(&mut plan.preparation) {
            command.secret_env.clear();
        }
        plan
    }
    bare(held) == bare(sent)
}

/// Repeats where the gang stands.
fn say_again(turn: &mut Turn<'_>, id: GangId) {
    let report = match turn.state.gangs.get(&id).map(|gang| &gang.phase) {
        None => Report::GangEnded(id),
        Some(Phase::Prepared) => Report::Prepared(id),
        Some(Phase::Ended(outcome)) => closing_report(id, outcome),
        Some(
            Phase::Awaiting
            | Phase::SettingUp
            | Phase::Preparation(_)
            | Phase::Running(_)
            | Phase::Closing(_),
        ) => {
            return;
        }
    };
    turn.report(report);
}

fn set_up(turn: &mut Turn<'_>, id: GangId) {
    let Some(gang) = turn.state.gangs.get_mut(&id) else { return };
    gang.whole = true;
    gang.phase = Phase::SettingUp;
    let plan = Box::new(gang.plan.clone());
    let held: Vec<&String> = turn.state.gangs.values().map(|gang| &gang.plan.job_temp).collect();
    let mut stale_temp = false;
    let mut wipe = Vec::new();
    for released in
        turn.state.released.iter().filter(|released| !released.wiped && !released.job_temp.is_empty())
    {
        if released.job_temp == plan.job_temp {
            // A job that bore the same name; a further gang of the same job finds what the last one left.
            stale_temp |= released.gang.job != id.job;
        } else if !held.contains(&&released.job_temp) && !wipe.contains(&released.job_temp) {
            wipe.push(released.job_temp.clone());
        }
    }
    if stale_temp {
        turn.record(Record::Wiped { job_temps: vec![plan.job_temp.clone()] });
    }
    if !wipe.is_empty() {
        turn.then(Effect::Wipe { job_temps: wipe });
    }
    turn.then(Effect::SetUp { gang: id, plan, stale_temp });
}

pub(super) fn on_set_up(turn: &mut Turn<'_>, id: GangId, problem: Option<SetupProblem>) {
    let Some(gang) = turn.state.gangs.get(&id).filter(|gang| matches!(gang.phase, Phase::SettingUp)) else {
        return;
    };
    let std_dir = gang.plan.std_dir.clone();
    let (stopped, done) = (gang.stop.is_some(), gang.preparation_done || gang.plan.preparation.is_none());
    turn.then(Effect::Mirror { gang: id, std_dir });
    match problem {
        _ if stopped => over(turn, id, None),
        Some(problem) => over(turn, id, Some(setup_failed(id, problem))),
        None if done => prepared(turn, id),
        None => start_preparation(turn, id),
    }
}

fn setup_failed(gang: GangId, problem: SetupProblem) -> PrepareFailed {
    match problem {
        SetupProblem::Failed(message) => PrepareFailed { gang, kind: PrepareFailure::Setup, message },
        SetupProblem::Preflight(message) => PrepareFailed { gang, kind: PrepareFailure::Preflight, message },
        SetupProblem::PortsTaken(ports) => {
            let list: Vec<String> = ports.iter().map(Port::to_string).collect();
            let message = format!("these ports are taken: {}", list.join(", "));
            PrepareFailed { gang, kind: PrepareFailure::PortsTaken(ports), message }
        }
    }
}

fn start_preparation(turn: &mut Turn<'_>, id: GangId) {
    let Some(command) = turn.state.gangs.get(&id).and_then(|gang| gang.plan.preparation.clone()) else {
        return;
    };
    if !lease_is_alive(turn, id) {
        let message = "the lease of this node ran out before the preparation could start".to_owned();
        return over(turn, id, Some(PrepareFailed { gang: id, kind: PrepareFailure::Setup, message }));
    }
    turn.record(Record::PreparationIntended(id));
    turn.note(id, "preparation: starting");
    let fence_boot_ms = set_fence(turn, id);
    turn.then(Effect::Launch {
        attempt: id.attempt(Rank::PREPARATION),
        command: Box::new(command),
        fence_boot_ms,
    });
}

/// The preparation's command has ended, now or while no agent ran.
pub(super) fn after_preparation(turn: &mut Turn<'_>, id: GangId, ended: &TaskEnded) {
    let Some(gang) = turn.state.gangs.get(&id) else { return };
    let (stopped, whole) = (gang.stop.is_some(), gang.whole);
    match preparation_failure(ended) {
        _ if stopped => over(turn, id, None),
        Some(kind) => {
            let mut message = format!("the job preparation failed: {}", how(ended));
            if !ended.stderr_tail.is_empty() {
                message = format!("{message}\n{}", ended.stderr_tail);
            }
            over(turn, id, Some(PrepareFailed { gang: id, kind, message }));
        }
        None => {
            turn.record(Record::PreparationDone(id));
            if whole || mutant!("starts-without-secrets") {
                prepared(turn, id);
            }
        }
    }
}

fn preparation_failure(ended: &TaskEnded) -> Option<PrepareFailure> {
    use crate::session::EndCause;
    match (ended.cause, ended.exit) {
        (EndCause::Itself, exit) if exit.is_success() => None,
        (EndCause::Fenced | EndCause::Lost | EndCause::Unkillable, _) => Some(PrepareFailure::Setup),
        (EndCause::NotStarted, Exit::Unknown) => Some(PrepareFailure::Setup),
        (EndCause::Itself | EndCause::Stopped | EndCause::Oom | EndCause::NotStarted, exit) => {
            Some(PrepareFailure::Command(exit))
        }
    }
}

/// How an attempt ended, in words.
pub(super) fn how(ended: &TaskEnded) -> String {
    use crate::session::EndCause;
    let cause = match ended.cause {
        EndCause::Itself => "",
        EndCause::Stopped => ", stopped",
        EndCause::Fenced => ", lease fenced: nothing was heard of the coordinator in time",
        EndCause::Oom => ", out of memory",
        EndCause::NotStarted => ", never started",
        EndCause::Lost => ", lost",
        EndCause::Unkillable => ", survived SIGKILL",
    };
    let message = if ended.message.is_empty() { String::new() } else { format!(": {}", ended.message) };
    format!("{}{cause}{message}", ended.exit)
}

fn prepared(turn: &mut Turn<'_>, id: GangId) {
    let Some(gang) = turn.state.gangs.get_mut(&id) else { return };
    gang.phase = Phase::Prepared;
    let start = (gang.start_when_prepared && !gang.lapsed) || gang.start_wanted;
    turn.note(id, "prepared");
    // A gang whose lease ran out meanwhile may run elsewhere: only a fresh word starts it.
    if start && lease_is_alive(turn, id) {
        start_tasks(turn, id);
    } else {
        turn.report(Report::Prepared(id));
    }
}

fn lease_is_alive(turn: &Turn<'_>, id: GangId) -> bool {
    fence::fence(turn.state, id).is_none_or(|fence_boot_ms| turn.now.boot_ms < fence_boot_ms)
}

pub(super) fn on_start(turn: &mut Turn<'_>, id: GangId) {
    let Some(gang) = turn.state.gangs.get_mut(&id) else { return };
    match gang.phase {
        Phase::Prepared => start_tasks(turn, id),
        // The agent was restarted after it had said `prepared`.
        Phase::Awaiting | Phase::SettingUp | Phase::Preparation(_) => gang.start_wanted = true,
        Phase::Running(_) if mutant!("started-twice") => start_tasks(turn, id),
        Phase::Running(_) | Phase::Closing(_) | Phase::Ended(_) => {}
    }
}

fn start_tasks(turn: &mut Turn<'_>, id: GangId) {
    turn.record(Record::StartIntended(id));
    let fence_boot_ms = set_fence(turn, id);
    let Some(gang) = turn.state.gangs.get(&id) else { return };
    let tasks: Vec<_> = gang.plan.tasks.iter().map(|task| (task.rank, task.command.clone())).collect();
    for (rank, command) in tasks {
        turn.then(Effect::Launch { attempt: id.attempt(rank), command: Box::new(command), fence_boot_ms });
    }
    end_if_nothing_runs(turn, id);
}

fn set_fence(turn: &mut Turn<'_>, id: GangId) -> Option<u64> {
    let fence_boot_ms = fence::fence(turn.state, id);
    if fence_boot_ms.is_some() {
        fence::note_contact(turn, 0);
    }
    if let Some(gang) = turn.state.gangs.get_mut(&id) {
        gang.fence_boot_ms = fence_boot_ms.unwrap_or(0);
    }
    fence_boot_ms
}

pub(super) fn on_stop(turn: &mut Turn<'_>, id: GangId, grace_ms: u64, reason: String) {
    let Some(gang) = turn.state.gangs.get(&id) else {
        if !turn.state.is_released(id) && !turn.state.barred.contains(&id) {
            turn.record(Record::Barred(id));
        }
        turn.report(Report::GangEnded(id));
        return;
    };
    match &gang.phase {
        Phase::Ended(_) => return turn.report(Report::GangEnded(id)),
        Phase::Closing(_) => return,
        Phase::Awaiting | Phase::SettingUp | Phase::Preparation(_) | Phase::Prepared | Phase::Running(_) => {}
    }
    // A second, more urgent Stop is passed on.
    if gang.stop.is_none_or(|held| grace_ms < held) {
        turn.note(id, format!("stop: {reason}"));
        turn.record(Record::Stopping { gang: id, grace_ms });
        carry_out_stop(turn, id);
    }
}

/// Ends what runs. What is just being launched is ended as soon as that is done.
pub(super) fn carry_out_stop(turn: &mut Turn<'_>, id: GangId) {
    let Some(gang) = turn.state.gangs.get(&id) else { return };
    let Some(grace_ms) = gang.stop else { return };
    match &gang.phase {
        Phase::Awaiting | Phase::Prepared => over(turn, id, None),
        Phase::SettingUp | Phase::Closing(_) | Phase::Ended(_) => {}
        Phase::Preparation(_) | Phase::Running(_) => {
            let running: Vec<Rank> = gang
                .attempts()
                .into_iter()
                .filter(|(_, attempt)| matches!(attempt, Attempt::Running { .. }))
                .map(|(rank, _)| rank)
                .collect();
            for rank in running {
                turn.then(Effect::Stop { attempt: id.attempt(rank), grace_ms });
            }
        }
    }
}

pub(super) fn end_if_nothing_runs(turn: &mut Turn<'_>, id: GangId) {
    let Some(Phase::Running(attempts)) = turn.state.gangs.get(&id).map(|gang| &gang.phase) else { return };
    let ended = |attempt: &Attempt| matches!(attempt, Attempt::Ended { .. });
    if attempts.values().all(ended)
        || (mutant!("gang-ends-with-its-first-task") && attempts.values().any(ended))
    {
        over(turn, id, None);
    }
}

fn over(turn: &mut Turn<'_>, id: GangId, prepare_failed: Option<PrepareFailed>) {
    if let Some(failed) = &prepare_failed {
        turn.note(id, format!("not started: {}", failed.message));
    }
    turn.record(Record::Over { gang: id, prepare_failed });
    let stuck = turn.state.stuck.iter().filter(|attempt| attempt.gang_id() == id).count();
    if stuck == 0 {
        turn.note(id, "ended: nothing of this job runs on this node any more");
    } else {
        turn.note(id, format!("ended, but {stuck} of its attempts survived SIGKILL: this node takes no work until they are gone"));
    }
    turn.then(Effect::CloseLogs { gang: id });
}

pub(super) fn on_logs_closed(turn: &mut Turn<'_>, id: GangId) {
    let Some(gang) = turn.state.gangs.get_mut(&id) else { return };
    let Phase::Closing(outcome) = &gang.phase else { return };
    let outcome = outcome.clone();
    let report = closing_report(id, &outcome);
    gang.phase = Phase::Ended(outcome);
    turn.report(report);
}

fn closing_report(id: GangId, outcome: &Outcome) -> Report {
    match &outcome.prepare_failed {
        Some(failed) => Report::PrepareFailed(failed.clone()),
        None => Report::GangEnded(id),
    }
}

pub(super) fn on_release(turn: &mut Turn<'_>, id: GangId) {
    if turn.state.barred.contains(&id) {
        let record =
            Record::Released { gang: id, job_temp: String::new(), directories: Vec::new(), wiped: true };
        turn.record(record);
        return turn.then(Effect::CleanUp { gang: id, plan: None, attempts: Vec::new() });
    }
    let Some(gang) = turn.state.gangs.get(&id) else { return };
    let Phase::Ended(outcome) = &gang.phase else { return };
    let mut attempts: Vec<_> = outcome.attempts.keys().map(|rank| id.attempt(*rank)).collect();
    if gang.plan.preparation.is_some() {
        attempts.push(id.attempt(Rank::PREPARATION));
    }
    // What is stuck is watched on, and forgotten once it is gone.
    attempts.retain(|attempt| !turn.state.stuck.contains(attempt));
    let plan = Box::new(gang.plan.clone());
    let directories = gang.served_directories();
    turn.record(Record::Released { gang: id, job_temp: plan.job_temp.clone(), directories, wiped: false });
    turn.then(Effect::CleanUp { gang: id, plan: Some(plan), attempts });
}
