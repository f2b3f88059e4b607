//! What follows from a step: first what must be durable, then what may happen.

use serde::Serialize;

use super::drain::Drain;
use super::event::{JobKey, ReplyTo};
use super::state::Job;
use crate::id::{Epoch, GangId, JobId, NodeId};
use crate::plan::NodePlan;
use crate::session::{Command, NodeFacts, Welcome};
use crate::unit::WallMs;

/// The result of a step.
#[must_use]
#[derive(Debug, Default)]
pub struct Step {
    /// Durable, in order, in one transaction ...
    pub commit: Vec<Record>,
    /// ... before any of these happens.
    pub then: Vec<Effect>,
}

/// One change of the store.
#[derive(Clone, Debug)]
pub enum Record {
    /// Insert or replace: the whole job with its current gang, without plans. The store keeps secrets apart.
    PutJob(Box<Job>),
    /// The plan of a new gang, without secrets; written once.
    PutPlan {
        /// The gang.
        gang: GangId,
        /// One entry per node.
        nodes: Vec<NodePlan>,
    },
    /// The job, its plans and its log index are gone.
    DeleteJob(JobId),
    /// Insert or replace a node.
    PutNode {
        /// The node.
        node: NodeId,
        /// Of its last session.
        epoch: Epoch,
        /// Its facts.
        facts: NodeFacts,
    },
    /// Whether a node that joined before takes new work.
    PutDrain {
        /// The node.
        node: NodeId,
        /// Why it takes none; `None`: it takes work.
        drain: Option<Drain>,
    },
    /// Append to the event log; the store gives the sequence number in the order of the records.
    Journal(JournalEntry),
}

/// One line of the event log that clients can follow.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JournalEntry {
    /// When.
    pub at: WallMs,
    /// `jobSubmitted`, `jobStarted`, `taskStarted`, `taskEnded`, `jobRequeued`, `jobEnded`, `jobDeleted`,
    /// `taskEndConflict`, `nodeJoined`, `nodeUnknown`, `nodeLost`, `nodeStuck`, `nodeFreed`, `nodeDrained`, `nodeResumed`,
    /// `nodeDeclaredLost`, `recovered`, `foreignEnded`.
    pub kind: &'static str,
    /// The job, where one is concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The node, where one is concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// More, by kind: `{task, pid}`, `{exitCode, reason}`, ...
    pub detail: serde_json::Value,
}

/// What may happen after the commit. Each can be repeated without harm.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Answer a client or a session.
    Reply(ReplyTo, Answer),
    /// Send to the session of this node and epoch; dropped if that is gone (the next Hello repeats it).
    Send {
        /// The node.
        node: NodeId,
        /// Of the session.
        epoch: Epoch,
        /// What.
        command: Command,
    },
    /// Remove the logs of this job.
    DropLogs(JobId),
}

/// The answer to a client or a session.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A new job is accepted and durable.
    Created(JobId),
    /// The job existed, with the same spec.
    Existed(JobId),
    /// Another job of that name exists.
    Conflict(JobId),
    /// The job is ending, or was over before (`already`).
    Terminating {
        /// It.
        job: JobId,
        /// Whether it was over before.
        already: bool,
    },
    /// The job is gone, or will be once it has ended (`later`).
    Deleted {
        /// Whether it has to end first.
        later: bool,
    },
    /// No job has that name.
    NotFound(JobKey),
    /// The node is as it was asked for.
    NodeChanged(NodeId),
    /// No node of that name ever joined.
    NoSuchNode(NodeId),
    /// The node is connected, so that it is not lost.
    NodeConnected(NodeId),
    /// To a session.
    Welcome(Welcome),
    /// To a session that cannot be accepted, or to a submit before a recovery.
    Refused(String),
    /// Foreign work is told to end on these nodes; none: nobody holds it.
    Stopping {
        /// Who was told.
        nodes: Vec<NodeId>,
    },
}
