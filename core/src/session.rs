//! What coordinator and agent say to each other, as domain types: commands down, reports up.
//!
//! The wire form stands in `proto`; `proto::convert` goes both ways. Both cores speak these types only.

mod sequence;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{AttemptId, Epoch, GangId, Generation, NodeId};
use crate::plan::{NodePlan, PortSpace};
use crate::unit::{Exit, Port, WallMs};

pub use sequence::{Order, Sequence};

/// A command of the coordinator to one agent. Each is idempotent by its gang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make everything ready for this gang, and start it if no other node has to be waited for.
    Prepare {
        /// The gang.
        gang: GangId,
        /// What to do here.
        plan: Box<NodePlan>,
        /// Whether to start as soon as prepared.
        start_when_prepared: bool,
        /// 0: attempts of this gang are never fenced.
        lease_ms: u64,
    },
    /// All nodes are prepared: start the tasks.
    Start(GangId),
    /// End everything of this gang.
    Stop {
        /// The gang.
        gang: GangId,
        /// From TERM to KILL, in ms.
        grace_ms: u64,
        /// For `execution.log`.
        reason: String,
    },
    /// Every outcome of this gang is on the coordinator's disk: forget it and clean up.
    Release(GangId),
    /// These exits are on the coordinator's disk.
    EndedAck(Vec<AttemptId>),
}

/// What an agent has to say, in the order in which it happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Directories, mounts, ports and preparation are done.
    Prepared(GangId),
    /// The gang cannot start here; nothing of it runs on this node.
    PrepareFailed(PrepareFailed),
    /// A task runs.
    Started {
        /// Which.
        attempt: AttemptId,
        /// Its main process.
        pid: u32,
        /// When.
        at: WallMs,
    },
    /// A task has ended, and no process of it is left.
    Ended(TaskEnded),
    /// Nothing of this gang runs on this node any more, and every exit is reported.
    GangEnded(GangId),
    /// This attempt survives SIGKILL. Its end is reported, but its processes live on: no other work may be
    /// placed on the node until they are [`Report::Gone`].
    Stuck(AttemptId),
    /// Nothing is left of an attempt that was stuck.
    Gone(AttemptId),
}

/// Why a gang cannot start on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrepareFailed {
    /// The gang.
    pub gang: GangId,
    /// Whose fault.
    pub kind: PrepareFailure,
    /// In words.
    pub message: String,
}

/// What went wrong before a start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PrepareFailure {
    /// The preparation's command did not end with 0: the user's fault.
    Command(Exit),
    /// A directory, file or mount could not be made.
    Setup,
    /// Ports of the plan are taken: plan again without them.
    PortsTaken(Vec<Port>),
    /// A check before the start found the node unfit.
    Preflight,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskEnded {
    /// Which.
    pub attempt: AttemptId,
    /// How its main process ended.
    pub exit: Exit,
    /// Who ended it.
    pub cause: EndCause,
    /// When it started; 0 if it never did.
    pub started: WallMs,
    /// When it ended.
    pub ended: WallMs,
    /// The last lines of its stderr, lossy UTF-8, at most 4 KiB.
    pub stderr_tail: String,
    /// More, in words; may be empty.
    pub message: String,
}

/// Who or what ended a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EndCause {
    /// It ended by itself.
    Itself,
    /// A `Stop`.
    Stopped,
    /// Its lease ran out.
    Fenced,
    /// The kernel's out-of-memory killer.
    Oom,
    /// It was never started.
    NotStarted,
    /// The shim was killed, or the node was rebooted: nobody saw the exit.
    Lost,
    /// It survived SIGKILL.
    Unkillable,
}

/// How far a gang is on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GangPhase {
    /// Directories, mounts, preparation.
    Preparing,
    /// Ready; waits for `Start`.
    Prepared,
    /// Started.
    Running,
    /// Nothing of it runs here any more.
    Ended,
}

/// What an agent says when it (re)connects.
#[derive(Clone, Debug, PartialEq)]
pub struct Hello {
    /// The node.
    pub node: NodeId,
    /// Facts that placement and planning need.
    pub facts: NodeFacts,
    /// Every gang of which the node holds anything.
    pub held: Vec<HeldGang>,
    /// The highest generation that the agent has obeyed.
    pub last_generation: Generation,
}

/// What placement and planning need to know of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFacts {
    /// Version of the agent.
    pub version: String,
    /// Where other nodes reach it, without port.
    pub address: String,
    /// `LS_root`, absolute.
    pub root: String,
    /// Where its ports are counted; holds the boot id of its machine.
    pub port_space: PortSpace,
    /// Whether it can bind-mount and keep cgroups.
    pub privileged: bool,
    /// Variables that every process gets.
    pub base_environment: BTreeMap<String, String>,
    /// Its GPUs in PCI order.
    pub gpus: Vec<GpuFact>,
    /// Why it takes no GPU work; empty where NVML answers.
    pub gpu_problem: String,
    /// Why it takes no work at all, as for a full disk; empty: it does.
    #[serde(default)]
    pub degraded: String,
    /// Attempts that survive SIGKILL: the node takes no work while there are any.
    #[serde(default)]
    pub stuck: Vec<AttemptId>,
}

impl NodeFacts {
    /// Why no work is placed on the node; `None`: nothing is wrong.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let stuck: Vec<String> = self.stuck.iter().map(AttemptId::to_string).collect();
        let mut all = Vec::new();
        if !stuck.is_empty() {
            all.push(format!("{} survived SIGKILL and may still hold GPUs", stuck.join(", ")));
        }
        if !self.degraded.is_empty() {
            all.push(self.degraded.clone());
        }
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// What placement needs to know of a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuFact {
    /// Its UUID.
    pub uuid: crate::unit::GpuUuid,
    /// Why no work may be placed on it; empty: healthy.
    pub fault: String,
}

/// A gang of which a node holds something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldGang {
    /// The gang.
    pub gang: GangId,
    /// How far it is.
    pub phase: GangPhase,
    /// Set if it ended without a start, because preparing failed.
    pub prepare_failed: Option<PrepareFailed>,
    /// Attempts started here (without the preparation) whose end is not acknowledged, or that run.
    pub attempts: Vec<HeldAttempt>,
}

/// An attempt that a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldAttempt {
    /// Which.
    pub attempt: AttemptId,
    /// Main process and start, if it was started.
    pub started: Option<(u32, WallMs)>,
    /// Its end, if it has ended.
    pub ended: Option<TaskEnded>,
}

/// What the coordinator answers to a [`Hello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Of this start of the coordinator.
    pub generation: Generation,
    /// Of this session.
    pub epoch: Epoch,
    /// How long the coordinator counts attempts as alive without a word, in ms.
    pub lease_ms: u64,
    /// How often it wants to hear, in ms.
    pub heartbeat_ms: u64,
    /// How often it wants numbers, in ms.
    pub metrics_period_ms: u64,
}
