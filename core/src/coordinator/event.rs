//! What happens to the coordinator.

use serde::{Deserialize, Serialize};

use crate::id::{Epoch, GangId, JobId, NodeId};
use crate::session::{Hello, NodeFacts, Report};
use crate::spec::JobSpec;
use crate::text::Name;
use crate::unit::{Tick, WallMs};

/// The time of a step: read once by the driver.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Monotonic, since this coordinator started: decides.
    pub tick: Tick,
    /// Of the wall clock: shown, never compared, but for what is left of a wall-clock limit after a restart.
    pub wall: WallMs,
}

/// Who waits for an answer: a number that the driver gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplyTo(pub u64);

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client wants a job.
    Submitted {
        /// Who waits.
        reply: ReplyTo,
        /// What it wants; its id is given here by the state.
        job: Box<NewJob>,
        /// The finished job of that name in the store, if there is one; open jobs are in the state.
        finished: Option<FinishedJob>,
    },
    /// A client wants a job to end.
    Cancelled {
        /// Who waits.
        reply: ReplyTo,
        /// Which.
        key: JobKey,
        /// As in `Submitted`.
        finished: Option<FinishedJob>,
    },
    /// A client wants a job to be gone; an open one is ended first.
    Deleted {
        /// Who waits.
        reply: ReplyTo,
        /// Which.
        key: JobKey,
        /// As in `Submitted`.
        finished: Option<FinishedJob>,
    },
    /// An agent (re)connected. Any earlier session of the node is over.
    NodeJoined {
        /// Who waits for [`super::Answer::Welcome`].
        reply: ReplyTo,
        /// What it said.
        hello: Box<Hello>,
    },
    /// The session broke. That says nothing about what runs there.
    NodeLeft {
        /// The node.
        node: NodeId,
        /// Of the session that broke; a later one is not concerned.
        epoch: Epoch,
    },
    /// An agent said something: reports, or an empty list as a heartbeat.
    Heard {
        /// The node.
        node: NodeId,
        /// Of the session that said it.
        epoch: Epoch,
        /// What, in order.
        reports: Vec<Report>,
    },
    /// A node's facts have changed (a GPU was lost).
    FactsChanged {
        /// The node.
        node: NodeId,
        /// Of the session that said it.
        epoch: Epoch,
        /// All of them.
        facts: Box<NodeFacts>,
    },
    /// An operator wants work to end that a lost database gave.
    ForeignStopped {
        /// Who waits for [`super::Answer::Stopping`].
        reply: ReplyTo,
        /// Which.
        gang: GangId,
        /// Nodes that are not connected will never come back: it counts as over there.
        gone: bool,
    },
    /// An operator wants the node to take no new work.
    NodeDrained {
        /// Who waits.
        reply: ReplyTo,
        /// The node.
        node: NodeId,
        /// Why; may be empty.
        reason: String,
    },
    /// An operator wants the node to take work again.
    NodeResumed {
        /// Who waits.
        reply: ReplyTo,
        /// The node.
        node: NodeId,
    },
    /// An operator says that the machine is gone, with all that ran on it.
    NodeDeclaredLost {
        /// Who waits.
        reply: ReplyTo,
        /// The node.
        node: NodeId,
        /// Also if it is connected.
        force: bool,
    },
    /// A deadline has come.
    Woke,
}

/// The full name of a job. Compared without case, shown as given.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobKey {
    /// Subscription id: any text that a path segment may hold.
    pub subscription: String,
    /// Resource group.
    pub resource_group: String,
    /// Workspace.
    pub workspace: Name,
    /// Experiment.
    pub experiment: Name,
    /// Job.
    pub job: Name,
}

impl JobKey {
    /// The form that is compared: lower case, parts joined by `/`, which none of them holds.
    #[must_use]
    pub fn folded(&self) -> String {
        [
            &self.subscription,
            &self.resource_group,
            self.workspace.as_str(),
            self.experiment.as_str(),
            self.job.as_str(),
        ]
        .join("/")
        .to_ascii_lowercase()
    }
}

/// A job as a client asks for it.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its name.
    pub key: JobKey,
    /// Drawn by the caller; part of the job's output path.
    pub uuid: String,
    /// Checked.
    pub spec: JobSpec,
}

/// What the store knows of a finished job.
#[derive(Clone, Debug)]
pub struct FinishedJob {
    /// Its number.
    pub id: JobId,
    /// Whether its spec is the submitted one, secrets compared by their keyed hash: tells a repeated submit from
    /// another job of the same name. Where nothing was submitted: `false`.
    pub same_spec: bool,
}
