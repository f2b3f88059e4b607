//! After a restart of the agent: what still runs is kept, what ended meanwhile is reported.

use super::Turn;
use super::attempt;
use super::effect::{Effect, Record};
use super::event::Found;
use super::gang;
use super::state::{Attempt, Phase};
use crate::id::{AttemptId, GangId, Rank};
use crate::session::{EndCause, TaskEnded};
use crate::unit::{Exit, WallMs};

pub(super) fn on_restarted(turn: &mut Turn<'_>, boot_id: String) {
    if turn.state.boot_id != boot_id {
        let rebooted = !turn.state.boot_id.is_empty();
        turn.record(Record::Booted { boot_id });
        if rebooted {
            let held: Vec<GangId> = turn.state.gangs.keys().copied().collect();
            held.into_iter().for_each(|id| turn.note(id, "node: it was rebooted"));
        }
    }
    let stuck: Vec<AttemptId> = turn.state.stuck.iter().copied().collect();
    for attempt in stuck {
        turn.then(Effect::Adopt { attempt });
    }
    let held: Vec<GangId> = turn.state.gangs.keys().copied().collect();
    for id in held {
        turn.then(Effect::OpenLogs { gang: id });
        resume(turn, id);
    }
}

fn resume(turn: &mut Turn<'_>, id: GangId) {
    let Some(gang) = turn.state.gangs.get(&id) else { return };
    let std_dir = gang.plan.std_dir.clone();
    let open = attempt::open_attempts(gang);
    match &gang.phase {
        // The coordinator sends the plan again; the mirror starts with the setup.
        Phase::Awaiting | Phase::SettingUp | Phase::Prepared => gang::carry_out_stop(turn, id),
        Phase::Preparation(Attempt::Ended { ended, .. }) => {
            let ended = (**ended).clone();
            turn.then(Effect::Mirror { gang: id, std_dir });
            gang::after_preparation(turn, id, &ended);
        }
        Phase::Preparation(Attempt::Launching | Attempt::Running { .. }) | Phase::Running(_) => {
            turn.then(Effect::Mirror { gang: id, std_dir });
            for rank in open {
                turn.then(Effect::Adopt { attempt: id.attempt(rank) });
            }
            end_ended_logs(turn, id);
            gang::end_if_nothing_runs(turn, id);
        }
        Phase::Closing(_) | Phase::Ended(_) => {
            turn.then(Effect::Mirror { gang: id, std_dir });
            end_ended_logs(turn, id);
            turn.then(Effect::CloseLogs { gang: id });
        }
    }
}

/// The end of a file is said again: the last agent may have died before it said so.
fn end_ended_logs(turn: &mut Turn<'_>, id: GangId) {
    let Some(gang) = turn.state.gangs.get(&id) else { return };
    let ended: Vec<Rank> = gang
        .attempts()
        .into_iter()
        .filter(|(_, attempt)| matches!(attempt, Attempt::Ended { .. }))
        .map(|(rank, _)| rank)
        .collect();
    let over = matches!(gang.phase, Phase::Closing(_) | Phase::Ended(_) | Phase::Running(_));
    let tasks = gang.plan.tasks.iter().filter(|task| ended.contains(&task.rank)).map(|task| &task.command);
    let files: Vec<String> = tasks
        .chain(gang.plan.preparation.iter().filter(|_| over))
        .flat_map(|command| [command.stdout.clone(), command.stderr.clone()])
        .collect();
    if !files.is_empty() {
        turn.then(Effect::EndLogs { gang: id, files });
    }
}

pub(super) fn on_adopted(turn: &mut Turn<'_>, id: AttemptId, found: Found) {
    if turn.state.stuck.contains(&id) {
        return match found {
            Found::Running { .. } => {}
            Found::Ended(_) | Found::NeverStarted => attempt::gone(turn, id),
        };
    }
    let is_known = match turn.state.attempt(id) {
        Some(Attempt::Launching) => false,
        Some(Attempt::Running { .. }) => true,
        Some(Attempt::Ended { .. }) | None => return,
    };
    match found {
        Found::Running { started } => {
            turn.note(id.gang_id(), format!("attempt {id}: adopted, still running"));
            // What the last agent told the shim is not known, and what this one told it before is lost.
            if let Some(gang) = turn.state.gangs.get_mut(&id.gang_id()) {
                gang.fence_boot_ms = 0;
            }
            if is_known {
                super::fence::renew(turn, id.gang_id());
                attempt::stop_late(turn, id);
            } else {
                let (pid, at) = started.unwrap_or((0, turn.now.wall));
                attempt::on_launched(turn, id, pid, at);
            }
        }
        Found::Ended(ended) => attempt::on_ended(turn, *ended),
        // The intent is in the journal, so that it must never be started again.
        Found::NeverStarted => {
            let ended = TaskEnded {
                attempt: id,
                exit: Exit::Unknown,
                cause: EndCause::NotStarted,
                started: WallMs(0),
                ended: turn.now.wall,
                stderr_tail: String::new(),
                message: "the agent ended between the intent to start it and the start".to_owned(),
            };
            attempt::on_ended(turn, ended);
        }
    }
}
