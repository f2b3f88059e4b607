//! The coordinator's decisions: `step(state, now, event) -> Step { commit, then }`.
//!
//! The driver (crate `coordinator`) is the whole shell: it takes waiting events, calls [`step`] for each,
//! writes all `commit`s in one transaction and performs `then` after it.
//!
//! ```text
//! job:   Queued -> Active -> Succeeded | Failed
//!          ^---------'  (a new gang: the node was lost, a port was taken, or a retry is left)
//! gang:  Preparing -> Running -> Ending(outcome) -> over, when every node has said `GangEnded`
//! ```

pub mod check;
pub mod drain;
pub mod effect;
pub mod event;
pub mod explain;
pub mod reason;
pub mod recover;
pub mod recovery;
pub mod state;

mod gang;
mod job;
mod node;
mod schedule;

pub use effect::{Answer, Effect, Record, Step};
pub use event::{Event, JobKey, NewJob, Now, ReplyTo};
pub use state::{Config, State};

/// Applies one event and says what must follow.
///
/// `now.tick` never goes back. Same state, `now` and event: same result, to the byte.
pub fn step(state: &mut State, now: Now, event: Event) -> Step {
    let mut step = Step::default();
    match event {
        Event::Submitted { reply, job, finished } => {
            job::on_submitted(state, now, reply, *job, finished, &mut step)
        }
        Event::Cancelled { reply, key, finished } => {
            job::on_cancelled(state, now, reply, &key, finished, &mut step)
        }
        Event::Deleted { reply, key, finished } => {
            job::on_deleted(state, now, reply, &key, finished, &mut step)
        }
        Event::NodeJoined { reply, hello } => node::on_joined(state, now, reply, *hello, &mut step),
        Event::NodeLeft { node, epoch } => node::on_left(state, now, &node, epoch, &mut step),
        Event::Heard { node, epoch, reports } => node::on_heard(state, now, &node, epoch, reports, &mut step),
        Event::ForeignStopped { reply, gang, gone } => {
            recovery::on_foreign_stopped(state, reply, gang, gone, &mut step)
        }
        Event::FactsChanged { node, epoch, facts } => {
            node::on_facts(state, now, &node, epoch, *facts, &mut step)
        }
        Event::NodeDrained { reply, node, reason } => {
            drain::on_drained(state, now, reply, &node, reason, &mut step)
        }
        Event::NodeResumed { reply, node } => drain::on_resumed(state, now, reply, &node, &mut step),
        Event::NodeDeclaredLost { reply, node, force } => {
            drain::on_declared_lost(state, now, reply, &node, force, &mut step)
        }
        Event::Woke => {}
    }
    node::expire_leases(state, now, &mut step);
    gang::expire_deadlines(state, now, &mut step);
    schedule::start_what_fits(state, now, &mut step);
    state.record_touched(&mut step);
    step
}
