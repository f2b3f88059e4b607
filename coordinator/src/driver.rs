//! The loop around the pure core: requests -> `step` each -> one commit -> effects -> sleep until the next
//! deadline. It owns the state and the store; it runs on a thread of its own.
//!
//! Queue: bounded; a full one makes callers wait. Nothing leaves before its record is durable.

mod handle;
mod recovery;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use trainyard_core::coordinator::event::FinishedJob;
use trainyard_core::coordinator::recover::recover;
use trainyard_core::coordinator::recovery::Adoption;
use trainyard_core::coordinator::{self as core, Answer, Effect, Event, JobKey, Record, ReplyTo, State};
use trainyard_core::id::NodeId;
use trainyard_core::spec::JobSpec;

use crate::clock::Clock;
use crate::grpc::{Link, Sessions};
use crate::logs::LogStore;
use crate::store::{Change, Entry, Expired, Limits, Store, StoreError};

pub use handle::{AdoptError, Driver, Unavailable};
pub(crate) use handle::{Adopted, Message, Question};
pub use view::View;

/// Messages of one batch: one commit for all of them.
const BATCH: usize = 256;
/// Messages that wait for the loop.
const QUEUE: usize = 1024;
/// Journal entries that a slow subscriber may be behind before it has to read them from the store.
const JOURNAL_BACKLOG: usize = 1024;
/// How often a full disk is tried again.
const FULL_RETRY: Duration = Duration::from_secs(1);

/// What the loop works with.
pub(crate) struct Parts {
    pub(crate) config: core::Config,
    pub(crate) store: Box<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) logs: Arc<LogStore>,
}

/// Starts the loop. The receiver gets its end: an error, or nothing if it was told to stop.
///
/// # Errors
/// The state cannot be read from the store.
pub(crate) fn start(parts: Parts) -> Result<(Driver, oneshot::Receiver<Result<(), StoreError>>), StoreError> {
    let (messages, inbox) = mpsc::channel(QUEUE);
    let (journal, _) = broadcast::channel(JOURNAL_BACKLOG);
    let (view, views) = watch::channel(Arc::new(View::default()));
    let (ended, end) = oneshot::channel();
    let generation = Arc::new(AtomicU64::new(parts.store.generation().0));
    let driver = Driver::new(messages, views, journal.clone(), generation.clone());
    let mut parts = parts;
    let state = load(&mut parts)?;
    let mut driving = Loop {
        parts,
        state,
        journal,
        view,
        generation,
        waiting: BTreeMap::new(),
        joining: BTreeMap::new(),
        next_reply: 0,
    };
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name("driver".to_owned())
        .spawn(move || {
            let result = driving.run(&runtime, inbox);
            // Nobody waits for it once the process is going down.
            ended.send(result).unwrap_or_default();
        })
        .map_err(|error| StoreError::broken("start the driver's thread", error))?;
    Ok((driver, end))
}

fn load(parts: &mut Parts) -> Result<State, StoreError> {
    let stored = parts.store.load()?;
    let state = recover(parts.config.clone(), parts.store.generation(), stored, parts.clock.now());
    for violation in state.check() {
        tracing::error!(violation, "the state read from the database contradicts itself");
    }
    Ok(state)
}

struct Loop {
    parts: Parts,
    state: State,
    journal: broadcast::Sender<Arc<Entry>>,
    view: watch::Sender<Arc<View>>,
    generation: Arc<AtomicU64>,
    /// Who waits for an answer of the batch in work.
    waiting: BTreeMap<u64, oneshot::Sender<Result<Answer, Unavailable>>>,
    /// Who joins, and the way down to it: opened with the Welcome, before the first command.
    joining: BTreeMap<u64, (NodeId, Link)>,
    next_reply: u64,
}

/// What a batch leads to.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    effects: Vec<Effect>,
    /// Writes of resources that the core knows nothing of.
    written: Vec<oneshot::Sender<Result<(), Unavailable>>>,
    pings: Vec<oneshot::Sender<()>>,
    /// An operator's adoption, and who waits for it.
    adopted: Option<(Adoption, oneshot::Sender<Adopted>)>,
    /// What to remove after the commit.
    expire: Vec<(Limits, oneshot::Sender<Result<Expired, Unavailable>>)>,
    /// Somebody else has seen that the disk cannot be trusted.
    broken: Option<StoreError>,
    stop: bool,
}

impl Loop {
    fn run(
        &mut self,
        runtime: &tokio::runtime::Handle,
        mut inbox: mpsc::Receiver<Message>,
    ) -> Result<(), StoreError> {
        let mut messages = vec![Message::Event(Box::new(Event::Woke))];
        loop {
            let mut batch = self.step_all(messages.drain(..))?;
            let stop = batch.stop;
            if let Some(error) = batch.broken.take() {
                self.refuse_all(batch, Unavailable::Stopped);
                return Err(error);
            }
            match self.commit(&batch) {
                Ok(sequence) => self.after_commit(batch, &sequence)?,
                Err(StoreError::Full) => {
                    self.refuse_all(batch, Unavailable::Full);
                    if !self.wait_for_space(runtime, &mut inbox)? {
                        return Ok(());
                    }
                }
                Err(error) => {
                    self.refuse_all(batch, Unavailable::Stopped);
                    return Err(error);
                }
            }
            if stop {
                return Ok(());
            }
            let sleep = self.sleep();
            let received = runtime.block_on(receive(&mut inbox, &mut messages, sleep));
            match received {
                Received::Messages => {}
                Received::Deadline => messages.push(Message::Event(Box::new(Event::Woke))),
                Received::Closed => return Ok(()),
            }
        }
    }

    /// `None`: there is no deadline.
    fn sleep(&self) -> Option<Duration> {
        let now = self.parts.clock.now().tick;
        self.state.next_deadline().map(|at| Duration::from_millis(at.0.saturating_sub(now.0)))
    }

    fn step_all(&mut self, messages: impl Iterator<Item = Message>) -> Result<Batch, StoreError> {
        let mut batch = Batch::default();
        for message in messages {
            let event = match message {
                Message::Event(event) => *event,
                Message::Ask(question, answer) => {
                    let reply = ReplyTo(self.next_reply);
                    self.next_reply += 1;
                    self.waiting.insert(reply.0, answer);
                    self.event(question, reply)?
                }
                Message::Write(changes, written) => {
                    batch.changes.extend(changes);
                    batch.written.push(written);
                    continue;
                }
                Message::Ping(pong) => {
                    batch.pings.push(pong);
                    continue;
                }
                Message::Adopt(without, answer) => {
                    self.adopt(&without, answer, &mut batch);
                    continue;
                }
                Message::Expire(limits, answer) => {
                    batch.expire.push((limits, answer));
                    continue;
                }
                Message::Broken(error) => {
                    batch.broken = Some(error);
                    continue;
                }
                Message::Stop => {
                    batch.stop = true;
                    continue;
                }
            };
            let step = core::step(&mut self.state, self.parts.clock.now(), event);
            batch.changes.extend(step.commit.into_iter().map(Change::Record));
            batch.effects.extend(step.then);
        }
        batch.changes.extend(self.state.recovery.take_changed().map(Change::Foreign));
        Ok(batch)
    }

    fn event(&mut self, question: Question, reply: ReplyTo) -> Result<Event, StoreError> {
        Ok(match question {
            Question::Submit(job) => {
                let finished = self.finished(&job.key, Some(&job.spec))?;
                Event::Submitted { reply, job, finished }
            }
            Question::Cancel(key) => {
                let finished = self.finished(&key, None)?;
                Event::Cancelled { reply, key, finished }
            }
            Question::Delete(key) => {
                let finished = self.finished(&key, None)?;
                Event::Deleted { reply, key, finished }
            }
            Question::StopForeign { gang, gone } => Event::ForeignStopped { reply, gang, gone },
            Question::Join(hello, link) => {
                self.joining.insert(reply.0, (hello.node.clone(), link));
                Event::NodeJoined { reply, hello }
            }
            Question::Drain(node, reason) => Event::NodeDrained { reply, node, reason },
            Question::Resume(node) => Event::NodeResumed { reply, node },
            Question::DeclareLost { node, force } => Event::NodeDeclaredLost { reply, node, force },
        })
    }

    /// Jobs that are not in the state are looked up in the store, where they are finished.
    fn finished(
        &mut self,
        key: &JobKey,
        offered: Option<&JobSpec>,
    ) -> Result<Option<FinishedJob>, StoreError> {
        let folded = key.folded();
        if self.state.names.contains_key(&folded) {
            return Ok(None);
        }
        self.parts.store.finished(&folded, offered)
    }

    /// Heartbeats change nothing that is stored.
    fn commit(&mut self, batch: &Batch) -> Result<Vec<u64>, StoreError> {
        if batch.changes.is_empty() { Ok(Vec::new()) } else { self.parts.store.commit(&batch.changes) }
    }

    /// # Errors
    /// The store fails at what follows a commit.
    fn after_commit(&mut self, batch: Batch, sequence: &[u64]) -> Result<(), StoreError> {
        // Before anybody is told: who hears of a change and looks finds it.
        self.publish();
        let mut sequence = sequence.iter();
        for change in batch.changes {
            if let Change::Record(Record::Journal(entry)) = change
                && let Some(seq) = sequence.next()
            {
                // An error means that nobody listens.
                self.journal.send(Arc::new(Entry::new(*seq, entry))).unwrap_or_default();
            }
        }
        for effect in batch.effects {
            self.perform(effect);
        }
        for written in batch.written {
            // The client may have gone.
            written.send(Ok(())).unwrap_or_default();
        }
        for pong in batch.pings {
            pong.send(()).unwrap_or_default();
        }
        self.state.forget_finished();
        if let Some((adoption, answer)) = batch.adopted {
            self.start_anew(adoption, answer)?;
        }
        for (limits, answer) in batch.expire {
            self.expire(&limits, answer)?;
        }
        Ok(())
    }

    /// A small transaction of its own, between two batches: submits never wait for more than that.
    fn expire(
        &mut self,
        limits: &Limits,
        answer: oneshot::Sender<Result<Expired, Unavailable>>,
    ) -> Result<(), StoreError> {
        let expired = match self.parts.store.expire(limits) {
            Ok(expired) => Ok(expired),
            Err(StoreError::Full) => Err(Unavailable::Full),
            Err(error) => return Err(error),
        };
        if let Ok(expired) = &expired {
            self.parts.logs.forget(&expired.jobs);
        }
        // The retention may have ended.
        answer.send(expired).unwrap_or_default();
        Ok(())
    }

    fn publish(&mut self) {
        if self.state.take_changed() {
            self.view.send_replace(Arc::new(View::of(&self.state)));
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Reply(reply, answer) => {
                if let (Some((node, link)), Answer::Welcome(welcome)) =
                    (self.joining.remove(&reply.0), &answer)
                {
                    self.parts.sessions.open(node, link, *welcome);
                }
                if let Some(waiting) = self.waiting.remove(&reply.0) {
                    // The client may have gone.
                    waiting.send(Ok(answer)).unwrap_or_default();
                }
            }
            Effect::Send { node, epoch, command } => self.parts.sessions.send(&node, epoch, command),
            Effect::DropLogs(job) => self.parts.logs.forget(&[job]),
        }
    }

    fn refuse_all(&mut self, batch: Batch, why: Unavailable) {
        self.joining.clear();
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            waiting.send(Err(why)).unwrap_or_default();
        }
        for written in batch.written {
            written.send(Err(why)).unwrap_or_default();
        }
        if let Some((_, answer)) = batch.adopted {
            answer.send(Err(AdoptError::Unavailable(why))).unwrap_or_default();
        }
        for (_, answer) in batch.expire {
            answer.send(Err(why)).unwrap_or_default();
        }
    }

    /// The disk is full: the state is rebuilt from what is durable, sessions are closed (their next Hello
    /// repeats what was lost), and everybody is refused until a commit works. `false`: told to stop.
    fn wait_for_space(
        &mut self,
        runtime: &tokio::runtime::Handle,
        inbox: &mut mpsc::Receiver<Message>,
    ) -> Result<bool, StoreError> {
        tracing::error!("the disk of the database is full: requests are refused until there is space");
        self.parts.sessions.close_all();
        loop {
            let mut messages = Vec::new();
            let received = runtime.block_on(receive(inbox, &mut messages, Some(FULL_RETRY)));
            for message in messages {
                match message {
                    // Reports of closed sessions: the agents repeat them.
                    Message::Event(_) => {}
                    Message::Ask(_, answer) => answer.send(Err(Unavailable::Full)).unwrap_or_default(),
                    Message::Write(_, written) => written.send(Err(Unavailable::Full)).unwrap_or_default(),
                    Message::Ping(pong) => pong.send(()).unwrap_or_default(),
                    Message::Adopt(_, answer) => {
                        answer.send(Err(AdoptError::Unavailable(Unavailable::Full))).unwrap_or_default();
                    }
                    Message::Expire(limits, answer) => self.expire(&limits, answer)?,
                    Message::Broken(error) => return Err(error),
                    Message::Stop => return Ok(false),
                }
            }
            if matches!(received, Received::Closed) {
                return Ok(false);
            }
            self.state = load(&mut self.parts)?;
            let step = core::step(&mut self.state, self.parts.clock.now(), Event::Woke);
            let batch = Batch {
                changes: step.commit.into_iter().map(Change::Record).collect(),
                effects: step.then,
                ..Batch::default()
            };
            match self.parts.store.check_space().and_then(|()| self.commit(&batch)) {
                Ok(sequence) => {
                    tracing::info!("there is space again");
                    self.after_commit(batch, &sequence)?;
                    return Ok(true);
                }
                Err(StoreError::Full) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

enum Received {
    Messages,
    Deadline,
    Closed,
}

async fn receive(
    inbox: &mut mpsc::Receiver<Message>,
    into: &mut Vec<Message>,
    sleep: Option<Duration>,
) -> Received {
    let count = match sleep {
        Some(sleep) => match tokio::time::timeout(sleep, inbox.recv_many(into, BATCH)).await {
            Ok(count) => count,
            Err(_elapsed) => return Received::Deadline,
        },
        None => inbox.recv_many(into, BATCH).await,
    };
    if count == 0 { Received::Closed } else { Received::Messages }
}
