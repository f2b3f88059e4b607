//! An agent's process: the real core, and a model of its driver, its journal and its link.
//!
//! What stands for real parts: `turn` and `committed` for agent/src/driver.rs (one commit per turn, effects after it),
//! `Journal` for the journal file (what is written survives the process, what is synced survives the power),
//! `connect` and `beat` for agent/src/link.rs.

use std::collections::{BTreeMap, VecDeque};

use trainyard_core::agent::{self, Effect, Event, Found, Now, Phase, Record, SetupProblem, State};
use trainyard_core::id::{AttemptId, Epoch, Generation, NodeId};
use trainyard_core::plan::PortSpace;
use trainyard_core::session::{Command, GpuFact, HeldGang, Hello, NodeFacts, Report, Welcome};
use trainyard_core::unit::GpuUuid;

use super::clock::Clock;
use super::net::{Down, Up};
use super::shim::{Processes, Watch};
use super::{ByAttempt, Life, What, World};
use crate::workload::Shape;

/// Unanswered heartbeats that end a session.
const MISSED_MAX: u32 = 3;
/// First and longest pause between two tries to connect, ms.
const BACK_OFF_MS: (u64, u64) = (50, 5_000);
/// Without a Welcome in this time the try is given up, ms.
const WELCOME_WAIT_MS: u64 = 10_000;

/// What happens to an agent.
#[derive(Clone, Debug)]
pub(crate) enum Happens {
    Start,
    Turn,
    Committed,
    /// A result of an effect.
    Core(Box<Event>),
    Connect,
    /// The connection was not answered.
    NotWelcomed {
        session: u64,
    },
    Beat {
        session: u64,
    },
    /// Look after an attempt whose shim should have done something.
    Overdue {
        attempt: trainyard_core::id::AttemptId,
    },
    /// The connection to a shim is gone.
    ShimGone {
        attempt: trainyard_core::id::AttemptId,
    },
    Adopt {
        attempt: trainyard_core::id::AttemptId,
    },
    OrphanWake {
        attempt: trainyard_core::id::AttemptId,
    },
}

#[derive(Debug)]
enum Message {
    Core(Event),
    Greet,
    Welcomed { session: u64, welcome: Welcome },
    HeartbeatAcked { session: u64, boot_ms: u64 },
    Commanded { session: u64, generation: Generation, epoch: Epoch, command: Command },
    Lost { session: u64 },
}

#[derive(Debug)]
enum Act {
    Effect(Effect),
    Greet { held: Vec<HeldGang>, stuck: Vec<AttemptId>, last_generation: Generation },
    Leave,
}

/// The journal file.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) records: Vec<Record>,
    synced: usize,
}

impl Journal {
    /// As agent/src/journal/disk.rs: appended, and synced if one of the records asks for it.
    fn append(&mut self, records: &[Record]) {
        if trainyard_core::mutant!("journal-not-written") {
            return;
        }
        self.records.extend_from_slice(records);
        if records.iter().any(Record::must_sync) {
            self.synced = self.records.len();
        }
    }
}

/// A living agent.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) state: State,
    inbox: VecDeque<Message>,
    is_turn_due: bool,
    committing: Option<(Vec<Record>, Vec<Act>)>,
    /// Number of the newest session, and of the one that the driver speaks to.
    newest: u64,
    session: Option<u64>,
    link: Link,
    pub(crate) watched: ByAttempt<Watch>,
}

#[derive(Debug, Default)]
struct Link {
    connection: Option<u64>,
    welcome: Option<Welcome>,
    unsent: Vec<Vec<Report>>,
    missed: u32,
    pause_ms: u64,
}

/// A machine, or one of the agents of a machine.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) facts: NodeFacts,
    pub(crate) clock: Clock,
    pub(crate) boots: u64,
    pub(crate) life: Life,
    pub(crate) agent: Option<Process>,
    pub(crate) journal: Journal,
    pub(crate) processes: Processes,
    /// The agent alone, or the whole node, stands still until then.
    pub(crate) agent_stopped_until: u64,
    pub(crate) frozen_until: u64,
    pub(crate) thawed_at: u64,
    pub(crate) waiting: Vec<What>,
    pub(crate) told_at_coordinator: u64,
    pub(crate) next_setup: Option<SetupProblem>,
    pub(crate) next_launch_fails: bool,
    /// It dies at its next commit: `Some(true)` amid its effects.
    pub(crate) dies_at_commit: Option<bool>,
    /// Commands and reports of the past, to come again.
    pub(crate) past_commands: Vec<(Generation, Epoch, Command)>,
    pub(crate) past_reports: Vec<(Epoch, Vec<Report>)>,
}

impl Node {
    pub(crate) fn new(n: usize, shape: &Shape, seed: u64) -> Node {
        let rate = [0, 450, -450, 200][(n + seed as usize) % 4];
        let boot_id = if shape.one_machine { "boot-0".to_owned() } else { format!("boot-{n}-0") };
        let gpus = (0..shape.gpus)
            .map(|gpu| GpuFact { uuid: GpuUuid(format!("GPU-{n}-{gpu}")), fault: String::new() })
            .collect();
        let facts = NodeFacts {
            version: "0".to_owned(),
            address: format!("10.0.0.{}", n + 4),
            root: format!("/nodes/{n}/LS_root"),
            port_space: PortSpace { boot_id, network_namespace: 1 },
            privileged: true,
            base_environment: BTreeMap::new(),
            gpus,
            gpu_problem: String::new(),
            degraded: String::new(),
            stuck: Vec::new(),
        };
        Node {
            id: NodeId(format!("node-{n}")),
            facts,
            clock: Clock::new(rate, (n as i64) * 300_000),
            boots: 0,
            life: 0,
            agent: None,
            journal: Journal::default(),
            processes: Processes::default(),
            agent_stopped_until: 0,
            frozen_until: 0,
            thawed_at: 0,
            waiting: Vec::new(),
            told_at_coordinator: 0,
            next_setup: None,
            next_launch_fails: false,
            dies_at_commit: None,
            past_commands: Vec::new(),
            past_reports: Vec::new(),
        }
    }

    /// Whether its agent does nothing, though it may live.
    pub(crate) fn stands_still(&self) -> bool {
        self.agent_stopped_until > 0 || self.frozen_until > 0
    }

    pub(crate) fn holds_nothing(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| {
            agent.state.held().is_empty() && agent.inbox.is_empty() && agent.committing.is_none()
        })
    }

    pub(crate) fn held(&self) -> Vec<String> {
        let Some(agent) = &self.agent else { return vec![format!("{} is down", self.id)] };
        agent.state.held().iter().map(|held| format!("{} holds {held:?}", self.id)).collect()
    }

    /// What nobody owns once all jobs are over.
    pub(crate) fn leaks(&self) -> Vec<String> {
        let mut leaks = self.held();
        leaks.extend(self.processes.left().into_iter().map(|left| format!("{}: {left}", self.id)));
        leaks
    }

    fn now(&self, now: u64) -> Now {
        Now { boot_ms: self.clock.boot_ms(now), wall: self.clock.wall(now) }
    }
}

impl World {
    pub(crate) fn start_agent(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.life += 1;
        let state = State::recover(node.journal.records.clone());
        let boot_id = node.facts.port_space.boot_id.clone();
        let restarted = Message::Core(Event::Restarted { boot_id });
        node.agent = Some(Process {
            state,
            inbox: VecDeque::from([restarted]),
            is_turn_due: false,
            committing: None,
            newest: 0,
            session: None,
            link: Link { pause_ms: BACK_OFF_MS.0, ..Link::default() },
            watched: BTreeMap::new(),
        });
        let life = node.life;
        self.sweep_folders(n);
        self.note("agent starts", n as u64, String::new);
        self.want_agent_turn(n);
        self.after(1, What::Agent { node: n, life, happens: Happens::Connect });
    }

    pub(crate) fn kill_agent(&mut self, n: usize, down_ms: u64) {
        if self.nodes[n].agent.is_none() {
            return;
        }
        self.end_agent(n);
        self.note("agent dies", n as u64, String::new);
        let life = self.nodes[n].life;
        self.after(down_ms.max(1), What::Agent { node: n, life, happens: Happens::Start });
    }

    /// The process is gone; its connections are reset.
    pub(crate) fn end_agent(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let open = node.agent.take().and_then(|agent| agent.link.connection);
        node.agent_stopped_until = 0;
        node.dies_at_commit = None;
        node.waiting.retain(|what| !matches!(what, What::Agent { .. }));
        if let Some(connection) = open {
            self.close_at_agent(connection);
        }
    }

    pub(crate) fn is_connected(&self, n: usize) -> bool {
        self.nodes[n].agent.as_ref().is_some_and(|agent| agent.state.session().is_some())
    }

    pub(crate) fn on_agent(&mut self, n: usize, life: Life, happens: Happens) {
        if life != self.nodes[n].life {
            return;
        }
        if let Happens::Start = happens {
            if self.nodes[n].agent.is_none() {
                self.start_agent(n);
            }
            return;
        }
        if self.nodes[n].agent.is_none() {
            return;
        }
        if self.nodes[n].stands_still() {
            self.nodes[n].waiting.push(What::Agent { node: n, life, happens });
            return;
        }
        match happens {
            Happens::Start => {}
            Happens::Turn => self.agent_turn(n),
            Happens::Committed => self.agent_committed(n),
            Happens::Core(event) => self.tell_agent(n, Message::Core(*event)),
            Happens::Connect => self.connect(n),
            Happens::NotWelcomed { session } => {
                let waits = self.nodes[n].agent.as_ref().is_some_and(|agent| {
                    agent.newest == session && agent.link.connection.is_some() && agent.link.welcome.is_none()
                });
                if waits {
                    self.session_lost(n);
                }
            }
            Happens::Beat { session } => self.beat(n, session),
            Happens::Overdue { attempt } => self.on_overdue(n, attempt),
            Happens::ShimGone { attempt } => self.on_shim_gone(n, attempt),
            Happens::Adopt { attempt } => self.adopt(n, attempt),
            Happens::OrphanWake { attempt } => self.wake_orphan(n, attempt),
        }
    }

    /// An event for the agent of this life, after some time.
    pub(crate) fn agent_later(&mut self, n: usize, ms: u64, happens: Happens) {
        let life = self.nodes[n].life;
        self.after(ms, What::Agent { node: n, life, happens });
    }

    fn want_agent_turn(&mut self, n: usize) {
        let Some(agent) = &mut self.nodes[n].agent else { return };
        if !agent.is_turn_due && agent.committing.is_none() {
            agent.is_turn_due = true;
            self.agent_later(n, 0, Happens::Turn);
        }
    }

    fn tell_agent(&mut self, n: usize, message: Message) {
        if let Some(agent) = &mut self.nodes[n].agent {
            agent.inbox.push_back(message);
        }
        self.want_agent_turn(n);
    }

    fn agent_turn(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let now = node.now(self.now);
        let Some(agent) = &mut node.agent else { return };
        agent.is_turn_due = false;
        if agent.committing.is_some() {
            return;
        }
        let mut records = Vec::new();
        let mut acts = Vec::new();
        let mut wrong = Vec::new();
        for message in std::mem::take(&mut agent.inbox) {
            let before = phases(&agent.state);
            let stale = agent.stale_command(&message);
            let (held, stepped) = (records.len(), acts.len());
            agent.on_message(message, now, &mut records, &mut acts);
            if let Some(command) = stale {
                self.coverage.hit("stale command", command);
                if records.len() > held || acts.len() > stepped {
                    wrong.push(("8", format!("{}: a late {command} was obeyed", node.id)));
                }
            }
            edges(&mut self.coverage, &before, &phases(&agent.state));
            wrong.extend(agent.state.check().into_iter().map(|text| ("state", text)));
        }
        if let Some((invariant, text)) = wrong.into_iter().next() {
            return self.violate(invariant, text);
        }
        agent.committing = Some((records, acts));
        if let Some(amid) = self.nodes[n].dies_at_commit.take() {
            return self.die_at_commit(n, amid);
        }
        let ms = self.draw(0..8);
        self.agent_later(n, ms, Happens::Committed);
    }

    fn die_at_commit(&mut self, n: usize, amid: bool) {
        let Some((records, acts)) = self.nodes[n].agent.as_mut().and_then(|agent| agent.committing.take())
        else {
            return;
        };
        if amid {
            self.nodes[n].journal.append(&records);
            records.iter().for_each(|record| self.check_agent_record(n, record));
            let some = if acts.is_empty() { 0 } else { self.draw(0..acts.len() as u64 + 1) };
            let acts = acts.into_iter().take(usize::try_from(some).unwrap_or(0)).collect();
            self.carry_out(n, acts);
        } else {
            // The write itself is cut: a whole number of lines, since a torn one is cut off at the next start.
            let whole = self.draw(0..records.len() as u64 + 1);
            self.nodes[n]
                .journal
                .records
                .extend(records.into_iter().take(usize::try_from(whole).unwrap_or(0)));
        }
        let down_ms = self.draw(1..2_000);
        self.kill_agent(n, down_ms);
    }

    fn agent_committed(&mut self, n: usize) {
        let Some((records, acts)) = self.nodes[n].agent.as_mut().and_then(|agent| agent.committing.take())
        else {
            return;
        };
        self.nodes[n].journal.append(&records);
        records.iter().for_each(|record| self.check_agent_record(n, record));
        self.carry_out(n, acts);
        if self.nodes[n].agent.as_ref().is_some_and(|agent| !agent.inbox.is_empty()) {
            self.want_agent_turn(n);
        }
    }

    fn carry_out(&mut self, n: usize, acts: Vec<Act>) {
        let mut reports = Vec::new();
        for act in acts {
            match act {
                Act::Effect(Effect::Report(report)) => {
                    if let Report::Prepared(gang) = &report {
                        let (gang, id) = (*gang, self.nodes[n].id.clone());
                        self.check_prepared(gang, id);
                    }
                    reports.push(report);
                }
                Act::Effect(effect) => self.agent_effect(n, effect),
                Act::Greet { held, stuck, last_generation } => {
                    self.send_reports(n, std::mem::take(&mut reports));
                    let node = &mut self.nodes[n];
                    let Some(agent) = &mut node.agent else { return };
                    agent.session = Some(agent.newest);
                    let facts = NodeFacts { stuck, ..node.facts.clone() };
                    let hello = Hello { node: node.id.clone(), facts, held, last_generation };
                    if let Some(connection) = agent.link.connection {
                        self.check_hello(&hello);
                        self.send_up(connection, Up::Hello(Box::new(hello)));
                    }
                }
                Act::Leave => {
                    self.send_reports(n, std::mem::take(&mut reports));
                    if let Some(agent) = &mut self.nodes[n].agent {
                        agent.session = None;
                    }
                }
            }
        }
        self.send_reports(n, reports);
    }

    fn send_reports(&mut self, n: usize, reports: Vec<Report>) {
        let Some(agent) = &mut self.nodes[n].agent else { return };
        if reports.is_empty() || agent.session != Some(agent.newest) {
            return;
        }
        match (agent.link.welcome, agent.link.connection) {
            (Some(welcome), Some(connection)) => {
                self.nodes[n].past_reports.push((welcome.epoch, reports.clone()));
                self.send_up(connection, Up::Reports { epoch: welcome.epoch, reports });
            }
            (None, Some(_)) => agent.link.unsent.push(reports),
            (_, None) => {}
        }
    }

    fn agent_effect(&mut self, n: usize, effect: Effect) {
        match effect {
            Effect::Report(_) | Effect::OpenLogs { .. } | Effect::Mirror { .. } | Effect::EndLogs { .. } => {}
            Effect::Note { text, .. } => self.check_text("execution.log", &text),
            Effect::Disconnect { .. } => self.session_lost(n),
            Effect::SetUp { gang, .. } => {
                let problem = self.nodes[n].next_setup.take();
                let ms = self.draw(1..3_000);
                self.agent_later(n, ms, Happens::Core(Box::new(Event::SetUp { gang, problem })));
            }
            Effect::Wipe { job_temps } => {
                self.agent_later(n, 20, Happens::Core(Box::new(Event::Wiped { job_temps })));
            }
            Effect::CloseLogs { gang } => {
                let ms = self.draw(1..2_000);
                self.agent_later(n, ms, Happens::Core(Box::new(Event::LogsClosed { gang })));
            }
            Effect::CleanUp { attempts, .. } => self.clean_up(n, &attempts),
            Effect::Launch { attempt, command, fence_boot_ms } => {
                self.launch(n, attempt, *command, fence_boot_ms);
            }
            Effect::Adopt { attempt } => {
                let ms = self.draw(1..20);
                self.agent_later(n, ms, Happens::Adopt { attempt });
            }
            Effect::Stop { attempt, grace_ms } => self.order(n, attempt, Some(grace_ms), None),
            Effect::Renew { attempt, fence_boot_ms } => self.order(n, attempt, None, Some(fence_boot_ms)),
        }
    }

    fn connect(&mut self, n: usize) {
        let reaches = self.coordinator.is_up() && !self.net.is_cut(n, true) && !self.net.is_cut(n, false);
        let life = self.nodes[n].life;
        let Some(agent) = &mut self.nodes[n].agent else { return };
        if agent.link.connection.is_some() {
            return;
        }
        if !reaches {
            return self.connect_later(n);
        }
        agent.newest += 1;
        let session = agent.newest;
        let connection = self.open_connection(n, life);
        let Some(agent) = &mut self.nodes[n].agent else { return };
        agent.link.connection = Some(connection);
        agent.link.welcome = None;
        agent.link.unsent.clear();
        agent.link.missed = 0;
        self.tell_agent(n, Message::Greet);
        self.agent_later(n, WELCOME_WAIT_MS, Happens::NotWelcomed { session });
    }

    fn connect_later(&mut self, n: usize) {
        let Some(agent) = &mut self.nodes[n].agent else { return };
        let pause_ms = agent.link.pause_ms;
        agent.link.pause_ms = (pause_ms * 2).min(BACK_OFF_MS.1);
        let ms = self.draw(pause_ms / 2..pause_ms + 1);
        self.agent_later(n, ms, Happens::Connect);
    }

    /// The link gives its session up, and tries again.
    pub(crate) fn session_lost(&mut self, n: usize) {
        let Some(agent) = &mut self.nodes[n].agent else { return };
        let Some(connection) = agent.link.connection.take() else { return };
        if agent.link.welcome.take().is_some() {
            agent.link.pause_ms = BACK_OFF_MS.0;
        }
        let session = agent.newest;
        self.note("session lost", n as u64, || format!("{session}"));
        self.close_at_agent(connection);
        self.tell_agent(n, Message::Lost { session });
        self.connect_later(n);
    }

    pub(crate) fn on_down(&mut self, n: usize, connection: u64, message: Down) {
        let Some(agent) = &mut self.nodes[n].agent else { return };
        if agent.link.connection != Some(connection) {
            return;
        }
        let session = agent.newest;
        match message {
            Down::Welcome(welcome) => {
                agent.link.welcome = Some(welcome);
                let unsent = std::mem::take(&mut agent.link.unsent);
                self.coverage.hit("session", "welcomed");
                self.note("welcomed", n as u64, || format!("{welcome:?}"));
                self.tell_agent(n, Message::Welcomed { session, welcome });
                for reports in unsent {
                    self.send_up(connection, Up::Reports { epoch: welcome.epoch, reports });
                }
                self.agent_later(n, welcome.heartbeat_ms, Happens::Beat { session });
            }
            Down::Refused | Down::Closed => self.session_lost(n),
            Down::HeartbeatAck { boot_ms } => {
                agent.link.missed = 0;
                self.tell_agent(n, Message::HeartbeatAcked { session, boot_ms });
            }
            Down::Command { generation, epoch, command } => {
                self.coverage.hit("command", crate::check::command_word(&command));
                self.nodes[n].past_commands.push((generation, epoch, command.clone()));
                self.tell_agent(n, Message::Commanded { session, generation, epoch, command });
            }
        }
    }

    /// A command of the past comes to the core itself: whatever stands before it has let it pass.
    pub(crate) fn replay_command(&mut self, n: usize, pick: u32) -> bool {
        let node = &self.nodes[n];
        let Some(session) = node.agent.as_ref().map(|agent| agent.newest) else { return false };
        if node.past_commands.is_empty() || node.stands_still() {
            return false;
        }
        let (generation, epoch, command) =
            node.past_commands[pick as usize % node.past_commands.len()].clone();
        self.tell_agent(n, Message::Commanded { session, generation, epoch, command });
        true
    }

    fn beat(&mut self, n: usize, session: u64) {
        let boot_ms = self.nodes[n].clock.boot_ms(self.now);
        let Some(agent) = &mut self.nodes[n].agent else { return };
        let (Some(welcome), Some(connection)) = (agent.link.welcome, agent.link.connection) else { return };
        if agent.newest != session {
            return;
        }
        if agent.link.missed >= MISSED_MAX {
            self.coverage.hit("session", "agent saw silence");
            return self.session_lost(n);
        }
        agent.link.missed += 1;
        let shortest = agent.state.shortest_lease_ms().map_or(u64::MAX, |lease_ms| lease_ms / 4);
        let pause_ms = welcome.heartbeat_ms.min(shortest).max(500);
        self.send_up(connection, Up::Heartbeat { boot_ms });
        self.agent_later(n, pause_ms, Happens::Beat { session });
    }

    pub(crate) fn facts_changed(&mut self, n: usize) {
        let Some(agent) = &self.nodes[n].agent else { return };
        if let (Some(welcome), Some(connection)) = (agent.link.welcome, agent.link.connection) {
            self.send_up(connection, Up::Facts { epoch: welcome.epoch });
        }
    }

    /// What was written and not synced may be lost with the power.
    pub(crate) fn lose_unsynced(&mut self, n: usize) {
        let (synced, all) = (self.nodes[n].journal.synced, self.nodes[n].journal.records.len());
        let kept = synced + usize::try_from(self.draw(0..(all - synced) as u64 + 1)).unwrap_or(0);
        self.nodes[n].journal.records.truncate(kept);
        self.nodes[n].journal.synced = kept;
    }

    pub(crate) fn hit_found(&mut self, found: &Found, without_shim: bool) {
        let word = match found {
            Found::Running { .. } if without_shim => "running without shim",
            Found::Running { .. } => "running",
            Found::Ended(ended) if ended.cause == trainyard_core::session::EndCause::Lost => "lost",
            Found::Ended(_) => "ended",
            Found::NeverStarted => "never started",
        };
        self.coverage.hit("found", word);
    }
}

impl Process {
    /// As agent/src/driver.rs does it: words of another session than the newest are dropped.
    fn on_message(&mut self, message: Message, now: Now, records: &mut Vec<Record>, acts: &mut Vec<Act>) {
        let newest = self.newest;
        let mut step = |state: &mut State, event| {
            let step = agent::step(state, now, event);
            records.extend(step.commit);
            acts.extend(step.then.into_iter().map(Act::Effect));
        };
        match message {
            Message::Core(event) => step(&mut self.state, event),
            Message::Greet => {
                step(&mut self.state, Event::Disconnected);
                step(&mut self.state, Event::Greeted { boot_ms: now.boot_ms });
                acts.push(Act::Greet {
                    held: self.state.held(),
                    stuck: self.state.stuck().iter().copied().collect(),
                    last_generation: self.state.generation(),
                });
            }
            Message::Welcomed { session, welcome } if session == newest => {
                step(&mut self.state, Event::Welcomed(welcome));
            }
            Message::HeartbeatAcked { session, boot_ms } if session == newest => {
                step(&mut self.state, Event::HeartbeatAcked { boot_ms });
            }
            Message::Commanded { session, generation, epoch, command } if session == newest => {
                step(&mut self.state, Event::Commanded { generation, epoch, command });
            }
            Message::Lost { session } if session == newest => {
                step(&mut self.state, Event::Disconnected);
                acts.push(Act::Leave);
            }
            Message::Welcomed { .. }
            | Message::HeartbeatAcked { .. }
            | Message::Commanded { .. }
            | Message::Lost { .. } => {}
        }
    }

    /// The name of a command that belongs to another session than the open one.
    fn stale_command(&self, message: &Message) -> Option<&'static str> {
        let Message::Commanded { generation, epoch, command, .. } = message else { return None };
        (self.state.session() != Some((*generation, *epoch))).then(|| crate::check::command_word(command))
    }
}

fn phases(state: &State) -> Vec<(trainyard_core::id::GangId, &'static str)> {
    let word = |phase: &Phase| match phase {
        Phase::Awaiting => "awaiting",
        Phase::SettingUp => "setting up",
        Phase::Preparation(_) => "preparation",
        Phase::Prepared => "prepared",
        Phase::Running(_) => "running",
        Phase::Closing(_) => "closing",
        Phase::Ended(_) => "ended",
    };
    state.gangs().iter().map(|(id, gang)| (*id, word(&gang.phase))).collect()
}

fn edges(
    coverage: &mut crate::coverage::Coverage,
    before: &[(trainyard_core::id::GangId, &'static str)],
    after: &[(trainyard_core::id::GangId, &'static str)],
) {
    let find = |list: &[(trainyard_core::id::GangId, &'static str)], id| {
        list.iter().find(|(gang, _)| *gang == id).map_or("none", |(_, word)| *word)
    };
    for (id, to) in after {
        let from = find(before, *id);
        if from != *to {
            coverage.hit("gang on its node", format_args!("{from} > {to}"));
        }
    }
    for (id, from) in before {
        if find(after, *id) == "none" {
            coverage.hit("gang on its node", format_args!("{from} > none"));
        }
    }
}
