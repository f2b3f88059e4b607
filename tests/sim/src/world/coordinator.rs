//! The coordinator's process: the real core, and a model of its driver, its database and its sessions.
//!
//! What stands for real parts: `turn` and `committed` for coordinator/src/driver.rs (one writer, one transaction per
//! batch, effects after it), `Store` for the database (what is committed stays, what is not is gone),
//! `on_up` for grpc/session.rs (heartbeats are told before they are answered; a silent session is closed).

use std::collections::{BTreeMap, VecDeque};

use trainyard_core::coordinator::drain::Drain;
use trainyard_core::coordinator::event::FinishedJob;
use trainyard_core::coordinator::recover::{Stored, recover};
use trainyard_core::coordinator::state::{Job, JobPhase};
use trainyard_core::coordinator::{
    Answer, Config, Effect, Event, JobKey, NewJob, Now, Record, ReplyTo, State, step,
};
use trainyard_core::id::{Epoch, GangId, Generation, JobId, NodeId};
use trainyard_core::plan::NodePlan;
use trainyard_core::session::{Hello, NodeFacts, Report};
use trainyard_core::spec::JobSpec;

use super::clock::Clock;
use super::net::{Down, Up};
use super::{What, World};
use crate::workload::Shape;

/// A session without a word for so long is closed, ms: three heartbeats.
const SILENCE_MS: u64 = 12_000;
/// How often the driver looks whether there is space again, ms.
const FULL_RETRY_MS: u64 = 1_000;
/// How often a heartbeat is told to the core at most, ms.
const HEARD_AT_MOST_EVERY_MS: u64 = 2_000;

/// What happens to the coordinator; with the start that it belongs to.
#[derive(Clone, Debug)]
pub(crate) enum Happens {
    Start,
    Turn { start: u64 },
    Committed { start: u64 },
    Wake { start: u64 },
    LookForSpace { start: u64 },
    LookAtSession { start: u64, connection: u64 },
}

/// Who is answered.
#[derive(Clone, Debug)]
pub(crate) enum Asker {
    Client(usize),
    /// A connection and its node.
    Session(u64, usize),
}

/// What waits for the loop.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Event(Box<Event>),
    Submit(Asker, Box<NewJob>),
    Cancel(Asker, JobKey),
    Delete(Asker, JobKey),
    Join(Asker, Box<Hello>),
}

/// What is on disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    pub(crate) generation: u64,
    next_job: u64,
    pub(crate) jobs: BTreeMap<JobId, Job>,
    plans: BTreeMap<GangId, Vec<NodePlan>>,
    nodes: BTreeMap<NodeId, (Epoch, NodeFacts)>,
    drains: BTreeMap<NodeId, Drain>,
}

#[derive(Debug, Default)]
struct Batch {
    changes: Vec<Record>,
    effects: Vec<Effect>,
}

/// A living process.
#[derive(Debug)]
struct Process {
    state: State,
    inbox: VecDeque<Message>,
    is_turn_due: bool,
    committing: Option<Batch>,
    wake: Option<u64>,
    /// By node: session and connection.
    sessions: BTreeMap<NodeId, (Epoch, u64)>,
    askers: BTreeMap<u64, Asker>,
    next_reply: u64,
    waits_for_space: bool,
}

/// The coordinator, dead or alive.
#[derive(Debug)]
pub(crate) struct Coordinator {
    /// Number of the present start.
    pub(crate) start: u64,
    pub(crate) clock: Clock,
    config: Config,
    process: Option<Process>,
    pub(crate) store: Store,
    /// Stands still until then; what happens meanwhile waits.
    pub(crate) stopped_until: u64,
    waiting: Vec<Happens>,
    pub(crate) full_until: u64,
    pub(crate) slow_until: u64,
    /// It dies at its next commit: `Some(true)` after it.
    pub(crate) dies_at_commit: Option<bool>,
}

impl Coordinator {
    pub(crate) fn new(shape: &Shape) -> Coordinator {
        let config = Config {
            lease_ms: shape.lease_ms,
            boot_id: "boot-0".to_owned(),
            keep_local: shape.one_machine,
            ..Config::default()
        };
        let store = Store { next_job: 1, ..Store::default() };
        Coordinator {
            start: 0,
            clock: Clock::new(0, 0),
            config,
            process: None,
            store,
            stopped_until: 0,
            waiting: Vec::new(),
            full_until: 0,
            slow_until: 0,
            dies_at_commit: None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped_until > 0
    }

    pub(crate) fn reboot(&mut self, boot_id: String) {
        self.config.boot_id = boot_id;
    }

    pub(crate) fn has_no_open_job(&self) -> bool {
        self.store.jobs.values().all(|job| !job.is_open())
            && self.process.as_ref().is_some_and(|process| {
                process.inbox.is_empty() && process.committing.is_none() && process.state.jobs.is_empty()
            })
    }

    pub(crate) fn open_jobs(&self) -> Vec<String> {
        // Active ones say why the others wait.
        let open = self.store.jobs.values().filter(|job| matches!(job.phase, JobPhase::Active(_)));
        open.map(|job| format!("job {} {:?}", job.id, job.phase)).collect()
    }

    /// What nobody owns once all jobs are over.
    pub(crate) fn leaks(&self) -> Vec<String> {
        let Some(process) = &self.process else { return vec!["the coordinator is down".to_owned()] };
        let state = &process.state;
        let mut leaks: Vec<String> = state
            .nodes
            .values()
            .filter(|node| node.gang.is_some() || node.session.is_none())
            .map(|node| format!("{} is not free: {:?}, session {:?}", node.id, node.gang, node.session))
            .collect();
        if !state.plans.is_empty() || !state.queue.is_empty() || !state.names.is_empty() {
            leaks.push("plans, queue or names are left".to_owned());
        }
        leaks
    }

    /// Whether the database knows this gang as live.
    pub(crate) fn is_live(&self, gang: GangId) -> bool {
        self.store
            .jobs
            .get(&gang.job)
            .is_some_and(|job| matches!(&job.phase, JobPhase::Active(active) if active.id == gang))
    }

    /// Nodes of the stored plan of a gang.
    pub(crate) fn planned_nodes(&self, gang: GangId) -> Option<Vec<NodeId>> {
        Some(self.store.plans.get(&gang)?.iter().map(|plan| plan.node.clone()).collect())
    }

    fn load(&self) -> Stored {
        let open = self.store.jobs.values().filter(|job| job.is_open()).cloned();
        let jobs: Vec<Job> = open
            .map(|mut job| {
                if let JobPhase::Queued { not_before } = &mut job.phase {
                    *not_before = None;
                }
                job
            })
            .collect();
        let live = |gang: &GangId| jobs.iter().any(|job| job.gang() == Some(gang.gang) && job.id == gang.job);
        Stored {
            plans: self
                .store
                .plans
                .iter()
                .filter(|(gang, _)| live(gang))
                .map(|(gang, nodes)| (*gang, without_secrets(nodes)))
                .collect(),
            nodes: self
                .store
                .nodes
                .iter()
                .map(|(id, (epoch, facts))| (id.clone(), *epoch, facts.clone()))
                .collect(),
            drains: self.store.drains.clone().into_iter().collect(),
            next_job: JobId(self.store.next_job),
            jobs,
            // No database goes back here.
            restored: false,
            lost: Vec::new(),
            foreign: BTreeMap::new(),
        }
    }
}

fn without_secrets(nodes: &[NodePlan]) -> Vec<NodePlan> {
    let mut nodes = nodes.to_vec();
    for node in &mut nodes {
        for command in node.preparation.iter_mut().chain(node.tasks.iter_mut().map(|task| &mut task.command))
        {
            command.secret_env.clear();
        }
    }
    nodes
}

impl World {
    pub(crate) fn start_coordinator(&mut self) {
        let now = self.coordinator_now();
        let coordinator = &mut self.coordinator;
        coordinator.start += 1;
        coordinator.store.generation += 1;
        coordinator.waiting.clear();
        let generation = Generation(coordinator.store.generation);
        let state = recover(coordinator.config.clone(), generation, coordinator.load(), now);
        coordinator.process = Some(Process {
            state,
            inbox: VecDeque::from([Message::Event(Box::new(Event::Woke))]),
            is_turn_due: false,
            committing: None,
            wake: None,
            sessions: BTreeMap::new(),
            askers: BTreeMap::new(),
            next_reply: 0,
            waits_for_space: false,
        });
        self.note("coordinator starts", generation.0, String::new);
        self.want_turn();
    }

    pub(crate) fn kill_coordinator(&mut self, down_ms: u64) {
        if self.coordinator.process.take().is_none() {
            return;
        }
        self.coordinator.stopped_until = 0;
        self.coordinator.dies_at_commit = None;
        self.note("coordinator dies", down_ms, String::new);
        let ids: Vec<u64> = self.net.connections.keys().copied().collect();
        ids.into_iter().for_each(|id| self.close_at_coordinator(id));
        self.after(down_ms.max(1), What::Coordinator(Happens::Start));
    }

    fn coordinator_now(&self) -> Now {
        let clock = &self.coordinator.clock;
        Now { tick: clock.tick(self.now), wall: clock.wall(self.now) }
    }

    pub(crate) fn on_coordinator(&mut self, happens: Happens) {
        if let Happens::Start = happens {
            if !self.coordinator.is_up() {
                self.start_coordinator();
            }
            return;
        }
        if self.coordinator.is_stopped() {
            self.coordinator.waiting.push(happens);
            return;
        }
        let (Happens::Turn { start }
        | Happens::Committed { start }
        | Happens::Wake { start }
        | Happens::LookForSpace { start }
        | Happens::LookAtSession { start, .. }) = happens
        else {
            return;
        };
        if start != self.coordinator.start || !self.coordinator.is_up() {
            return;
        }
        match happens {
            Happens::Start => {}
            Happens::Turn { .. } => self.turn(),
            Happens::Committed { .. } => self.committed(),
            Happens::Wake { .. } => {
                if let Some(process) = &mut self.coordinator.process {
                    process.wake = None;
                    process.inbox.push_back(Message::Event(Box::new(Event::Woke)));
                }
                self.want_turn();
            }
            Happens::LookForSpace { .. } => self.look_for_space(),
            Happens::LookAtSession { connection, .. } => self.look_at_session(connection),
        }
    }

    pub(crate) fn continue_coordinator(&mut self) {
        self.coordinator.stopped_until = 0;
        for happens in std::mem::take(&mut self.coordinator.waiting) {
            self.after(0, What::Coordinator(happens));
        }
        self.deliver_all(None);
    }

    fn want_turn(&mut self) {
        let start = self.coordinator.start;
        let Some(process) = &mut self.coordinator.process else { return };
        if process.is_turn_due || process.committing.is_some() || process.waits_for_space {
            return;
        }
        process.is_turn_due = true;
        self.after(0, What::Coordinator(Happens::Turn { start }));
    }

    pub(crate) fn tell_coordinator(&mut self, message: Message) {
        let Some(process) = &mut self.coordinator.process else { return };
        if process.waits_for_space {
            // As driver.rs: everybody is refused until there is space; agents repeat what they said.
            let (Message::Submit(asker, _) | Message::Cancel(asker, _) | Message::Delete(asker, _)) = message
            else {
                return;
            };
            self.answer_full(&asker);
            return;
        }
        process.inbox.push_back(message);
        self.want_turn();
    }

    fn turn(&mut self) {
        let now = self.coordinator_now();
        let Some(process) = &mut self.coordinator.process else { return };
        process.is_turn_due = false;
        if process.committing.is_some() || process.waits_for_space {
            return;
        }
        let mut batch = Batch::default();
        let mut wrong = Vec::new();
        for message in std::mem::take(&mut process.inbox) {
            let event = process.event(&self.coordinator.store, message);
            let step = step(&mut process.state, now, event);
            batch.changes.extend(step.commit);
            batch.effects.extend(step.then);
            wrong.extend(process.state.check());
        }
        if let Some(first) = wrong.into_iter().next() {
            return self.violate("state", first);
        }
        let start = self.coordinator.start;
        if trainyard_core::mutant!("effects-before-commit") {
            let effects = std::mem::take(&mut batch.effects);
            effects.into_iter().for_each(|effect| self.perform(effect));
        }
        let Some(process) = &mut self.coordinator.process else { return };
        if batch.changes.is_empty() {
            process.committing = Some(batch);
            return self.committed();
        }
        if self.now < self.coordinator.full_until {
            return self.disk_is_full(batch);
        }
        process.committing = Some(batch);
        if let Some(after) = self.coordinator.dies_at_commit.take() {
            if after {
                self.write();
            }
            let down_ms = self.draw(1..5_000);
            return self.kill_coordinator(down_ms);
        }
        let slow = if self.now < self.coordinator.slow_until { 3_000 } else { 10 };
        let ms = self.draw(1..slow);
        self.after(ms, What::Coordinator(Happens::Committed { start }));
    }

    /// The transaction is on disk.
    fn write(&mut self) {
        let Some(batch) = self.coordinator.process.as_mut().and_then(|process| process.committing.as_mut())
        else {
            return;
        };
        let changes = std::mem::take(&mut batch.changes);
        for change in changes {
            self.check_record(&change);
            let store = &mut self.coordinator.store;
            match change {
                Record::PutJob(job) => {
                    store.next_job = store.next_job.max(job.id.0 + 1);
                    store.jobs.insert(job.id, *job);
                }
                Record::PutPlan { gang, nodes } => drop(store.plans.insert(gang, nodes)),
                Record::DeleteJob(id) => {
                    store.jobs.remove(&id);
                    store.plans.retain(|gang, _| gang.job != id);
                }
                Record::PutNode { node, epoch, facts } => drop(store.nodes.insert(node, (epoch, facts))),
                Record::PutDrain { node, drain: Some(drain) } => drop(store.drains.insert(node, drain)),
                Record::PutDrain { node, drain: None } => drop(store.drains.remove(&node)),
                Record::Journal(_) => {}
            }
        }
    }

    fn committed(&mut self) {
        self.write();
        let Some(process) = &mut self.coordinator.process else { return };
        let Some(batch) = process.committing.take() else { return };
        process.state.forget_finished();
        for effect in batch.effects {
            self.perform(effect);
        }
        let now = self.coordinator_now().tick;
        let start = self.coordinator.start;
        let Some(process) = &mut self.coordinator.process else { return };
        if let Some(first) = process.state.jobs.values().find(|job| !job.is_open()) {
            let text = format!("job {} is over and still in memory", first.id);
            return self.violate("15", text);
        }
        let deadline =
            process.state.next_deadline().map(|tick| self.coordinator.clock.when(tick.0.max(now.0)));
        if let Some(at) = deadline.filter(|at| process.wake.is_none_or(|wake| *at < wake)) {
            process.wake = Some(at);
            self.at(at, What::Coordinator(Happens::Wake { start }));
        }
        let more = self.coordinator.process.as_ref().is_some_and(|process| !process.inbox.is_empty());
        if more {
            self.want_turn();
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Reply(ReplyTo(reply), answer) => {
                let asker =
                    self.coordinator.process.as_mut().and_then(|process| process.askers.remove(&reply));
                match asker {
                    Some(Asker::Client(request)) => self.answer_client(request, Some(answer)),
                    Some(Asker::Session(connection, n)) => self.answer_join(connection, n, answer),
                    None => {}
                }
            }
            Effect::Send { node, epoch, command } => {
                let Some(process) = &self.coordinator.process else { return };
                let generation = process.state.generation;
                let connection = process
                    .sessions
                    .get(&node)
                    .filter(|(open, _)| *open == epoch)
                    .map(|(_, connection)| *connection);
                if let Some(connection) = connection {
                    self.check_send(&node, &command);
                    self.send_down(connection, Down::Command { generation, epoch, command });
                }
            }
            Effect::DropLogs(_) => {}
        }
    }

    fn answer_join(&mut self, connection: u64, n: usize, answer: Answer) {
        let Answer::Welcome(welcome) = answer else {
            self.note("refused", connection, || format!("{answer:?}"));
            self.send_down(connection, Down::Refused);
            self.close_at_coordinator(connection);
            return;
        };
        let start = self.coordinator.start;
        let node = self.nodes[n].id.clone();
        let Some(open) = self.net.connections.get_mut(&connection).filter(|open| open.open_at_coordinator)
        else {
            let left = Event::NodeLeft { node, epoch: welcome.epoch };
            return self.tell_coordinator(Message::Event(Box::new(left)));
        };
        open.epoch = Some(welcome.epoch);
        let Some(process) = &mut self.coordinator.process else { return };
        if let Some((_, old)) = process.sessions.insert(node, (welcome.epoch, connection)) {
            self.close_at_coordinator(old);
        }
        self.coverage.hit("answer", "welcome");
        self.send_down(connection, Down::Welcome(welcome));
        self.after(SILENCE_MS, What::Coordinator(Happens::LookAtSession { start, connection }));
    }

    fn look_at_session(&mut self, connection: u64) {
        let start = self.coordinator.start;
        let Some(open) = self.net.connections.get(&connection).filter(|c| c.open_at_coordinator) else {
            return;
        };
        let due = open.heard + SILENCE_MS;
        if due <= self.now {
            self.coverage.hit("session", "coordinator saw silence");
            self.session_is_over(connection);
        } else {
            self.at(due, What::Coordinator(Happens::LookAtSession { start, connection }));
        }
    }

    pub(crate) fn session_is_over(&mut self, connection: u64) {
        let left = self.net.connections.get(&connection).and_then(|open| Some((open.node, open.epoch?)));
        self.close_at_coordinator(connection);
        if let Some((node, epoch)) = left {
            let node = self.nodes[node].id.clone();
            if let Some(process) = &mut self.coordinator.process {
                process.sessions.retain(|_, (_, open)| *open != connection);
            }
            self.tell_coordinator(Message::Event(Box::new(Event::NodeLeft { node, epoch })));
        }
    }

    pub(crate) fn on_up(&mut self, connection: u64, message: Up) {
        let Some(open) = self.net.connections.get_mut(&connection) else { return };
        let n = open.node;
        let node = self.nodes[n].id.clone();
        let epoch = open.epoch;
        match message {
            Up::Hello(hello) => self.tell_coordinator(Message::Join(Asker::Session(connection, n), hello)),
            Up::Heartbeat { boot_ms } => {
                let Some(epoch) = epoch else { return };
                let told = self.nodes[open.node].told_at_coordinator;
                if self.now >= told + HEARD_AT_MOST_EVERY_MS {
                    self.nodes[open.node].told_at_coordinator = self.now;
                    self.heard(node, epoch, Vec::new());
                }
                self.send_down(connection, Down::HeartbeatAck { boot_ms });
            }
            Up::Reports { epoch: said, reports } if epoch == Some(said) => {
                self.nodes[open.node].told_at_coordinator = self.now;
                self.heard(node, said, reports);
            }
            Up::Reports { .. } => self.session_is_over(connection),
            Up::Facts { epoch } => {
                let facts = Box::new(self.nodes[open.node].facts.clone());
                self.tell_coordinator(Message::Event(Box::new(Event::FactsChanged { node, epoch, facts })));
            }
            Up::Closed => {
                self.session_is_over(connection);
            }
        }
    }

    pub(crate) fn heard(&mut self, node: NodeId, epoch: Epoch, reports: Vec<Report>) {
        self.tell_coordinator(Message::Event(Box::new(Event::Heard { node, epoch, reports })));
    }

    fn disk_is_full(&mut self, batch: Batch) {
        let start = self.coordinator.start;
        drop(batch);
        let Some(process) = &mut self.coordinator.process else { return };
        process.waits_for_space = true;
        process.committing = None;
        process.sessions.clear();
        let askers = std::mem::take(&mut process.askers);
        for asker in askers.into_values() {
            self.answer_full(&asker);
        }
        let ids: Vec<u64> = self.net.connections.keys().copied().collect();
        ids.into_iter().for_each(|id| self.close_at_coordinator(id));
        self.after(FULL_RETRY_MS, What::Coordinator(Happens::LookForSpace { start }));
    }

    fn look_for_space(&mut self) {
        let start = self.coordinator.start;
        if self.now < self.coordinator.full_until {
            return self.after(FULL_RETRY_MS, What::Coordinator(Happens::LookForSpace { start }));
        }
        let generation = Generation(self.coordinator.store.generation);
        let state = recover(
            self.coordinator.config.clone(),
            generation,
            self.coordinator.load(),
            self.coordinator_now(),
        );
        let Some(process) = &mut self.coordinator.process else { return };
        process.state = state;
        process.waits_for_space = false;
        process.inbox.push_back(Message::Event(Box::new(Event::Woke)));
        self.want_turn();
    }

    fn answer_full(&mut self, asker: &Asker) {
        match asker {
            Asker::Client(request) => self.answer_client(*request, None),
            Asker::Session(connection, _) => self.close_at_coordinator(*connection),
        }
    }
}

impl Process {
    fn event(&mut self, store: &Store, message: Message) -> Event {
        let finished = |state: &State, key: &JobKey, offered: Option<&JobSpec>| {
            let folded = key.folded();
            if state.names.contains_key(&folded) {
                return None;
            }
            let job = store.jobs.values().find(|job| !job.is_open() && job.key.folded() == folded)?;
            Some(FinishedJob { id: job.id, same_spec: offered == Some(&job.spec) })
        };
        match message {
            Message::Event(event) => *event,
            Message::Submit(asker, job) => {
                let finished = finished(&self.state, &job.key, Some(&job.spec));
                Event::Submitted { reply: self.ask(asker), job, finished }
            }
            Message::Cancel(asker, key) => {
                let finished = finished(&self.state, &key, None);
                Event::Cancelled { reply: self.ask(asker), key, finished }
            }
            Message::Delete(asker, key) => {
                let finished = finished(&self.state, &key, None);
                Event::Deleted { reply: self.ask(asker), key, finished }
            }
            Message::Join(asker, hello) => Event::NodeJoined { reply: self.ask(asker), hello },
        }
    }

    fn ask(&mut self, asker: Asker) -> ReplyTo {
        self.next_reply += 1;
        self.askers.insert(self.next_reply, asker);
        ReplyTo(self.next_reply)
    }
}
