//! The agent's loop: event -> `core::agent::step` -> journal -> effects.
//!
//! It runs on a thread of its own, since a commit waits for the disk. It waits for nothing else: setup,
//! starts, mounts, NVML and users' files have threads or tasks of their own, whose results come back as
//! events. All that waited at once is one turn: one commit, one message of reports.

mod act;
mod clock;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use trainyard_core::agent::{self, Effect, Record, State, Step};
use trainyard_core::id::{AttemptId, Epoch, Generation};
use trainyard_core::session::{Command, HeldGang, Report, Welcome};
use trainyard_proto::v1;

use crate::journal::{Journal, JournalError};
use crate::local;
use crate::setup::Setup;
use crate::spool::Spool;
use crate::supervisor::{ShimEvent, Supervisor};

pub(crate) use clock::{boot_ms, now};

/// Events that wait at most; senders wait when it is full.
pub(crate) const QUEUE: usize = 1024;
/// Events of one turn at most.
const TURN: usize = 256;
/// The journal is rewritten when it holds more records than this and four times what is needed.
const COMPACT_RECORDS: usize = 20_000;

/// Everything that can reach the loop.
pub(crate) enum Event {
    /// A result of an effect, for the core as it is.
    Core(agent::Event),
    /// A shim speaks.
    Shim(ShimEvent),
    /// A new session wants to say Hello.
    Greet { session: u64, outbox: mpsc::UnboundedSender<Outgoing>, reply: oneshot::Sender<Greeting> },
    /// The coordinator answered it.
    Welcomed { session: u64, welcome: Welcome },
    /// The coordinator answered a heartbeat.
    HeartbeatAcked { session: u64, boot_ms: u64 },
    /// The coordinator commands.
    Commanded { session: u64, generation: Generation, epoch: Epoch, command: Command },
    /// A client asks for a file of a job.
    FileRequested { session: u64, request: v1::FileRequest },
    /// A session, or the try of one, is over.
    Lost { session: u64, reason: String },
    /// Somebody on this node asks.
    Asked { request: local::Request, reply: oneshot::Sender<local::Answer> },
    /// The watchdog: answered when the loop gets to it.
    Pinged(oneshot::Sender<()>),
    /// Leave everything as it is and end.
    Shutdown,
}

/// What a Hello is made of.
pub(crate) struct Greeting {
    pub(crate) held: Vec<HeldGang>,
    pub(crate) stuck: Vec<AttemptId>,
    pub(crate) last_generation: Generation,
}

/// What goes up a session beside heartbeats and metrics.
pub(crate) enum Outgoing {
    Reports(Vec<Report>),
    File(v1::FileReply),
}

/// What the loop works with.
pub(crate) struct Driver<J> {
    pub(crate) state: State,
    pub(crate) journal: J,
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) spool: Spool,
    pub(crate) setup: Setup,
    pub(crate) runtime: Handle,
    /// For results of effects. Weak, so that the loop ends when everybody else has left.
    pub(crate) events: mpsc::WeakSender<Event>,
    /// Clean-ups under way.
    pub(crate) cleaning: watch::Sender<usize>,
    /// What runs now, for the metrics.
    pub(crate) running: watch::Sender<BTreeSet<AttemptId>>,
    /// The shortest lease of what is held, for the heartbeat.
    pub(crate) lease_ms: watch::Sender<Option<u64>>,
    pub(crate) node: view::Node,
    session: Option<Session>,
    file_slots: Arc<std::sync::atomic::AtomicUsize>,
}

struct Session {
    number: u64,
    outbox: mpsc::UnboundedSender<Outgoing>,
}

/// What happens after the commit of a turn, in order.
enum Act {
    Effect(Effect),
    Greet { session: Session, greeting: Greeting, reply: oneshot::Sender<Greeting> },
    Leave,
    Answer { answer: Box<local::Answer>, reply: oneshot::Sender<local::Answer> },
    File { outbox: mpsc::UnboundedSender<Outgoing>, request: v1::FileRequest, allowed: bool },
    Pong(oneshot::Sender<()>),
}

/// The parts of a driver that are given to it.
pub(crate) struct Parts<J> {
    pub(crate) records: Vec<Record>,
    pub(crate) journal: J,
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) spool: Spool,
    pub(crate) setup: Setup,
    pub(crate) runtime: Handle,
    pub(crate) events: mpsc::WeakSender<Event>,
    pub(crate) cleaning: watch::Sender<usize>,
    pub(crate) running: watch::Sender<BTreeSet<AttemptId>>,
    pub(crate) lease_ms: watch::Sender<Option<u64>>,
    pub(crate) node: view::Node,
}

pub(crate) use view::Node;

impl<J: Journal> Driver<J> {
    /// Rebuilds the state from the journal's records.
    pub(crate) fn new(parts: Parts<J>) -> Driver<J> {
        Driver {
            state: State::recover(parts.records),
            journal: parts.journal,
            supervisor: parts.supervisor,
            spool: parts.spool,
            setup: parts.setup,
            runtime: parts.runtime,
            events: parts.events,
            cleaning: parts.cleaning,
            running: parts.running,
            lease_ms: parts.lease_ms,
            node: parts.node,
            session: None,
            file_slots: Arc::default(),
        }
    }

    /// Runs until `Shutdown`, or until nobody can send any more. The first event must be `Restarted`.
    ///
    /// # Errors
    /// The journal cannot be written: nothing more may happen.
    pub(crate) fn run(mut self, mut events: mpsc::Receiver<Event>) -> Result<(), JournalError> {
        self.compact(1000)?;
        let mut waiting = Vec::with_capacity(TURN);
        loop {
            if events.blocking_recv_many(&mut waiting, TURN) == 0 {
                return Ok(());
            }
            let mut commit = Vec::new();
            let mut acts = Vec::new();
            let mut last = false;
            for event in waiting.drain(..) {
                last |= matches!(event, Event::Shutdown);
                self.on_event(event, &mut commit, &mut acts);
            }
            self.journal.commit(&commit)?;
            self.carry_out(acts);
            if last {
                return Ok(());
            }
            self.compact(COMPACT_RECORDS)?;
            self.publish();
        }
    }

    /// Tells the link and the metrics what has changed for them.
    fn publish(&self) {
        let shortest = self.state.shortest_lease_ms();
        self.lease_ms.send_if_modified(|lease_ms| std::mem::replace(lease_ms, shortest) != shortest);
        let running = self.state.gangs().iter().flat_map(|(id, gang)| {
            let attempts = gang.attempts().into_iter();
            let running = attempts.filter(|(_, attempt)| matches!(attempt, agent::Attempt::Running { .. }));
            running.map(|(rank, _)| id.attempt(rank))
        });
        let running: BTreeSet<AttemptId> = running.collect();
        self.running.send_if_modified(|held| {
            let changed = *held != running;
            *held = running;
            changed
        });
    }

    fn compact(&mut self, records_min: usize) -> Result<(), JournalError> {
        if self.journal.len() < records_min {
            return Ok(());
        }
        let snapshot = self.state.snapshot();
        if self.journal.len() > snapshot.len() * 4 { self.journal.rewrite(&snapshot) } else { Ok(()) }
    }

    fn on_event(&mut self, event: Event, commit: &mut Vec<Record>, acts: &mut Vec<Act>) {
        let mut step = |driver: &mut Self, event| {
            let Step { commit: records, then } = agent::step(&mut driver.state, now(), event);
            commit.extend(records);
            acts.extend(then.into_iter().map(Act::Effect));
        };
        match event {
            Event::Core(event) => step(self, event),
            Event::Shim(event) => {
                let event = self.on_shim(event);
                step(self, event);
            }
            Event::Greet { session, outbox, reply } => {
                step(self, agent::Event::Disconnected);
                step(self, agent::Event::Greeted { boot_ms: now().boot_ms });
                let greeting = Greeting {
                    held: self.state.held(),
                    stuck: self.state.stuck().iter().copied().collect(),
                    last_generation: self.state.generation(),
                };
                self.node.current_session = session;
                acts.push(Act::Greet { session: Session { number: session, outbox }, greeting, reply });
            }
            Event::Welcomed { session, welcome } if self.is_current(session) => {
                self.node.on_contact();
                step(self, agent::Event::Welcomed(welcome));
            }
            Event::HeartbeatAcked { session, boot_ms } if self.is_current(session) => {
                self.node.on_contact();
                step(self, agent::Event::HeartbeatAcked { boot_ms });
            }
            Event::Commanded { session, generation, epoch, command } if self.is_current(session) => {
                step(self, agent::Event::Commanded { generation, epoch, command });
            }
            Event::FileRequested { session, request } if self.is_current(session) => {
                let gang = request.gang.map(Into::into);
                let allowed = gang.is_some_and(|gang| self.state.serves(gang, &request.directory));
                // The outbox may be that of a session that begins in this same turn.
                if let Some(open) = self.session.as_ref().filter(|open| open.number == session) {
                    acts.push(Act::File { outbox: open.outbox.clone(), request, allowed });
                }
            }
            Event::Lost { session, reason } => {
                self.node.last_error = Some(reason);
                if self.is_current(session) {
                    step(self, agent::Event::Disconnected);
                    acts.push(Act::Leave);
                }
            }
            // Words of a session that is over: the Hello of the present one has settled them.
            Event::Welcomed { .. }
            | Event::HeartbeatAcked { .. }
            | Event::Commanded { .. }
            | Event::FileRequested { .. } => {}
            Event::Asked { request, reply } => {
                let answer = Box::new(view::answer(self, &request));
                acts.push(Act::Answer { answer, reply });
            }
            Event::Pinged(reply) => acts.push(Act::Pong(reply)),
            Event::Shutdown => {}
        }
    }

    fn is_current(&self, session: u64) -> bool {
        self.node.current_session == session
    }

    /// What a shim's word means to the core.
    fn on_shim(&self, event: ShimEvent) -> agent::Event {
        match event {
            ShimEvent::Started { attempt, started } => {
                agent::Event::Launched { attempt, pid: started.pid, at: started.at }
            }
            ShimEvent::Ended { record, .. } => {
                agent::Event::Ended(Box::new(act::task_ended(&self.state, &self.spool, record)))
            }
            ShimEvent::Unkillable { attempt } => {
                agent::Event::Stuck(Box::new(act::unkillable(&self.state, attempt)))
            }
        }
    }
}
