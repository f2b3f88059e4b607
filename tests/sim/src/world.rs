//! The event loop: one queue of what will happen when, one random stream, and the parts that break.
//!
//! Each part lives in a file of its own: `coordinator` and `agent` are models of the drivers around the real cores,
//! `shim` owns the real shim core and the processes, `net` the connections, `client` the requests, `inject` the faults.
//! Every model keeps what the real thing keeps over a crash, and nothing else.

mod agent;
mod client;
mod clock;
mod coordinator;
mod inject;
mod net;
mod shim;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use fastrand::Rng;
use trainyard_core::coordinator::state::{Job, JobPhase};
use trainyard_core::id::{AttemptId, GangId, JobId, NodeId};
use trainyard_core::unit::GpuUuid;

use crate::check::{Truth, Violation};
use crate::coverage::Coverage;
use crate::fault::Fault;
use crate::workload::{self, Shape};
use crate::{Options, Outcome};

/// After the last fault everything must be over within this time, ms.
const SETTLE_MS: u64 = 12 * 3_600_000;
/// After the last fault every agent must be connected again within this time, ms.
const RECONNECT_MS: u64 = 60_000;

/// More events at one moment are a loop that never waits.
const AT_ONCE_MAX: u32 = 100_000;

/// What will happen.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Coordinator(coordinator::Happens),
    Agent { node: usize, life: u64, happens: agent::Happens },
    Shim { node: usize, attempt: AttemptId, happens: shim::Happens },
    Deliver { connection: u64, up: bool },
    Client(client::Happens),
    Fault(usize),
    Heal(inject::Heal),
    CheckConnected,
    CheckCopies,
}

/// A moment of the queue.
struct Entry(u64, u64, What);

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// Everything.
pub struct World {
    now: u64,
    next: u64,
    queue: BinaryHeap<Reverse<Entry>>,
    rng: Rng,
    seed: u64,
    shape: Shape,
    coordinator: coordinator::Coordinator,
    nodes: Vec<agent::Node>,
    net: net::Net,
    clients: client::Clients,
    faults: inject::Faults,
    pub(crate) truth: Truth,
    pub(crate) coverage: Coverage,
    hash: u64,
    keep_trace: bool,
    trace: Vec<String>,
    events: u64,
}

impl World {
    /// A world at rest, in which the plan and the requests of the seed are about to happen.
    #[must_use]
    pub fn new(options: &Options, plan: &[Fault]) -> World {
        let faults_end = plan.last().map_or(60_000, |fault| fault.at_ms) + 1_000;
        let (shape, requests) = workload::of(options.seed, faults_end);
        let nodes =
            (0..usize::from(shape.nodes)).map(|n| agent::Node::new(n, &shape, options.seed)).collect();
        let mut world = World {
            now: 0,
            next: 0,
            queue: BinaryHeap::new(),
            rng: Rng::with_seed(options.seed ^ 0x57a7),
            seed: options.seed,
            coordinator: coordinator::Coordinator::new(&shape),
            nodes,
            net: net::Net::default(),
            clients: client::Clients::new(requests),
            faults: inject::Faults::new(faults_end),
            truth: Truth::default(),
            coverage: Coverage::default(),
            shape,
            hash: 0xcbf2_9ce4_8422_2325,
            keep_trace: options.trace,
            trace: Vec::new(),
            events: 0,
        };
        world.start_coordinator();
        for node in 0..world.nodes.len() {
            world.start_agent(node);
        }
        world.schedule_requests();
        for (n, fault) in plan.iter().enumerate() {
            world.at(fault.at_ms, What::Fault(n));
        }
        world.at(faults_end, What::Heal(inject::Heal::Everything));
        world.at(faults_end + RECONNECT_MS, What::CheckConnected);
        world
    }

    /// Until everything is over, or something is wrong.
    #[must_use]
    pub fn run(mut self, plan: Vec<Fault>) -> Outcome {
        let end = self.faults.end + SETTLE_MS;
        let (mut looked, mut at_once) = (0, 0);
        while self.truth.violation.is_none() {
            let Some(Reverse(Entry(at, _, what))) = self.queue.pop() else { break };
            at_once = if at > self.now { 0 } else { at_once + 1 };
            if at_once > AT_ONCE_MAX {
                self.violate("15", format!("{AT_ONCE_MAX} events at one moment, and no end: {what:?}"));
                break;
            }
            self.now = self.now.max(at);
            self.events += 1;
            self.happen(&plan, what);
            let settled = self.now > self.faults.end + RECONNECT_MS;
            if settled && (self.now > end || self.now > looked + 5_000) {
                looked = self.now;
                if self.is_quiet() {
                    break;
                }
                if self.now > end {
                    self.report_stuck();
                }
            }
        }
        self.check_at_rest();
        Outcome {
            violation: self.truth.violation.take(),
            plan,
            coverage: self.coverage,
            hash: self.hash,
            trace: self.trace,
            simulated_ms: self.now,
            events: self.events,
            injected: self.faults.injected,
        }
    }

    fn happen(&mut self, plan: &[Fault], what: What) {
        match what {
            What::Coordinator(happens) => self.on_coordinator(happens),
            What::Agent { node, life, happens } => self.on_agent(node, life, happens),
            What::Shim { node, attempt, happens } => self.on_shim(node, attempt, happens),
            What::Deliver { connection, up } => self.deliver(connection, up),
            What::Client(happens) => self.on_client(happens),
            What::Fault(n) => self.inject(plan[n]),
            What::Heal(heal) => self.heal(heal),
            What::CheckCopies => self.check_copies(),
            What::CheckConnected => {
                let away: Vec<usize> =
                    (0..self.nodes.len()).filter(|node| !self.is_connected(*node)).collect();
                if !away.is_empty() {
                    self.violate(
                        "18",
                        format!("nodes {away:?} are not connected a minute after the last fault"),
                    );
                }
            }
        }
    }

    /// Nothing is left to do.
    fn is_quiet(&self) -> bool {
        self.coordinator.has_no_open_job()
            && self.clients.are_answered()
            && self.nodes.iter().all(agent::Node::holds_nothing)
    }

    /// Q: what must hold once nothing happens any more.
    fn check_at_rest(&mut self) {
        if self.truth.violation.is_some() {
            return;
        }
        let mut wrong = self.coordinator.leaks();
        wrong.extend(self.nodes.iter().flat_map(agent::Node::leaks));
        if let Some(first) = wrong.into_iter().next() {
            self.violate("17", first);
        }
    }

    fn report_stuck(&mut self) {
        let mut stuck = self.coordinator.open_jobs();
        stuck.extend(self.clients.waiting());
        for node in &self.nodes {
            stuck.extend(node.held());
        }
        self.violate("17", format!("twelve hours after the last fault there is still: {}", stuck.join("; ")));
    }

    pub(crate) fn at(&mut self, at: u64, what: What) {
        self.next += 1;
        self.queue.push(Reverse(Entry(at.max(self.now), self.next, what)));
    }

    pub(crate) fn after(&mut self, ms: u64, what: What) {
        self.at(self.now.saturating_add(ms), what);
    }

    pub(crate) fn draw(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.rng.u64(range)
    }

    /// Goes into the hash always, and into the trace if one is kept.
    pub(crate) fn note(&mut self, label: &str, number: u64, text: impl FnOnce() -> String) {
        for byte in label.bytes().chain(self.now.to_le_bytes()).chain(number.to_le_bytes()) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.keep_trace {
            self.trace.push(format!("{:>9} {label} {number} {}", self.now, text()));
        }
    }

    pub(crate) fn violate(&mut self, invariant: &'static str, text: String) {
        let at_ms = self.now;
        self.truth.violation.get_or_insert(Violation { at_ms, invariant, text });
    }

    // What `check` looks at.

    pub(crate) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The attempts of a node of which processes live, with their GPUs.
    pub(crate) fn living(&self, n: usize) -> Vec<(AttemptId, Vec<GpuUuid>)> {
        let tasks = self.nodes[n].processes.tasks.iter().filter(|(_, task)| task.lives());
        tasks.map(|(id, task)| (*id, task.gpus.clone())).collect()
    }

    /// It stands still, or did so a moment ago: its shims look at their fences at once, which takes a moment.
    pub(crate) fn is_frozen(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        node.frozen_until > 0 || self.now < node.thawed_at + 1_000
    }

    pub(crate) fn is_beyond_killing(&self, n: usize, attempt: AttemptId) -> bool {
        self.nodes[n].processes.tasks.get(&attempt).is_some_and(|task| inject::is_stuck(task, self.now))
    }

    pub(crate) fn planned_nodes(&self, gang: GangId) -> Option<Vec<NodeId>> {
        self.coordinator.planned_nodes(gang)
    }

    pub(crate) fn stored_job(&self, id: JobId) -> Option<&Job> {
        self.coordinator.store.jobs.get(&id)
    }

    pub(crate) fn is_live_on_disk(&self, gang: GangId) -> bool {
        self.coordinator.is_live(gang)
    }

    /// Whether the database knows that nothing of the gang runs on this node any more.
    pub(crate) fn is_over_on(&self, gang: GangId, n: usize) -> bool {
        let Some(JobPhase::Active(active)) = self.stored_job(gang.job).map(|job| &job.phase) else {
            return true;
        };
        active.nodes.iter().all(|node| node.node != self.nodes[n].id || node.phase.is_over())
    }

    /// Texts are looked through in some runs only: it takes time.
    pub(crate) fn wants_texts(&self) -> bool {
        self.seed.is_multiple_of(16)
    }
}

pub(crate) use shim::Task as StartedTask;

/// Numbers of things that live and die: a word for a dead one is dropped.
pub(crate) type Life = u64;

/// Things by attempt.
pub(crate) type ByAttempt<T> = BTreeMap<AttemptId, T>;
