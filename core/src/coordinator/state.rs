//! All that the coordinator knows: open jobs, their gangs, and the nodes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::drain::{Drain, NodeFault};
use super::effect::{Effect, JournalEntry, Record, Step};
use super::event::{JobKey, Now};
use super::reason::{EndReason, WaitReason};
use super::recovery::{Lost, Recovery};
use crate::id::{Epoch, GangId, GangNo, Generation, JobId, NodeId, Rank};
use crate::plan::NodePlan;
use crate::plan::task::Role;
use crate::session::{Command, NodeFacts, TaskEnded};
use crate::spec::JobSpec;
use crate::spec::job::Priority;
use crate::unit::{GpuUuid, Port, Tick, WallMs};

/// What an operator can set. Read once.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long attempts of a silent node count as alive, ms; default 15 min, 10 s .. 24 h.
    pub lease_ms: u64,
    /// From the fence in the shim to the coordinator's own judgement, ms: clocks may differ in rate by 1 %.
    pub lease_margin_ms: u64,
    /// How often agents say that they are there, ms; default 4 s. Three that stay out end the session.
    pub heartbeat_ms: u64,
    /// How often agents send metrics, ms; default 5 s.
    pub metrics_period_ms: u64,
    /// From TERM to KILL, ms; default 10 s.
    pub stop_grace_ms: u64,
    /// Whether attempts on the coordinator's own machine are kept when the lease runs out (`keep`).
    pub keep_local: bool,
    /// `/proc/sys/kernel/random/boot_id` of the coordinator's machine.
    pub boot_id: String,
    /// Tries of a job that may end by the infrastructure's fault in a row.
    pub infrastructure_tries: u32,
    /// Whether jobs may choose their lease and what happens at its end.
    pub job_leases: bool,
    /// Infrastructure faults of a node within `node_faults_window_ms` that take it out of service; 0: none do.
    /// The daemon's own default is [`NODE_FAULTS_MAX`].
    pub node_faults_max: u32,
    /// Ms of the monotonic clock; default 1 h.
    pub node_faults_window_ms: u64,
}

/// What the coordinator's daemon takes for [`Config::node_faults_max`] unless it is told otherwise.
pub const NODE_FAULTS_MAX: u32 = 3;

impl Default for Config {
    fn default() -> Config {
        Config {
            lease_ms: 15 * 60 * 1000,
            lease_margin_ms: 15_000,
            heartbeat_ms: 4_000,
            metrics_period_ms: 5_000,
            stop_grace_ms: 10_000,
            keep_local: true,
            boot_id: String::new(),
            infrastructure_tries: 10,
            job_leases: true,
            node_faults_max: 0,
            node_faults_window_ms: 60 * 60 * 1000,
        }
    }
}

/// All that the coordinator knows.
#[derive(Debug)]
pub struct State {
    /// Settings.
    pub config: Config,
    /// Of this start.
    pub generation: Generation,
    /// The next job's number.
    pub next_job: JobId,
    /// The next session's number.
    pub next_epoch: Epoch,
    /// Open jobs, and those that ended in steps that are not committed yet.
    pub jobs: BTreeMap<JobId, Job>,
    /// [`JobKey::folded`] of the jobs above.
    pub names: BTreeMap<String, JobId>,
    /// Plans of live gangs, without secrets.
    pub plans: BTreeMap<GangId, Vec<NodePlan>>,
    /// Every node that ever joined.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Queued jobs in the order in which they start.
    pub queue: BTreeSet<(Reverse<Priority>, JobId)>,
    /// Why queued jobs wait; those behind `head` are not in it.
    pub waiting: BTreeMap<JobId, WaitReason>,
    /// The queued job that holds back everything behind it.
    pub head: Option<JobId>,
    /// Whether the database is older than what agents have obeyed.
    pub recovery: Recovery,
    /// Something that placement looks at has changed since it last looked.
    pub(crate) placement_due: bool,
    /// Something that [`State::nodes`] or [`State::waiting`] shows has changed since [`State::take_changed`].
    pub(crate) changed: bool,
    /// Jobs that ended and can be forgotten once their records are committed.
    pub(crate) finished: BTreeSet<JobId>,
    /// Jobs deleted by steps that are not committed yet: the store still shows them.
    pub(crate) deleted: BTreeSet<JobId>,
    /// Jobs whose record is due at the end of the step.
    touched: BTreeSet<JobId>,
}

impl State {
    /// A coordinator that knows nothing.
    #[must_use]
    pub fn new(config: Config, generation: Generation, next_job: JobId, next_epoch: Epoch) -> State {
        State {
            config,
            generation,
            next_job,
            next_epoch,
            jobs: BTreeMap::new(),
            names: BTreeMap::new(),
            plans: BTreeMap::new(),
            nodes: BTreeMap::new(),
            queue: BTreeSet::new(),
            waiting: BTreeMap::new(),
            head: None,
            recovery: Recovery::default(),
            placement_due: true,
            changed: true,
            finished: BTreeSet::new(),
            deleted: BTreeSet::new(),
            touched: BTreeSet::new(),
        }
    }

    /// Drops jobs that have ended: their records are committed, the store knows them.
    pub fn forget_finished(&mut self) {
        for id in std::mem::take(&mut self.finished) {
            if let Some(job) = self.jobs.remove(&id) {
                self.names.remove(&job.key.folded());
            }
            self.waiting.remove(&id);
        }
        self.deleted.clear();
    }

    /// Whether nodes or wait reasons changed since the last call, so that readers need a new view.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// When [`super::step`] must be called with `Woke` at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        let jobs = self.jobs.values().filter_map(|job| match &job.phase {
            JobPhase::Queued { not_before } => *not_before,
            JobPhase::Active(gang) if gang.outcome.is_none() => Some(gang.deadline),
            JobPhase::Active(_) | JobPhase::Ended { .. } => None,
        });
        let leases = self.nodes.values().filter_map(|node| self.lease_end(node));
        jobs.chain(leases).min()
    }

    /// When the attempts of this node count as lost: only while it is silent, has any, and is not kept.
    pub(crate) fn lease_end(&self, node: &Node) -> Option<Tick> {
        // Before a recovery nodes are silent because they are refused.
        if self.recovery.is_needed() {
            return None;
        }
        let gang = node.gang?;
        let lease_ms = self.lease_of(gang, &node.id)?;
        let lease_ms = if mutant!("lease-shorter-than-fence") { lease_ms / 3 } else { lease_ms };
        let lease_ms = if mutant!("unreachable-is-lost") { 0 } else { lease_ms };
        let silent = node.session.is_none();
        silent.then(|| node.last_heard.plus_ms(lease_ms + self.config.lease_margin_ms))
    }

    pub(crate) fn touch(&mut self, job: JobId) {
        self.touched.insert(job);
    }

    pub(crate) fn untouch(&mut self, job: JobId) {
        self.touched.remove(&job);
    }

    /// One record per changed job, however many changes a step made.
    pub(crate) fn record_touched(&mut self, step: &mut Step) {
        for id in std::mem::take(&mut self.touched) {
            if let Some(job) = self.jobs.get(&id) {
                step.commit.push(Record::PutJob(Box::new(job.clone())));
            }
        }
    }

    pub(crate) fn enqueue(&mut self, job: &Job) {
        match job.phase {
            JobPhase::Queued { .. } => {
                self.queue.insert((Reverse(job.spec.scheduling_priority), job.id));
                self.placement_due = true;
            }
            JobPhase::Active(_) | JobPhase::Ended { .. } => {}
        }
    }

    pub(crate) fn dequeue(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get(&id) {
            self.queue.remove(&(Reverse(job.spec.scheduling_priority), id));
        }
        self.waiting.remove(&id);
    }

    /// To the node's session, if it has one; else the next Hello brings it up again.
    pub(crate) fn send(&self, node: &NodeId, command: Command, step: &mut Step) {
        if let Some(epoch) = self.nodes.get(node).and_then(|n| n.session) {
            step.then.push(Effect::Send { node: node.clone(), epoch, command });
        }
    }

    pub(crate) fn journal(
        &self,
        now: Now,
        kind: &'static str,
        id: JobId,
        node: Option<&NodeId>,
        detail: serde_json::Value,
        step: &mut Step,
    ) {
        let job = self.jobs.get(&id).map(|job| job.key.job.to_string());
        let entry = JournalEntry { at: now.wall, kind, job_id: Some(id), job, node: node.cloned(), detail };
        step.commit.push(Record::Journal(entry));
    }

    pub(crate) fn journal_node(
        &self,
        now: Now,
        kind: &'static str,
        node: &NodeId,
        detail: serde_json::Value,
        step: &mut Step,
    ) {
        let entry =
            JournalEntry { at: now.wall, kind, job_id: None, job: None, node: Some(node.clone()), detail };
        step.commit.push(Record::Journal(entry));
    }

    /// Where the ports of a live gang are counted on this node.
    pub(crate) fn port_space(&self, gang: GangId, node: &NodeId) -> Option<&crate::plan::PortSpace> {
        let planned = match &self.jobs.get(&gang.job)?.phase {
            JobPhase::Active(active) if active.id == gang => active.nodes.iter().find(|n| n.node == *node),
            JobPhase::Active(_) | JobPhase::Queued { .. } | JobPhase::Ended { .. } => None,
        };
        planned.and_then(|n| n.space.as_ref()).or_else(|| Some(&self.nodes.get(node)?.facts.port_space))
    }

    /// `None` once the gang is over on this node, though it may still end on others.
    fn lease_of(&self, gang: GangId, node: &NodeId) -> Option<u64> {
        match &self.jobs.get(&gang.job)?.phase {
            JobPhase::Active(active) if active.id.gang == gang.gang => {
                let live = active.nodes.iter().any(|n| n.node == *node && !n.phase.is_over());
                if mutant!("kept-attempts-expire") {
                    return live.then_some(active.lease_ms);
                }
                (live && active.lease_ms > 0).then_some(active.lease_ms)
            }
            JobPhase::Active(_) | JobPhase::Queued { .. } | JobPhase::Ended { .. } => None,
        }
    }
}

/// A job. Times are for display.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// Its name.
    pub key: JobKey,
    /// Part of its output path.
    pub uuid: String,
    /// What it asks for. Serialised without secrets.
    pub spec: JobSpec,
    /// When it was accepted.
    pub created: WallMs,
    /// When `phase` last changed its name on the wire.
    pub transition: WallMs,
    /// The most recent start.
    pub started: Option<WallMs>,
    /// How far it is.
    pub phase: JobPhase,
    /// Gangs made so far.
    pub gangs: u32,
    /// Numbers of gangs that a lost database may have given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost_gangs: Vec<Lost<GangNo>>,
    /// Retries consumed.
    pub retries_used: u32,
    /// Infrastructure faults in a row.
    pub infrastructure_faults: u32,
    /// Ports found taken, by port space's boot id and namespace: avoided by later gangs.
    pub taken_ports: Vec<TakenPorts>,
    /// Nodes that failed an earlier gang: taken again only where no others will do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub avoid: Vec<NodeId>,
    /// A client wants it to end.
    pub cancelled: bool,
    /// A client wants it to be gone once it has ended.
    pub delete_when_ended: bool,
    /// Why each earlier gang ended.
    pub history: Vec<(GangNo, EndReason)>,
}

/// Ports found taken where a node counts its ports.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TakenPorts {
    /// Where.
    pub space: crate::plan::PortSpace,
    /// Which.
    pub ports: BTreeSet<Port>,
}

/// How far a job is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum JobPhase {
    /// It waits for nodes; [`State::waiting`] says why.
    Queued {
        /// Not before this time. Lost at a restart: then at once.
        #[serde(skip)]
        not_before: Option<Tick>,
    },
    /// A gang of it is on nodes.
    Active(Box<Gang>),
    /// It is over.
    Ended {
        /// Why.
        reason: EndReason,
        /// When.
        at: WallMs,
        /// The tasks of the last gang, for display.
        tasks: Vec<Task>,
        /// The last gang; `None`: none was ever made.
        gang: Option<GangNo>,
    },
}

impl Job {
    /// `executionState` on the wire.
    #[must_use]
    pub fn execution_state(&self) -> &'static str {
        match &self.phase {
            _ if self.is_open() && self.cancelled => "terminating",
            JobPhase::Queued { .. } => "queued",
            JobPhase::Active(_) => "running",
            JobPhase::Ended { reason: EndReason::Succeeded, .. } => "succeeded",
            JobPhase::Ended { .. } => "failed",
        }
    }

    /// Whether it is not over.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match self.phase {
            JobPhase::Queued { .. } | JobPhase::Active(_) => true,
            JobPhase::Ended { .. } => false,
        }
    }

    /// The number of its next gang.
    #[must_use]
    pub fn next_gang(&self) -> GangNo {
        let beyond = self.lost_gangs.iter().map(|lost| lost.to.0).max().unwrap_or(1);
        GangNo(beyond.max(self.gangs + 1))
    }

    /// `jobOutputDirectoryPathSegment`
    #[must_use]
    pub fn segment(&self) -> String {
        let JobKey { subscription, resource_group, workspace, experiment, job } = &self.key;
        format!(
            "{subscription}/{resource_group}/workspaces/{workspace}/experiments/{experiment}/jobs/{job}/{}",
            self.uuid
        )
    }

    /// The tasks of the current or last gang.
    #[must_use]
    pub fn tasks(&self) -> &[Task] {
        match &self.phase {
            JobPhase::Queued { .. } => &[],
            JobPhase::Active(gang) => &gang.tasks,
            JobPhase::Ended { tasks, .. } => tasks,
        }
    }

    /// The current or last gang.
    #[must_use]
    pub fn gang(&self) -> Option<GangNo> {
        (self.gangs > 0).then_some(GangNo(self.gangs))
    }
}

/// A try of a job that is on nodes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gang {
    /// Which.
    pub id: GangId,
    /// Its nodes, in the order of the plan.
    pub nodes: Vec<GangNode>,
    /// Its tasks, by rank.
    pub tasks: Vec<Task>,
    /// 0: its attempts are kept however long their node is silent.
    pub lease_ms: u64,
    /// When it has run for too long. Found anew from the wall clock after a restart.
    #[serde(skip)]
    pub deadline: Tick,
    /// Decided: it is being ended, and this is why.
    pub outcome: Option<EndReason>,
}

impl Gang {
    /// Whether every node is at least prepared.
    #[must_use]
    pub fn all_prepared(&self) -> bool {
        self.nodes.iter().all(|node| node.phase >= NodePhase::Prepared)
    }
}

/// One node of a gang, as far as the coordinator knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GangNode {
    /// The node.
    pub node: NodeId,
    /// How far it is.
    pub phase: NodePhase,
    /// Where its ports were counted when it was planned: a restart of the machine changes that of the node.
    /// Absent in records of 0.1.0 before that was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<crate::plan::PortSpace>,
}

/// How far a node of a gang is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodePhase {
    /// It was told to prepare.
    Preparing,
    /// It is ready.
    Prepared,
    /// Its tasks were told to start.
    Started,
    /// It said that nothing of the gang runs there any more.
    Ended,
    /// It was not heard of for longer than its lease: nothing of the gang runs there, by the fence, but the
    /// node may still hold it when it comes back.
    Lost,
}

impl NodePhase {
    /// Whether nothing of the gang runs there any more.
    #[must_use]
    pub fn is_over(self) -> bool {
        self >= NodePhase::Ended
    }
}

/// One task of a gang, as far as the coordinator knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// Its place in the gang.
    pub rank: Rank,
    /// `worker-0`
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its place in the role.
    pub index: u32,
    /// Where it runs.
    pub node: NodeId,
    /// Its GPUs.
    pub gpus: Vec<GpuUuid>,
    /// How far it is.
    pub state: TaskState,
}

/// How far a task is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TaskState {
    /// Not started yet.
    Waiting,
    /// It runs, or did when its node was last heard of.
    Running {
        /// Its main process.
        pid: u32,
        /// Since when.
        at: WallMs,
    },
    /// It is over.
    Ended(TaskEnded),
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// Of its last session.
    pub epoch: Epoch,
    /// What it said of itself.
    pub facts: NodeFacts,
    /// `Some`: connected.
    pub session: Option<Epoch>,
    /// When it was last heard of.
    pub last_heard: Tick,
    /// The same, for display.
    pub last_heard_wall: WallMs,
    /// The gang that has it.
    pub gang: Option<GangId>,
    /// Why it takes no new work; `None`: it does.
    pub drain: Option<Drain>,
    /// Infrastructure faults of late. Lost at a restart.
    pub(crate) faults: Vec<NodeFault>,
}
