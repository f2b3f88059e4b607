//! The life of an attempt: launched, ended, acknowledged.

use super::Turn;
use super::effect::{Effect, Record};
use super::gang;
use super::state::{Attempt, Gang, Phase};
use crate::id::{AttemptId, Rank};
use crate::plan::Command;
use crate::session::{Report, TaskEnded};
use crate::unit::WallMs;

pub(super) fn on_launched(turn: &mut Turn<'_>, attempt: AttemptId, pid: u32, at: WallMs) {
    match turn.state.attempt(attempt) {
        Some(Attempt::Launching) => {}
        Some(Attempt::Running { .. } | Attempt::Ended { .. }) | None => return,
    }
    turn.record(Record::Started { attempt, pid, at });
    let id = attempt.gang_id();
    if let Some(gang) = turn.state.gangs.get_mut(&id) {
        let text = started_note(gang, attempt, pid);
        if attempt.rank != Rank::PREPARATION {
            turn.report(Report::Started { attempt, pid, at });
        }
        turn.note(id, text);
        // The fence moved while this one was being launched.
        super::fence::renew(turn, id);
        stop_late(turn, attempt);
    }
}

/// A Stop that came during the launch.
pub(super) fn stop_late(turn: &mut Turn<'_>, attempt: AttemptId) {
    let gang = turn.state.gangs.get(&attempt.gang_id()).filter(|_| !mutant!("stop-during-launch-forgotten"));
    if let Some(grace_ms) = gang.and_then(|gang| gang.stop) {
        turn.then(Effect::Stop { attempt, grace_ms });
    }
}

fn started_note(gang: &Gang, attempt: AttemptId, pid: u32) -> String {
    let Some((name, command, gpus)) = program(gang, attempt.rank) else {
        return format!("attempt {attempt}: started, pid {pid}");
    };
    let gpus = if gpus.is_empty() { String::new() } else { format!(", GPUs {}", gpus.join(" ")) };
    // The environment is not shown: it may hold what its owner does not want in a log.
    format!("{name}: started, pid {pid}{gpus}, command {:?}", command.argv)
}

fn program(gang: &Gang, rank: Rank) -> Option<(&str, &Command, Vec<&str>)> {
    if rank == Rank::PREPARATION {
        return Some(("preparation", gang.plan.preparation.as_ref()?, Vec::new()));
    }
    let task = gang.plan.tasks.iter().find(|task| task.rank == rank)?;
    Some((&task.name, &task.command, task.gpus.iter().map(|gpu| gpu.0.as_str()).collect()))
}

/// It survives SIGKILL. To its gang it has ended; the node takes no other work until it is gone.
pub(super) fn on_stuck(turn: &mut Turn<'_>, ended: TaskEnded) {
    let id = ended.attempt;
    match turn.state.attempt(id) {
        Some(Attempt::Launching | Attempt::Running { .. }) if !turn.state.stuck.contains(&id) => {}
        // It is said again after each restart of the agent.
        Some(Attempt::Launching | Attempt::Running { .. } | Attempt::Ended { .. }) | None => return,
    }
    turn.record(Record::Stuck(id));
    // Before the end, in one message: nobody may think in between that the node is free.
    turn.report(Report::Stuck(id));
    settle(turn, ended);
}

/// Nothing is left of an attempt that was stuck.
pub(super) fn gone(turn: &mut Turn<'_>, id: AttemptId) {
    turn.record(Record::Gone(id));
    turn.report(Report::Gone(id));
    let gang = id.gang_id();
    if turn.state.gangs.contains_key(&gang) {
        turn.note(gang, format!("attempt {id}: gone at last"));
    } else {
        // Its gang was cleaned up without it.
        turn.then(Effect::CleanUp { gang, plan: None, attempts: vec![id] });
    }
}

pub(super) fn on_ended(turn: &mut Turn<'_>, ended: TaskEnded) {
    if turn.state.stuck.contains(&ended.attempt) {
        return gone(turn, ended.attempt);
    }
    settle(turn, ended);
}

fn settle(turn: &mut Turn<'_>, ended: TaskEnded) {
    match turn.state.attempt(ended.attempt) {
        Some(Attempt::Launching | Attempt::Running { .. }) => {}
        // The first end is kept.
        Some(Attempt::Ended { .. }) | None => return,
    }
    let id = ended.attempt.gang_id();
    turn.record(Record::Ended(Box::new(ended.clone())));
    let Some(gang) = turn.state.gangs.get(&id) else { return };
    if let Some((name, command, _)) = program(gang, ended.attempt.rank) {
        let files = vec![command.stdout.clone(), command.stderr.clone()];
        let text = format!("{name}: ended with {}{}", gang::how(&ended), duration(&ended));
        turn.note(id, text);
        turn.then(Effect::EndLogs { gang: id, files });
    }
    if ended.attempt.rank == Rank::PREPARATION {
        gang::after_preparation(turn, id, &ended);
    } else {
        turn.report(Report::Ended(ended));
        gang::end_if_nothing_runs(turn, id);
    }
}

fn duration(ended: &TaskEnded) -> String {
    let ms = ended.ended.0.saturating_sub(ended.started.0);
    if ended.started.0 == 0 || ms < 0 {
        String::new()
    } else {
        format!(", after {}.{:03} s", ms / 1000, ms % 1000)
    }
}

pub(super) fn on_acked(turn: &mut Turn<'_>, attempts: Vec<AttemptId>) {
    let news: Vec<AttemptId> = attempts
        .into_iter()
        .filter(|attempt| matches!(turn.state.attempt(*attempt), Some(Attempt::Ended { acked: false, .. })))
        .collect();
    if !news.is_empty() {
        turn.record(Record::Acked(news));
    }
}

/// What of this gang an earlier agent launched, or meant to, and of which no end is known.
pub(super) fn open_attempts(gang: &Gang) -> Vec<Rank> {
    let open = |attempt: &Attempt| matches!(attempt, Attempt::Launching | Attempt::Running { .. });
    match &gang.phase {
        Phase::Preparation(attempt) => open(attempt).then_some(Rank::PREPARATION).into_iter().collect(),
        Phase::Running(attempts) => {
            attempts.iter().filter(|(_, attempt)| open(attempt)).map(|(rank, _)| *rank).collect()
        }
        Phase::Awaiting | Phase::SettingUp | Phase::Prepared | Phase::Closing(_) | Phase::Ended(_) => {
            Vec::new()
        }
    }
}
