//! Why a job waits and why it ended: as data, with the evidence, and in words.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{GangId, JobId, NodeId};
use crate::unit::{Exit, WallMs};

/// Why a job waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", content = "evidence", rename_all = "PascalCase", rename_all_fields = "camelCase")]
pub enum WaitReason {
    /// No node has ever joined, or all are gone.
    NoNodes {
        /// Nodes that the job needs.
        need: u32,
    },
    /// The cluster is smaller than the job.
    NotEnoughNodes {
        /// Nodes that the job needs.
        need: u32,
        /// Nodes that could ever take it.
        have: u32,
        /// What is wrong with the others.
        rejected: Vec<NodeRejection>,
    },
    /// There are enough nodes, but some are busy or not heard of.
    NodesBusy {
        /// Nodes that the job needs.
        need: u32,
        /// Nodes free for it now.
        free: u32,
        /// What the others do.
        rejected: Vec<NodeRejection>,
    },
    /// An earlier or more important job waits for nodes, and this one does not overtake it.
    Behind {
        /// That job.
        job: JobId,
        /// Its name.
        name: String,
    },
    /// It is tried again after a pause.
    BackOff {
        /// When.
        until: WallMs,
        /// Why the last try ended.
        last: String,
    },
    /// The coordinator's database is older than what its agents have obeyed: an operator has to look.
    RecoveryNeeded,
    /// A lost state of the database started it, and that gang still runs.
    RunsElsewhere {
        /// Where.
        node: NodeId,
        /// Which gang.
        gang: GangId,
    },
}

/// Why a node does not take a job now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRejection {
    /// The node.
    pub node: NodeId,
    /// Why.
    #[serde(flatten)]
    pub why: Rejection,
}

/// Why a node does not take a job now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Rejection {
    /// Another job has it.
    Busy {
        /// That job.
        job: JobId,
    },
    /// Not heard of since.
    Unknown {
        /// Since when.
        since: WallMs,
    },
    /// Fewer healthy GPUs than asked for.
    TooFewGpus {
        /// Asked for.
        need: u32,
        /// Healthy ones.
        have: u32,
        /// Why there are none, if NVML does not answer; empty otherwise.
        problem: String,
    },
    /// The node holds work that this coordinator never gave it.
    ForeignWork,
    /// Something is wrong with the node, and nobody can say until when.
    Degraded {
        /// What.
        problem: String,
    },
    /// It takes no new work until it is resumed.
    Drained {
        /// Since when.
        since: WallMs,
        /// Why; empty: no reason was given.
        why: String,
    },
    /// An earlier try of the job failed there, and other nodes will do.
    Avoided,
}

impl Rejection {
    /// Whether waiting can help.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Rejection::Busy { .. } | Rejection::Unknown { .. } => true,
            Rejection::TooFewGpus { .. }
            | Rejection::ForeignWork
            | Rejection::Degraded { .. }
            | Rejection::Drained { .. }
            | Rejection::Avoided => false,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejection::Busy { job } => write!(f, "busy with job {job}"),
            Rejection::Unknown { since } => write!(f, "not heard of since {}", time(*since)),
            Rejection::TooFewGpus { need, have, problem } => {
                write!(f, "{have} healthy GPUs, {need} asked for")?;
                if problem.is_empty() { Ok(()) } else { write!(f, " ({problem})") }
            }
            Rejection::ForeignWork => f.write_str("holds work that this coordinator never started"),
            Rejection::Degraded { problem } => write!(f, "takes no work: {problem}"),
            Rejection::Drained { since, why } => {
                write!(f, "drained since {}", time(*since))?;
                if why.is_empty() { Ok(()) } else { write!(f, " ({why})") }
            }
            Rejection::Avoided => f.write_str("an earlier try failed there"),
        }
    }
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitReason::NoNodes { need } => {
                write!(f, "It needs {} and none has joined: start an agent.", nodes(*need))
            }
            WaitReason::NotEnoughNodes { need, have, rejected } => {
                write!(f, "It needs {} and only {have} could take it", nodes(*need))?;
                list(f, rejected)?;
                f.write_str(" Add nodes, or ask for less.")
            }
            WaitReason::NodesBusy { need, free, rejected } => {
                write!(f, "It needs {} at once and {free} are free", nodes(*need))?;
                list(f, rejected)?;
                f.write_str(" It starts when enough are free.")
            }
            WaitReason::Behind { job, name } => {
                write!(
                    f,
                    "Job {name} ({job}) is before it and waits for nodes; jobs of one priority keep their order."
                )
            }
            WaitReason::BackOff { until, last } => {
                write!(f, "It is tried again at {}: {last}", time(*until))
            }
            WaitReason::RecoveryNeeded => f.write_str(
                "The coordinator's database is older than what its agents have obeyed, or was restored: nothing starts and no job is taken before an operator has looked: `trainyard coordinator recover`.",
            ),
            WaitReason::RunsElsewhere { node, gang } => write!(
                f,
                "Gang {gang} of it still runs on {node}, started before the database was restored; it starts when that has ended (`trainyard coordinator recover --stop {gang}` ends it)."
            ),
        }
    }
}

fn nodes(n: u32) -> String {
    if n == 1 { "1 node".to_owned() } else { format!("{n} nodes") }
}

fn list(f: &mut fmt::Formatter<'_>, rejected: &[NodeRejection]) -> fmt::Result {
    for (i, rejection) in rejected.iter().take(8).enumerate() {
        write!(f, "{}{}: {}", if i == 0 { " (" } else { "; " }, rejection.node, rejection.why)?;
    }
    if rejected.len() > 8 {
        write!(f, "; and {} more", rejected.len() - 8)?;
    }
    f.write_str(if rejected.is_empty() { "." } else { ")." })
}

fn time(wall: WallMs) -> String {
    jiff::Timestamp::from_millisecond(wall.0).map_or_else(|_| "?".to_owned(), |t| t.to_string())
}

/// Why a try of a job, and then the job, ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", content = "evidence", rename_all = "PascalCase", rename_all_fields = "camelCase")]
pub enum EndReason {
    /// All workers have exited 0.
    Succeeded,
    /// A task failed.
    TaskFailed {
        /// Its name.
        task: String,
        /// Where it ran.
        node: NodeId,
        /// How it ended.
        exit: Exit,
        /// The kernel's out-of-memory killer took it.
        out_of_memory: bool,
        /// The last lines of its stderr.
        stderr_tail: String,
    },
    /// A task could not be started.
    TaskNotStarted {
        /// Its name.
        task: String,
        /// Where.
        node: NodeId,
        /// As a shell says it: 127 where there is no such program, 126 where it cannot be executed. Unknown: it
        /// was the node's affair.
        exit: Exit,
        /// Why.
        message: String,
    },
    /// The preparation command failed.
    PreparationFailed {
        /// Where.
        node: NodeId,
        /// How it ended.
        exit: Exit,
        /// In words, with the last lines of its stderr.
        message: String,
    },
    /// A directory, file or mount could not be made, or an image not be fetched.
    SetupFailed {
        /// Where.
        node: NodeId,
        /// Why.
        message: String,
    },
    /// Planned ports were taken on a node: planned again without them.
    PortsTaken {
        /// Where.
        node: NodeId,
        /// Which.
        ports: Vec<crate::unit::Port>,
    },
    /// A node was not heard of for longer than its lease, or lost what it ran.
    NodeLost {
        /// Which.
        node: NodeId,
        /// In words.
        message: String,
    },
    /// A GPU that a task of the job had is broken or gone.
    GpuLost {
        /// Where.
        node: NodeId,
        /// Which.
        gpu: crate::unit::GpuUuid,
        /// The task that had it.
        task: String,
        /// What NVML says of it.
        fault: String,
    },
    /// A check of the node before the start found it unfit.
    PreflightFailed {
        /// Where.
        node: NodeId,
        /// Which check, and what it found.
        message: String,
    },
    /// The job needs something that this version cannot do yet.
    NotBuilt {
        /// What.
        features: Vec<String>,
    },
    /// The job cannot be planned on the nodes that it got.
    PlanFailed {
        /// Why.
        message: String,
    },
    /// A client ended it.
    Terminated,
    /// It ran longer than `constraints.maxWallClockTime`.
    WallClockExceeded {
        /// The limit, ISO 8601.
        limit: String,
    },
}

impl EndReason {
    /// The code in `executionInfo.errors`, as Batch AI named it where its name is known.
    #[must_use]
    pub fn error_code(&self) -> Option<&'static str> {
        Some(match self {
            EndReason::Succeeded => return None,
            EndReason::TaskFailed { .. } => "JobFailed",
            EndReason::TaskNotStarted { .. } => "TaskNotStarted",
            EndReason::PreparationFailed { .. } => "JobPreparationFailed",
            EndReason::SetupFailed { .. } => "JobSetupFailed",
            EndReason::PortsTaken { .. } => "PortsTaken",
            EndReason::NodeLost { .. } => "NodeLost",
            EndReason::GpuLost { .. } => "GpuLost",
            EndReason::PreflightFailed { .. } => "PreflightFailed",
            EndReason::NotBuilt { .. } => "NotBuilt",
            EndReason::PlanFailed { .. } => "JobCannotBePlanned",
            EndReason::Terminated => "JobTerminated",
            EndReason::WallClockExceeded { .. } => "MaxWallClockTimeExceeded",
        })
    }

    /// The job's exit code, where a process gave one: the code itself, or 128 + signal.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            EndReason::Succeeded => Some(0),
            EndReason::TaskFailed { exit, .. }
            | EndReason::TaskNotStarted { exit, .. }
            | EndReason::PreparationFailed { exit, .. } => exit.shell_code(),
            EndReason::SetupFailed { .. }
            | EndReason::PortsTaken { .. }
            | EndReason::NodeLost { .. }
            | EndReason::GpuLost { .. }
            | EndReason::PreflightFailed { .. }
            | EndReason::NotBuilt { .. }
            | EndReason::PlanFailed { .. }
            | EndReason::Terminated
            | EndReason::WallClockExceeded { .. } => None,
        }
    }

    /// The signal that ended the job, where one did.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        match self {
            EndReason::TaskFailed { exit: Exit::Signal(signal), .. }
            | EndReason::PreparationFailed { exit: Exit::Signal(signal), .. } => Some(*signal),
            EndReason::Succeeded
            | EndReason::TaskFailed { .. }
            | EndReason::PreparationFailed { .. }
            | EndReason::TaskNotStarted { .. }
            | EndReason::SetupFailed { .. }
            | EndReason::PortsTaken { .. }
            | EndReason::NodeLost { .. }
            | EndReason::GpuLost { .. }
            | EndReason::PreflightFailed { .. }
            | EndReason::NotBuilt { .. }
            | EndReason::PlanFailed { .. }
            | EndReason::Terminated
            | EndReason::WallClockExceeded { .. } => None,
        }
    }

    /// The node that the job should avoid when it is tried again.
    #[must_use]
    pub fn unfit_node(&self) -> Option<&NodeId> {
        match self {
            EndReason::SetupFailed { node, .. }
            | EndReason::GpuLost { node, .. }
            | EndReason::PreflightFailed { node, .. } => Some(node),
            EndReason::Succeeded
            | EndReason::TaskFailed { .. }
            | EndReason::TaskNotStarted { .. }
            | EndReason::PreparationFailed { .. }
            | EndReason::PortsTaken { .. }
            | EndReason::NodeLost { .. }
            | EndReason::NotBuilt { .. }
            | EndReason::PlanFailed { .. }
            | EndReason::Terminated
            | EndReason::WallClockExceeded { .. } => None,
        }
    }

    /// Whose fault it was: the infrastructure's faults do not consume the job's `retries`.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            EndReason::TaskFailed { exit: Exit::Unknown, .. }
            | EndReason::TaskNotStarted { exit: Exit::Unknown, .. }
            | EndReason::NodeLost { .. }
            | EndReason::GpuLost { .. }
            | EndReason::PreflightFailed { .. }
            | EndReason::SetupFailed { .. }
            | EndReason::PortsTaken { .. } => Fault::Infrastructure,
            EndReason::TaskFailed { .. }
            | EndReason::TaskNotStarted { .. }
            | EndReason::PreparationFailed { .. } => Fault::User,
            EndReason::Succeeded
            | EndReason::NotBuilt { .. }
            | EndReason::PlanFailed { .. }
            | EndReason::Terminated
            | EndReason::WallClockExceeded { .. } => Fault::Final,
        }
    }
}

/// Whose fault an end was, and so whether another try follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Of a node: tried again without consuming `retries`.
    Infrastructure,
    /// Of the job: tried again while `retries` are left.
    User,
    /// Another try would not help, or nobody wants one.
    Final,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndReason::Succeeded => f.write_str("All workers exited with code 0."),
            EndReason::TaskFailed { task, node, exit, out_of_memory, stderr_tail } => {
                write!(f, "Task {task} on {node} ended with {exit}")?;
                f.write_str(if *out_of_memory { ": it used more memory than there is." } else { "." })?;
                tail(f, stderr_tail)
            }
            EndReason::TaskNotStarted { task, node, message, .. } => {
                write!(f, "Task {task} could not be started on {node}: {message}")
            }
            EndReason::PreparationFailed { node, exit, message } => {
                write!(f, "The job preparation ended with {exit} on {node}.")?;
                tail(f, message)
            }
            EndReason::SetupFailed { node, message } => write!(f, "{node} could not be set up: {message}"),
            EndReason::PortsTaken { node, ports } => {
                let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
                write!(f, "Planned ports were taken on {node}: {}", ports.join(", "))
            }
            EndReason::NodeLost { node, message } => write!(f, "{node} was lost: {message}"),
            EndReason::GpuLost { node, gpu, task, fault } => {
                write!(f, "{gpu} on {node}, which task {task} had, cannot be used any more: {fault}")
            }
            EndReason::PreflightFailed { node, message } => {
                write!(f, "{node} was found unfit before the start: {message}")
            }
            EndReason::NotBuilt { features } => write!(
                f,
                "This version cannot do what the job asks for: {}. Nothing was started.",
                features.join(", ")
            ),
            EndReason::PlanFailed { message } => write!(f, "The job cannot be planned: {message}"),
            EndReason::Terminated => f.write_str("The specified job has been terminated by the user"),
            EndReason::WallClockExceeded { limit } => {
                write!(f, "It ran longer than constraints.maxWallClockTime ({limit}).")
            }
        }
    }
}

fn tail(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let text = text.trim_end();
    if text.is_empty() { Ok(()) } else { write!(f, "\n{text}") }
}
