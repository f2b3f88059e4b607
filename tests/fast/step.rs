//! The coordinator's core against a model of agents, network and store, driven by random events.
//!
//! The store keeps what `commit` says; a crash forgets the state and every effect that was not performed.
//! The invariants of docs/reliability.md that concern the core are checked after every event, and at the
//! end, when everything is connected and delivered, every job must be over and every node free.

mod operator;
mod races;
mod retries;
mod silence;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use trainyard_core::coordinator::drain::Drain;
use trainyard_core::coordinator::effect::JournalEntry;
use trainyard_core::coordinator::reason::EndReason;
use trainyard_core::coordinator::recover::{Stored, recover};
use trainyard_core::coordinator::state::{Job, JobPhase};
use trainyard_core::coordinator::{
    Answer, Config, Effect, Event, JobKey, NewJob, Now, Record, ReplyTo, State, step,
};
use trainyard_core::id::{AttemptId, Epoch, GangId, Generation, JobId, NodeId, Rank};
use trainyard_core::plan::task::Role;
use trainyard_core::plan::{NodePlan, PortSpace};
use trainyard_core::session::{
    Command, EndCause, GangPhase, GpuFact, HeldAttempt, HeldGang, Hello, NodeFacts, PrepareFailed,
    PrepareFailure, Report, TaskEnded,
};
use trainyard_core::spec::JobSpec;
use trainyard_core::text::Name;
use trainyard_core::unit::{Exit, GpuUuid, Tick, WallMs};

const NODES: u8 = 3;
const LEASE_MS: u64 = 60_000;

#[derive(Clone, Debug)]
enum Act {
    Submit {
        job: u8,
        nodes: u8,
        tensorflow: bool,
        retries: u8,
    },
    Cancel(u8),
    Delete(u8),
    Connect(u8),
    Disconnect(u8),
    /// One message from the coordinator to the node.
    Down(u8),
    /// One message from the node to the coordinator.
    Up(u8),
    /// The node's preparation ends: 0 well, 1 by the command, 2 by the setup, 3 by a taken port.
    Prepared {
        node: u8,
        how: u8,
    },
    /// One task of the node ends by itself.
    Exit {
        node: u8,
        code: u8,
    },
    /// The coordinator dies; `lose_effects`: between the commit and the effects of the last event.
    Crash {
        lose_effects: bool,
    },
    Advance {
        ms: u16,
    },
    /// An operator drains the node.
    Drain(u8),
    /// An operator resumes the node.
    Resume(u8),
    /// The machine is gone and declared lost; another one takes its place.
    Gone(u8),
    /// A GPU of the node breaks; the next session tells that it was replaced.
    GpuFault(u8),
}

fn act() -> impl Strategy<Value = Act> {
    let node = 0..NODES;
    prop_oneof![
        3 => (0..6u8, 1..=NODES, any::<bool>(), 0..2u8)
            .prop_map(|(job, nodes, tensorflow, retries)| Act::Submit { job, nodes, tensorflow, retries }),
        1 => (0..6u8).prop_map(Act::Cancel),
        1 => (0..6u8).prop_map(Act::Delete),
        3 => node.clone().prop_map(Act::Connect),
        1 => node.clone().prop_map(Act::Disconnect),
        8 => node.clone().prop_map(Act::Down),
        8 => node.clone().prop_map(Act::Up),
        4 => (node.clone(), prop_oneof![6 => Just(0u8), 1 => 1..4u8]).prop_map(|(node, how)| Act::Prepared { node, how }),
        4 => (node.clone(), prop_oneof![5 => Just(0u8), 1 => 1..3u8]).prop_map(|(node, code)| Act::Exit { node, code }),
        1 => any::<bool>().prop_map(|lose_effects| Act::Crash { lose_effects }),
        1 => (0..5_000u16).prop_map(|ms| Act::Advance { ms }),
        1 => (0..NODES).prop_map(Act::Drain),
        1 => (0..NODES).prop_map(Act::Resume),
        1 => (0..NODES).prop_map(Act::Gone),
        1 => (0..NODES).prop_map(Act::GpuFault),
    ]
}

#[derive(Default)]
struct Agent {
    session: Option<Epoch>,
    generation: Generation,
    held: BTreeMap<GangId, Held>,
    seen: BTreeSet<GangId>,
    down: VecDeque<(Epoch, Command)>,
    up: VecDeque<(Epoch, Vec<Report>)>,
    /// When the fence of its attempts expires unless it is renewed.
    fence: Tick,
}

struct Held {
    phase: GangPhase,
    plan: NodePlan,
    start_when_prepared: bool,
    fenced: bool,
    prepare_failed: Option<PrepareFailed>,
    ended: BTreeMap<Rank, TaskEnded>,
}

struct World {
    state: State,
    now: Now,
    agents: BTreeMap<NodeId, Agent>,
    // The store.
    jobs: BTreeMap<JobId, Job>,
    plans: BTreeMap<GangId, Vec<NodePlan>>,
    nodes: BTreeMap<NodeId, (Epoch, NodeFacts)>,
    drains: BTreeMap<NodeId, Drain>,
    journal: Vec<JournalEntry>,
    next_job: JobId,
    /// Every attempt ever started, to find a second start.
    started: BTreeSet<AttemptId>,
    answers: Vec<Answer>,
    acked: BTreeMap<String, JobId>,
    local: bool,
}

impl World {
    fn new(local: bool) -> World {
        let agents = (0..NODES).map(|n| (node(n), Agent::default())).collect();
        World {
            state: State::new(config(local), Generation(1), JobId(1), Epoch(1)),
            now: Now { tick: Tick(1), wall: WallMs(1_000_000) },
            agents,
            jobs: BTreeMap::new(),
            plans: BTreeMap::new(),
            nodes: BTreeMap::new(),
            drains: BTreeMap::new(),
            journal: vec![],
            next_job: JobId(1),
            started: BTreeSet::new(),
            answers: vec![],
            acked: BTreeMap::new(),
            local,
        }
    }

    fn event(&mut self, event: Event, lose_effects: bool) {
        let step = step(&mut self.state, self.now, event);
        for record in step.commit {
            match record {
                Record::PutJob(job) => {
                    self.next_job = self.next_job.max(JobId(job.id.0 + 1));
                    if let Some(before) = self.jobs.get(&job.id) {
                        assert!(before.is_open() || !job.is_open(), "job {} came back from its end", job.id);
                    }
                    // As the store does it: through JSON.
                    let text = serde_json::to_string(&*job).expect("jobs serialise");
                    let mut kept: Job = serde_json::from_str(&text).expect("jobs deserialise");
                    // It keeps the values of secrets apart.
                    kept.spec.secrets = job.spec.secrets;
                    self.jobs.insert(job.id, kept);
                }
                Record::PutPlan { gang, nodes } => {
                    for plan in &nodes {
                        let drained = &self.state.nodes[&plan.node].drain;
                        assert_eq!(*drained, None, "{gang} was placed on {}", plan.node);
                    }
                    self.plans.insert(gang, nodes);
                }
                Record::DeleteJob(id) => {
                    self.jobs.remove(&id);
                    self.acked.retain(|_, acked| *acked != id);
                }
                Record::PutNode { node, epoch, facts } => drop(self.nodes.insert(node, (epoch, facts))),
                Record::PutDrain { node, drain: Some(drain) } => drop(self.drains.insert(node, drain)),
                Record::PutDrain { node, drain: None } => drop(self.drains.remove(&node)),
                Record::Journal(entry) => self.journal.push(entry),
            }
        }
        if lose_effects {
            return;
        }
        for effect in step.then {
            match effect {
                Effect::Reply(_, Answer::Welcome(welcome)) => self.answers.push(Answer::Welcome(welcome)),
                Effect::Reply(_, answer) => self.answers.push(answer),
                Effect::Send { node, epoch, command } => {
                    let agent = self.agents.get_mut(&node).expect("known node");
                    agent.down.push_back((epoch, command));
                }
                Effect::DropLogs(_) => {}
            }
        }
        let wrong = self.state.check();
        assert!(wrong.is_empty(), "{wrong:#?}");
        self.state.forget_finished();
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Submit { job, nodes, tensorflow, retries } => {
                self.submit(*job, spec(*nodes, *tensorflow, *retries));
            }
            Act::Cancel(job) => {
                let finished = self.finished(&key(*job));
                self.event(Event::Cancelled { reply: ReplyTo(0), key: key(*job), finished }, false);
            }
            Act::Delete(job) => {
                let finished = self.finished(&key(*job));
                self.event(Event::Deleted { reply: ReplyTo(0), key: key(*job), finished }, false);
            }
            Act::Connect(n) => self.connect(*n),
            Act::Disconnect(n) => self.disconnect(*n),
            Act::Down(n) => self.down(*n),
            Act::Up(n) => self.up(*n),
            Act::Prepared { node: n, how } => self.prepared(*n, *how),
            Act::Exit { node: n, code } => self.exit(*n, i32::from(*code)),
            Act::Crash { lose_effects } => self.crash(*lose_effects),
            Act::Advance { ms } => self.advance(u64::from(*ms)),
            Act::Drain(n) => {
                let event =
                    Event::NodeDrained { reply: ReplyTo(0), node: node(*n), reason: "test".to_owned() };
                self.event(event, false);
            }
            Act::Resume(n) => self.resume(*n),
            Act::Gone(n) => self.gone(*n),
            Act::GpuFault(n) => self.gpus(*n, "broken"),
        }
        self.check_single_run();
        self.check_acked();
    }

    fn submit(&mut self, job: u8, spec: JobSpec) {
        let key = key(job);
        let mut finished = self.finished(&key);
        if let Some(finished) = &mut finished {
            finished.same_spec = self.jobs[&finished.id].spec == spec;
        }
        let new = NewJob { key: key.clone(), uuid: format!("uuid-{job}"), spec };
        self.answers.clear();
        self.event(Event::Submitted { reply: ReplyTo(0), job: Box::new(new), finished }, false);
        if let [Answer::Created(id)] = self.answers[..] {
            self.acked.insert(key.folded(), id);
        }
    }

    fn resume(&mut self, n: u8) {
        self.event(Event::NodeResumed { reply: ReplyTo(0), node: node(n) }, false);
    }

    /// The machine burns down with all that runs on it, and an operator says so.
    fn gone(&mut self, n: u8) {
        self.disconnect(n);
        let generation = self.agents[&node(n)].generation;
        self.agents.insert(node(n), Agent { generation, ..Agent::default() });
        let event = Event::NodeDeclaredLost { reply: ReplyTo(0), node: node(n), force: false };
        self.event(event, false);
    }

    /// The node tells of its first GPU, if it is connected.
    fn gpus(&mut self, n: u8, fault: &str) {
        let Some(epoch) = self.agents[&node(n)].session else { return };
        let mut facts = facts(n, self.local);
        facts.gpus[0].fault = fault.to_owned();
        self.event(Event::FactsChanged { node: node(n), epoch, facts: Box::new(facts) }, false);
    }

    fn job(&self, id: u64) -> &Job {
        &self.jobs[&JobId(id)]
    }

    /// The present gang of a job; 0 while it is queued.
    fn gang_of(&self, id: u64) -> u32 {
        match &self.job(id).phase {
            JobPhase::Active(gang) => gang.id.gang.0,
            JobPhase::Queued { .. } | JobPhase::Ended { .. } => 0,
        }
    }

    fn reason_of(&self, id: u64) -> &EndReason {
        match &self.job(id).phase {
            JobPhase::Ended { reason, .. } => reason,
            phase => panic!("job {id} is not over: {phase:?}"),
        }
    }

    /// The node does whatever it was told, and says so.
    fn obey(&mut self, n: u8) {
        while !self.agents[&node(n)].down.is_empty() {
            self.down(n);
        }
        self.prepared(n, 0);
        while !self.agents[&node(n)].up.is_empty() {
            self.up(n);
        }
        while !self.agents[&node(n)].down.is_empty() {
            self.down(n);
        }
        while !self.agents[&node(n)].up.is_empty() {
            self.up(n);
        }
    }

    fn runs_on(&self, n: u8) -> bool {
        self.agents[&node(n)].held.values().any(|held| held.phase == GangPhase::Running)
    }

    fn kinds(&self) -> Vec<&'static str> {
        self.journal.iter().map(|entry| entry.kind).collect()
    }

    fn finished(&self, key: &JobKey) -> Option<trainyard_core::coordinator::event::FinishedJob> {
        let job = self.jobs.values().find(|job| job.key.folded() == key.folded() && !job.is_open())?;
        Some(trainyard_core::coordinator::event::FinishedJob { id: job.id, same_spec: false })
    }

    fn connect(&mut self, n: u8) {
        let id = node(n);
        if self.agents[&id].session.is_some() {
            return;
        }
        let (agent, now) = (self.agents.get_mut(&id).expect("known node"), self.now.tick);
        if agent.fence <= now {
            // As the agent does it: what was not started while the lease lasted needs a fresh `Start`.
            let lapsed =
                agent.held.values_mut().filter(|held| held.fenced && held.phase < GangPhase::Running);
            lapsed.for_each(|held| held.start_when_prepared = false);
        }
        let agent = &self.agents[&id];
        let held = agent
            .held
            .iter()
            .map(|(gang, held)| HeldGang {
                gang: *gang,
                phase: held.phase,
                prepare_failed: held.prepare_failed.clone(),
                attempts: held
                    .plan
                    .tasks
                    .iter()
                    .filter(|_| held.phase >= GangPhase::Running)
                    .map(|task| HeldAttempt {
                        attempt: gang.attempt(task.rank),
                        started: Some((1, WallMs(1))),
                        ended: held.ended.get(&task.rank).cloned(),
                    })
                    .collect(),
            })
            .collect();
        let hello =
            Hello { node: id.clone(), facts: facts(n, self.local), held, last_generation: agent.generation };
        self.answers.clear();
        self.event(Event::NodeJoined { reply: ReplyTo(1), hello: Box::new(hello) }, false);
        let welcome =
            self.answers.iter().find_map(|a| if let Answer::Welcome(w) = a { Some(*w) } else { None });
        let agent = self.agents.get_mut(&id).expect("known node");
        match welcome {
            Some(welcome) => {
                agent.session = Some(welcome.epoch);
                agent.generation = welcome.generation;
                agent.fence = self.now.tick.plus_ms(LEASE_MS);
            }
            None => panic!("refused: {:?}", self.answers),
        }
    }

    fn disconnect(&mut self, n: u8) {
        let agent = self.agents.get_mut(&node(n)).expect("known node");
        let Some(epoch) = agent.session.take() else { return };
        agent.up.clear();
        agent.down.clear();
        self.event(Event::NodeLeft { node: node(n), epoch }, false);
    }

    fn down(&mut self, n: u8) {
        let id = node(n);
        let agent = self.agents.get_mut(&id).expect("known node");
        let Some((epoch, command)) = agent.down.pop_front() else { return };
        if agent.session != Some(epoch) {
            return;
        }
        match command {
            Command::Prepare { gang, plan, start_when_prepared, lease_ms } => {
                if agent.seen.insert(gang) {
                    let fenced = lease_ms > 0;
                    let held = Held {
                        phase: GangPhase::Preparing,
                        plan: *plan,
                        start_when_prepared,
                        fenced,
                        prepare_failed: None,
                        ended: BTreeMap::new(),
                    };
                    agent.held.insert(gang, held);
                }
            }
            Command::Start(gang) => self.start(&id, gang),
            Command::Stop { gang, .. } => {
                if let Some(held) = agent.held.get_mut(&gang) {
                    let mut reports = vec![];
                    if held.phase == GangPhase::Running {
                        for task in &held.plan.tasks {
                            let attempt = gang.attempt(task.rank);
                            held.ended.entry(task.rank).or_insert_with(|| {
                                let ended = ended(attempt, Exit::Signal(15), EndCause::Stopped);
                                reports.push(Report::Ended(ended.clone()));
                                ended
                            });
                        }
                    }
                    held.phase = GangPhase::Ended;
                    reports.push(Report::GangEnded(gang));
                    agent.up.push_back((epoch, reports));
                } else if agent.seen.insert(gang) {
                    // A Stop that overtook its Prepare: never launch it.
                    agent.up.push_back((epoch, vec![Report::GangEnded(gang)]));
                }
            }
            Command::Release(gang) => {
                let over = agent.held.get(&gang).is_none_or(|held| held.phase == GangPhase::Ended);
                assert!(over, "release of {gang}, which runs");
                agent.held.remove(&gang);
            }
            Command::EndedAck(_) => {}
        }
    }

    fn start(&mut self, id: &NodeId, gang: GangId) {
        let agent = self.agents.get_mut(id).expect("known node");
        let Some(held) = agent.held.get_mut(&gang).filter(|held| held.phase == GangPhase::Prepared) else {
            return;
        };
        if held.fenced && agent.fence <= self.now.tick {
            // The shim looks at its fence before it launches: nobody knows whether another gang runs by now.
            let mut reports = vec![];
            for task in &held.plan.tasks {
                let end = ended(gang.attempt(task.rank), Exit::Unknown, EndCause::Fenced);
                held.ended.insert(task.rank, end.clone());
                reports.push(Report::Ended(end));
            }
            held.phase = GangPhase::Ended;
            reports.push(Report::GangEnded(gang));
            if let Some(epoch) = agent.session {
                agent.up.push_back((epoch, reports));
            }
            return;
        }
        held.phase = GangPhase::Running;
        let mut reports = vec![];
        for task in &held.plan.tasks {
            let attempt = gang.attempt(task.rank);
            assert!(self.started.insert(attempt), "{attempt} started twice");
            reports.push(Report::Started { attempt, pid: 1, at: self.now.wall });
        }
        if let Some(epoch) = agent.session {
            agent.up.push_back((epoch, reports));
        }
    }

    fn up(&mut self, n: u8) {
        let agent = self.agents.get_mut(&node(n)).expect("known node");
        let Some((epoch, reports)) = agent.up.pop_front() else { return };
        agent.fence = self.now.tick.plus_ms(LEASE_MS);
        self.event(Event::Heard { node: node(n), epoch, reports }, false);
    }

    fn prepared(&mut self, n: u8, how: u8) {
        let id = node(n);
        let agent = self.agents.get_mut(&id).expect("known node");
        let session = agent.session;
        let Some((gang, held)) = agent.held.iter_mut().find(|(_, held)| held.phase == GangPhase::Preparing)
        else {
            return;
        };
        let gang = *gang;
        let kind = match how {
            0 => None,
            1 => Some(PrepareFailure::Command(Exit::Code(3))),
            2 => Some(PrepareFailure::Setup),
            _ if held.plan.ports.is_empty() => None,
            _ => Some(PrepareFailure::PortsTaken(vec![held.plan.ports[0]])),
        };
        let report = match kind {
            None => {
                held.phase = GangPhase::Prepared;
                Report::Prepared(gang)
            }
            Some(kind) => {
                let failed = PrepareFailed { gang, kind, message: "planted".to_owned() };
                held.phase = GangPhase::Ended;
                held.prepare_failed = Some(failed.clone());
                Report::PrepareFailed(failed)
            }
        };
        let start = held.phase == GangPhase::Prepared && held.start_when_prepared;
        if let Some(epoch) = session {
            agent.up.push_back((epoch, vec![report]));
        }
        if start {
            self.start(&id, gang);
        }
    }

    fn exit(&mut self, n: u8, code: i32) {
        let agent = self.agents.get_mut(&node(n)).expect("known node");
        let session = agent.session;
        for (gang, held) in agent.held.iter_mut().filter(|(_, held)| held.phase == GangPhase::Running) {
            let next = held.plan.tasks.iter().find(|task| {
                // Parameter servers never end by themselves.
                task.role != Role::ParameterServer && !held.ended.contains_key(&task.rank)
            });
            let Some(task) = next else { continue };
            let end = ended(gang.attempt(task.rank), Exit::Code(code), EndCause::Itself);
            held.ended.insert(task.rank, end.clone());
            let mut reports = vec![Report::Ended(end)];
            if held.ended.len() == held.plan.tasks.len() {
                held.phase = GangPhase::Ended;
                reports.push(Report::GangEnded(*gang));
            }
            if let Some(epoch) = session {
                agent.up.push_back((epoch, reports));
            }
            return;
        }
    }

    fn crash(&mut self, lose_effects: bool) {
        if lose_effects {
            self.event(Event::Woke, true);
        }
        for agent in self.agents.values_mut() {
            agent.session = None;
            agent.up.clear();
            agent.down.clear();
        }
        let stored = Stored {
            jobs: self.jobs.values().filter(|job| job.is_open()).cloned().collect(),
            plans: self.plans.iter().map(|(gang, nodes)| (*gang, nodes.clone())).collect(),
            nodes: self
                .nodes
                .iter()
                .map(|(id, (epoch, facts))| (id.clone(), *epoch, facts.clone()))
                .collect(),
            drains: self.drains.iter().map(|(id, drain)| (id.clone(), drain.clone())).collect(),
            next_job: self.next_job,
            ..Stored::default()
        };
        let generation = Generation(self.state.generation.0 + 1);
        self.state = recover(config(self.local), generation, stored, self.now);
        let wrong = self.state.check();
        assert!(wrong.is_empty(), "after recovery: {wrong:#?}");
    }

    fn advance(&mut self, ms: u64) {
        self.now.tick = self.now.tick.plus_ms(ms);
        self.now.wall = WallMs(self.now.wall.0 + ms as i64);
        for agent in self.agents.values_mut() {
            if agent.session.is_some() {
                agent.fence = self.now.tick.plus_ms(LEASE_MS);
                continue;
            }
            if agent.fence > self.now.tick {
                continue;
            }
            // The shims' own fence: whether the agent lives or not.
            for (gang, held) in
                agent.held.iter_mut().filter(|(_, h)| h.fenced && h.phase == GangPhase::Running)
            {
                for task in &held.plan.tasks {
                    let attempt = gang.attempt(task.rank);
                    let end = ended(attempt, Exit::Signal(9), EndCause::Fenced);
                    held.ended.entry(task.rank).or_insert(end);
                }
                held.phase = GangPhase::Ended;
            }
        }
        let heard: Vec<(NodeId, Epoch)> =
            self.agents.iter().filter_map(|(id, agent)| Some((id.clone(), agent.session?))).collect();
        for (node, epoch) in heard {
            self.event(Event::Heard { node, epoch, reports: vec![] }, false);
        }
        self.event(Event::Woke, false);
    }

    /// N6: at most one live attempt per (job, rank).
    fn check_single_run(&self) {
        let mut live = BTreeMap::new();
        for agent in self.agents.values() {
            for (gang, held) in agent.held.iter().filter(|(_, held)| held.phase == GangPhase::Running) {
                for task in held.plan.tasks.iter().filter(|task| !held.ended.contains_key(&task.rank)) {
                    if let Some(other) = live.insert((gang.job, task.rank), gang) {
                        panic!("rank {} of job {} runs in gangs {other} and {gang}", task.rank, gang.job);
                    }
                }
            }
        }
    }

    /// N1: what was acknowledged is in the store.
    fn check_acked(&self) {
        for (name, id) in &self.acked {
            assert!(self.jobs.contains_key(id), "job {name} ({id}) was acknowledged and is not in the store");
        }
    }

    /// Connects everything, delivers everything, lets every task end well.
    fn settle(&mut self) {
        for n in 0..NODES {
            self.resume(n);
            self.gpus(n, "");
        }
        for round in 0..2_000 {
            for n in 0..NODES {
                self.connect(n);
                self.down(n);
                self.prepared(n, 0);
                self.up(n);
                self.exit(n, 0);
                self.check_single_run();
            }
            if round % 50 == 49 {
                self.advance(61_000);
            }
            let quiet =
                self.agents.values().all(|a| a.up.is_empty() && a.down.is_empty() && a.held.is_empty());
            if quiet && self.jobs.values().all(|job| !job.is_open()) {
                break;
            }
        }
        for job in self.jobs.values() {
            let stuck = job.is_open() && job.spec.node_count <= u32::from(NODES);
            assert!(!stuck, "job {} is stuck: {:#?}\nwaiting {:?}", job.id, job.phase, self.state.waiting);
        }
        for node in self.state.nodes.values() {
            assert_eq!(node.gang, None, "{} is not free", node.id);
        }
        for (id, agent) in &self.agents {
            let held: Vec<_> = agent.held.keys().collect();
            assert!(held.is_empty(), "{id} still holds {held:?}");
        }
        assert!(self.state.plans.is_empty() && self.state.queue.is_empty());
    }
}

fn config(local: bool) -> Config {
    Config { lease_ms: LEASE_MS, boot_id: "boot".to_owned(), keep_local: local, ..Config::default() }
}

fn node(n: u8) -> NodeId {
    NodeId(format!("node-{n}"))
}

fn facts(n: u8, local: bool) -> NodeFacts {
    let boot_id = if local { "boot".to_owned() } else { format!("boot-{n}") };
    NodeFacts {
        version: "0".to_owned(),
        address: format!("10.0.0.{}", n + 4),
        root: format!("/nodes/{n}/LS_root"),
        port_space: PortSpace { boot_id, network_namespace: 1 },
        privileged: true,
        base_environment: BTreeMap::new(),
        gpus: (0..2).map(|gpu| GpuFact { uuid: uuid(n, gpu), fault: String::new() }).collect(),
        gpu_problem: String::new(),
        degraded: String::new(),
        stuck: Vec::new(),
    }
}

fn uuid(n: u8, gpu: u8) -> GpuUuid {
    GpuUuid(format!("GPU-{n}-{gpu}"))
}

fn key(job: u8) -> JobKey {
    let name = |text: &str| Name::parse(text).expect("a name");
    JobKey {
        subscription: "s".to_owned(),
        resource_group: "g".to_owned(),
        workspace: name("w"),
        experiment: name("e"),
        job: name(&format!("job{job}")),
    }
}

fn spec(nodes: u8, tensorflow: bool, retries: u8) -> JobSpec {
    let mut spec = serde_json::json!({
        "nodeCount": nodes, "stdOutErrPathPrefix": "/logs", "retries": retries,
        "secrets": [{ "name": "KEY", "value": "s3cret" }],
    });
    if tensorflow {
        spec["tensorFlowSettings"] = serde_json::json!({ "pythonScriptFilePath": "/train.py" });
    } else {
        spec["customToolkitSettings"] = serde_json::json!({ "commandLine": "true" });
    }
    serde_json::from_value(spec).expect("a spec")
}

fn ended(attempt: AttemptId, exit: Exit, cause: EndCause) -> TaskEnded {
    TaskEnded {
        attempt,
        exit,
        cause,
        started: WallMs(1),
        ended: WallMs(2),
        stderr_tail: String::new(),
        message: String::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn kept_nodes_lose_nothing_and_run_nothing_twice(acts in prop::collection::vec(act(), 1..150)) {
        let mut world = World::new(true);
        for act in &acts {
            world.act(act);
        }
        world.settle();
    }

    #[test]
    fn fenced_nodes_lose_nothing_and_run_nothing_twice(
        acts in prop::collection::vec(prop_oneof![9 => act(), 1 => Just(Act::Advance { ms: 50_000 })], 1..150),
    ) {
        let mut world = World::new(false);
        for act in &acts {
            world.act(act);
        }
        world.settle();
    }
}

#[test]
fn a_job_of_two_nodes_starts_only_when_both_are_prepared() {
    let mut world = World::new(true);
    (0..2).for_each(|n| world.connect(n));
    world.act(&Act::Submit { job: 0, nodes: 2, tensorflow: false, retries: 0 });
    (0..2).for_each(|n| world.down(n));
    world.prepared(0, 0);
    world.up(0);
    assert!(world.agents[&node(0)].down.is_empty(), "started before the other node was prepared");
    world.prepared(1, 0);
    world.up(1);
    (0..2).for_each(|n| world.down(n));
    assert_eq!(world.started.len(), 1);
    world.settle();
    let JobPhase::Ended { reason, .. } = &world.jobs[&JobId(1)].phase else { panic!("not over") };
    assert_eq!(reason.exit_code(), Some(0));
}

#[test]
fn fault_36_a_node_with_an_unkillable_process_gets_no_work_until_it_is_gone() {
    let mut world = World::new(true);
    world.connect(0);
    world.act(&Act::Submit { job: 0, nodes: 1, tensorflow: false, retries: 0 });
    world.down(0);
    world.prepared(0, 0);
    let agent = world.agents.get_mut(&node(0)).expect("known node");
    let (gang, held) = agent.held.iter_mut().next().expect("a gang");
    let gang = *gang;
    let stuck = gang.attempt(Rank(0));
    let end = ended(stuck, Exit::Unknown, EndCause::Unkillable);
    held.ended.insert(Rank(0), end.clone());
    held.phase = GangPhase::Ended;
    let epoch = agent.session.expect("a session");
    agent.up.clear();
    agent.up.push_back((epoch, vec![Report::Stuck(stuck), Report::Ended(end), Report::GangEnded(gang)]));
    world.act(&Act::Submit { job: 1, nodes: 1, tensorflow: false, retries: 0 });
    world.up(0);
    let waits = |world: &World| world.state.waiting.get(&JobId(2)).map(ToString::to_string);
    let why = waits(&world).expect("the second job waits");
    assert!(why.contains(&format!("takes no work: {stuck} survived SIGKILL")), "{why}");
    assert_eq!(world.state.nodes[&node(0)].gang, None, "the job that it was of is not held up");
    // New facts of the node, made before it knew, change nothing; nor does a restart of the coordinator.
    let news = Event::FactsChanged { node: node(0), epoch, facts: Box::new(facts(0, true)) };
    world.event(news, false);
    assert!(waits(&world).is_some_and(|why| why.contains("survived SIGKILL")));
    let (_, stored) = &world.nodes[&node(0)];
    assert_eq!(stored.stuck, [stuck], "the store knows it");
    let agent = world.agents.get_mut(&node(0)).expect("known node");
    agent.up.push_back((epoch, vec![Report::Gone(stuck)]));
    world.up(0);
    assert!(waits(&world).is_none(), "the node serves again");
    assert!(world.state.nodes[&node(0)].gang.is_some());
}

#[test]
fn fault_25_a_node_with_a_full_disk_gets_no_work_and_says_why() {
    let mut world = World::new(true);
    world.connect(0);
    let epoch = world.agents[&node(0)].session.expect("a session");
    let full = NodeFacts { degraded: "the disk of /nodes/0/LS_root is full".into(), ..facts(0, true) };
    world.event(Event::FactsChanged { node: node(0), epoch, facts: Box::new(full) }, false);
    world.act(&Act::Submit { job: 0, nodes: 1, tensorflow: false, retries: 0 });
    let why = world.state.waiting[&JobId(1)].to_string();
    assert!(why.contains("node-0: takes no work: the disk of /nodes/0/LS_root is full"), "{why}");
    world.event(Event::FactsChanged { node: node(0), epoch, facts: Box::new(facts(0, true)) }, false);
    assert!(world.state.nodes[&node(0)].gang.is_some(), "it starts once there is room");
}

#[test]
fn a_start_that_an_agents_death_cut_off_is_tried_again_but_not_that_of_a_missing_program() {
    for (exit, code) in [(Exit::Unknown, None), (Exit::Code(127), Some(127))] {
        let mut world = World::new(true);
        world.connect(0);
        world.act(&Act::Submit { job: 0, nodes: 1, tensorflow: false, retries: 0 });
        world.down(0);
        world.prepared(0, 0);
        let agent = world.agents.get_mut(&node(0)).expect("known node");
        let (gang, held) = agent.held.iter_mut().next().expect("a gang");
        let end = ended(gang.attempt(Rank(0)), exit, EndCause::NotStarted);
        held.ended.insert(Rank(0), end.clone());
        held.phase = GangPhase::Ended;
        let reports = vec![Report::Ended(end), Report::GangEnded(*gang)];
        agent.up.clear();
        agent.up.push_back((agent.session.expect("a session"), reports));
        world.up(0);
        match (&world.jobs[&JobId(1)].phase, code) {
            (JobPhase::Queued { .. }, None) => {}
            (JobPhase::Ended { reason, .. }, Some(code)) => assert_eq!(reason.exit_code(), Some(code)),
            (phase, _) => panic!("{exit}: {phase:?}"),
        }
    }
}

#[test]
fn a_node_that_prepares_again_after_its_start_was_lost_is_told_to_start_again() {
    let mut world = World::new(true);
    (0..2).for_each(|n| world.connect(n));
    world.act(&Act::Submit { job: 0, nodes: 2, tensorflow: false, retries: 0 });
    for n in 0..2 {
        world.down(n);
        world.prepared(n, 0);
        world.up(n);
    }
    // The agent of node 0 dies with the Start on the wire, before it has recorded anything of it.
    world.disconnect(0);
    world.connect(0);
    let agent = world.agents.get_mut(&node(0)).expect("known node");
    let (gang, epoch) = (*agent.held.keys().next().expect("a gang"), agent.session.expect("a session"));
    agent.down.clear();
    agent.up.push_back((epoch, vec![Report::Prepared(gang)]));
    world.up(0);
    let starts = |world: &World| {
        world.agents[&node(0)].down.iter().filter(|(_, command)| *command == Command::Start(gang)).count()
    };
    assert_eq!(starts(&world), 1);
    world.settle();
    let JobPhase::Ended { reason, .. } = &world.jobs[&JobId(1)].phase else { panic!("not over") };
    assert_eq!(reason.exit_code(), Some(0));
}
