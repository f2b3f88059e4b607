//! The decisions of one node: `step(state, now, event) -> Step { commit, then }`.
//!
//! The agent decides little: it prepares, starts each attempt at most once, relays, and keeps what it
//! has to say until it is acknowledged. The driver (crate `agent`) writes `commit` to the journal and
//! performs `then` after it, never before.
//!
//! ```text
//! gang:     SettingUp -> (Preparation ->) Prepared -> Running -> Closing -> Ended -> released
//!              |  restart: Awaiting (the coordinator sends the plan again, with secrets)
//!              '-- stopped or failed before the start: Closing -> Ended
//! attempt:  Launching -> Running -> Ended
//! ```

pub mod effect;
pub mod event;
pub mod state;

mod adopt;
mod attempt;
mod fence;
mod gang;
#[cfg(test)]
mod tests;

pub use effect::{Effect, Record, Step};
pub use event::{Event, Found, Now, SetupProblem};
pub use state::{Attempt, Gang, Phase, Released, State};

use crate::id::{Epoch, GangId, Generation};
use crate::session::{Command, Report, Welcome};
use state::Session;

/// Applies one event and says what must follow.
///
/// Same state, `now` and event: same result, to the byte.
pub fn step(state: &mut State, now: Now, event: Event) -> Step {
    let mut turn = Turn { state, now, step: Step::default() };
    match event {
        Event::Restarted { boot_id } => adopt::on_restarted(&mut turn, boot_id),
        Event::Greeted { boot_ms } => turn.state.session = Session::Greeting { boot_ms },
        Event::Welcomed(welcome) => on_welcomed(&mut turn, welcome),
        Event::Disconnected => turn.state.session = Session::Absent,
        Event::HeartbeatAcked { boot_ms } => fence::on_contact(&mut turn, boot_ms),
        Event::Commanded { generation, epoch, command } => {
            on_commanded(&mut turn, generation, epoch, command)
        }
        Event::SetUp { gang, problem } => gang::on_set_up(&mut turn, gang, problem),
        Event::Launched { attempt, pid, at } => attempt::on_launched(&mut turn, attempt, pid, at),
        Event::Ended(ended) => attempt::on_ended(&mut turn, *ended),
        Event::Stuck(ended) => attempt::on_stuck(&mut turn, *ended),
        Event::Adopted { attempt, found } => adopt::on_adopted(&mut turn, attempt, found),
        Event::LogsClosed { gang } => gang::on_logs_closed(&mut turn, gang),
        Event::Wiped { job_temps } => turn.record(Record::Wiped { job_temps }),
    }
    turn.step
}

/// What one call of [`step`] works on.
struct Turn<'a> {
    state: &'a mut State,
    now: Now,
    step: Step,
}

impl Turn<'_> {
    /// Changes the durable part of the state: what is on disk and what is in memory never differ.
    fn record(&mut self, record: Record) {
        self.state.apply(record.clone());
        self.step.commit.push(record);
    }

    fn then(&mut self, effect: Effect) {
        self.step.then.push(effect);
    }

    /// Without a session nothing is said: the next Hello says it all.
    fn report(&mut self, report: Report) {
        match self.state.session {
            Session::Absent => {}
            Session::Greeting { .. } | Session::Open { .. } => self.then(Effect::Report(report)),
        }
    }

    fn note(&mut self, gang: GangId, text: impl Into<String>) {
        self.then(Effect::Note { gang, text: text.into() });
    }
}

fn on_welcomed(turn: &mut Turn<'_>, welcome: Welcome) {
    let Session::Greeting { boot_ms } = turn.state.session else { return };
    if welcome.generation < turn.state.generation {
        turn.state.session = Session::Absent;
        let reason = format!(
            "the coordinator is of generation {}, but this node has obeyed {}: it is not the newest one",
            welcome.generation, turn.state.generation
        );
        turn.then(Effect::Disconnect { reason });
        return;
    }
    if welcome.generation > turn.state.generation {
        turn.record(Record::Generation(welcome.generation));
    }
    turn.state.session = Session::Open { generation: welcome.generation, epoch: welcome.epoch };
    // The coordinator heard the Hello after this moment, so it counts the lease from later on.
    fence::on_contact(turn, boot_ms);
}

/// Commands of another session than the open one are late: that session's Hello has settled them.
fn on_commanded(turn: &mut Turn<'_>, generation: Generation, epoch: Epoch, command: Command) {
    if turn.state.session != (Session::Open { generation, epoch }) && !mutant!("epoch-not-checked") {
        return;
    }
    match command {
        Command::Prepare { gang, plan, start_when_prepared, lease_ms } => {
            gang::on_prepare(turn, gang, *plan, start_when_prepared, lease_ms);
        }
        Command::Start(gang) => gang::on_start(turn, gang),
        Command::Stop { gang, grace_ms, reason } => gang::on_stop(turn, gang, grace_ms, reason),
        Command::Release(gang) => gang::on_release(turn, gang),
        Command::EndedAck(attempts) => attempt::on_acked(turn, attempts),
    }
}
