//! A database that is older than what agents have obeyed: it was restored from a backup, or has lost commits.
//!
//! Until an operator has looked (`trainyard coordinator recover`), nothing is scheduled, no job is taken, no
//! lease runs out, and agents that know more are refused; what they hold is listed. Adopting raises the
//! generation above all of theirs and skips every number that the lost database may have given. What it then
//! still does not know, *foreign* work, goes on until it ends by itself or the operator stops it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::effect::{Answer, Effect, JournalEntry, Step};
use super::event::{Now, ReplyTo};
use super::gang;
use super::state::{Job, JobPhase, State};
use crate::id::{GangId, Generation, JobId, NodeId};
use crate::session::{Command, GangPhase, HeldGang, Hello, TaskEnded};
use crate::unit::WallMs;

/// Numbers of jobs go on at a multiple of this (plus one) after a recovery, so that no number that an agent
/// which nobody has seen yet may hold is given to another job.
pub const JOB_NUMBERS: u64 = 1_000_000;
/// Numbers of gangs of an open job go on at a multiple of this (plus one), for the same reason.
pub const GANG_NUMBERS: u32 = 1_000;

/// Numbers that a lost database may have given: from, and to without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lost<T> {
    /// The first.
    pub from: T,
    /// One more than the last.
    pub to: T,
}

impl<T: PartialOrd> Lost<T> {
    /// Whether the number is one of them.
    pub fn contains(&self, number: &T) -> bool {
        *number >= self.from && *number < self.to
    }
}

/// What is known of a database that went back.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// The store says that it was restored or begun anew, and that no operator has adopted it yet.
    pub restored: bool,
    /// Nodes that were refused because of it, with what they hold.
    pub ahead: BTreeMap<NodeId, Ahead>,
    /// Numbers of jobs that earlier recoveries have skipped.
    pub lost: Vec<Lost<JobId>>,
    /// Foreign gangs that are not known to be over, by the node that holds them, connected or not.
    pub foreign: BTreeMap<NodeId, BTreeSet<GangId>>,
    /// `foreign` has changed since [`Recovery::take_changed`].
    pub(crate) changed: bool,
}

/// A node whose agent may know more than the database.
#[derive(Clone, Debug, PartialEq)]
pub struct Ahead {
    /// The highest generation that it has obeyed.
    pub generation: Generation,
    /// Whether the database knows the node: one of another coordinator holds up nobody but itself.
    pub known: bool,
    /// What it holds.
    pub held: Vec<HeldGang>,
    /// When it said so.
    pub at: WallMs,
}

impl Recovery {
    /// Whether an operator has to look before anything is decided.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.restored || self.ahead.values().any(|ahead| ahead.known)
    }

    /// The foreign gangs, if they have changed since the last call: the store has to know them, so that no job
    /// starts beside one of its own after a restart.
    pub fn take_changed(&mut self) -> Option<BTreeMap<NodeId, BTreeSet<GangId>>> {
        std::mem::take(&mut self.changed).then(|| self.foreign.clone())
    }

    /// Whether the node holds foreign work: no other is placed on it.
    #[must_use]
    pub fn holds_foreign(&self, node: &NodeId) -> bool {
        self.foreign.contains_key(node)
    }

    fn put(&mut self, node: &NodeId, gang: GangId) {
        self.changed |= self.foreign.entry(node.clone()).or_default().insert(gang);
    }

    fn remove(&mut self, node: &NodeId, gang: GangId) -> bool {
        let Some(gangs) = self.foreign.get_mut(node) else { return false };
        let removed = gangs.remove(&gang);
        if gangs.is_empty() {
            self.foreign.remove(node);
        }
        self.changed |= removed;
        removed
    }

    /// Whether a lost database may have given this number.
    #[must_use]
    pub fn is_lost(&self, job: JobId) -> bool {
        self.lost.iter().any(|lost| lost.contains(&job))
    }
}

/// What becomes durable when an operator adopts the database.
#[derive(Clone, Debug)]
pub struct Adoption {
    /// Higher than any that an agent has obeyed.
    pub generation: Generation,
    /// Beyond every number that an agent or a log folder holds.
    pub next_job: JobId,
    /// All numbers that were ever skipped.
    pub lost: Vec<Lost<JobId>>,
    /// Open jobs, whose next gangs have numbers that no agent has seen.
    pub jobs: Vec<Job>,
    /// Work that agents hold and the database does not know.
    pub foreign: BTreeMap<NodeId, BTreeSet<GangId>>,
    /// For the event log.
    pub entry: JournalEntry,
}

/// Why the database is not adopted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdopted {
    /// Nothing has gone back.
    #[error("nothing has to be recovered: no agent knows more than the database")]
    NotNeeded,
    /// What these nodes hold is not known.
    #[error(
        "what these nodes hold is not known, as they have not been heard of: {}. Start their agents, or name each that will not come back (--without NODE)",
        names(.0)
    )]
    NotHeard(Vec<NodeId>),
}

fn names(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What adopting means now. `highest` is the highest job number that anything but the database knows of.
///
/// # Errors
/// [`NotAdopted`]
pub fn adopt(
    state: &State,
    now: Now,
    highest: JobId,
    without: &BTreeSet<NodeId>,
) -> Result<Adoption, NotAdopted> {
    let recovery = &state.recovery;
    if !recovery.is_needed() && recovery.ahead.is_empty() {
        return Err(NotAdopted::NotNeeded);
    }
    let missing = missing(state).into_iter().filter(|node| !without.contains(node)).collect::<Vec<_>>();
    if !missing.is_empty() {
        return Err(NotAdopted::NotHeard(missing));
    }
    let obeyed = recovery.ahead.values().map(|ahead| ahead.generation).max().unwrap_or_default();
    let generation = Generation(state.generation.max(obeyed).0 + 1);
    let held: Vec<GangId> =
        recovery.ahead.values().flat_map(|ahead| ahead.held.iter().map(|held| held.gang)).collect();
    let beyond = held.iter().map(|gang| gang.job).max().unwrap_or_default().max(highest);
    let floor = state.next_job.0.max(beyond.0 + 1);
    let next_job = JobId((floor / JOB_NUMBERS + 1) * JOB_NUMBERS + 1);
    let mut lost = recovery.lost.clone();
    lost.push(Lost { from: state.next_job, to: next_job });
    let jobs = state.jobs.values().filter(|job| job.is_open()).map(|job| skip_gangs(job, &held)).collect();
    let mut foreign = Recovery { foreign: recovery.foreign.clone(), ..Recovery::default() };
    for (node, ahead) in &recovery.ahead {
        foreign.foreign.remove(node);
        for held in ahead.held.iter().filter(|held| held.phase != GangPhase::Ended) {
            if knowledge(state, held.gang) == Knowledge::Foreign {
                foreign.put(node, held.gang);
            }
        }
    }
    let foreign = foreign.foreign;
    let detail = json!({ "generation": generation, "nextJob": next_job, "without": without });
    let entry = JournalEntry { at: now.wall, kind: "recovered", job_id: None, job: None, node: None, detail };
    Ok(Adoption { generation, next_job, lost, jobs, foreign, entry })
}

/// Nodes of the database whose work is not known, because they have not been heard of.
#[must_use]
pub fn missing(state: &State) -> Vec<NodeId> {
    let unheard = state.nodes.values().filter(|node| node.session.is_none());
    unheard.map(|node| node.id.clone()).filter(|id| !state.recovery.ahead.contains_key(id)).collect()
}

fn skip_gangs(job: &Job, held: &[GangId]) -> Job {
    let seen = held.iter().filter(|gang| gang.job == job.id).map(|gang| gang.gang.0).max().unwrap_or(0);
    let next = job.next_gang();
    let floor = next.0.max(seen + 1);
    let to = (floor / GANG_NUMBERS + 1) * GANG_NUMBERS + 1;
    let mut job = job.clone();
    job.lost_gangs.push(Lost { from: next, to: crate::id::GangNo(to) });
    job
}

/// Why this agent cannot be let in before an operator has looked; it is noted what it holds.
pub(super) fn refusal(state: &mut State, now: Now, hello: &Hello) -> Option<String> {
    let known = state.nodes.contains_key(&hello.node);
    let unknown: Vec<GangId> =
        hello.held.iter().map(|held| held.gang).filter(|gang| is_ahead(state, *gang)).collect();
    let why = if hello.last_generation > state.generation {
        format!(
            "this coordinator (generation {}) is older than one that the agent has obeyed ({}): was its database restored from a backup?",
            state.generation, hello.last_generation
        )
    } else if !unknown.is_empty() {
        let gangs: Vec<String> = unknown.iter().map(ToString::to_string).collect();
        format!(
            "the agent holds work that this coordinator never gave it ({}): was its database restored from a backup?",
            gangs.join(", ")
        )
    } else if state.recovery.restored {
        "the coordinator's database was restored".to_owned()
    } else {
        if state.recovery.ahead.remove(&hello.node).is_some() {
            state.placement_due = true;
            state.changed = true;
        }
        return None;
    };
    let (generation, held) = (hello.last_generation, hello.held.clone());
    state.recovery.ahead.insert(hello.node.clone(), Ahead { generation, known, held, at: now.wall });
    state.placement_due = true;
    state.changed = true;
    Some(format!(
        "{why}. What runs goes on; on the coordinator's machine `trainyard coordinator recover` shows it and what helps"
    ))
}

/// Whether only a later state of this database can have given this gang.
fn is_ahead(state: &State, id: GangId) -> bool {
    if is_foreign(state, id) {
        return false;
    }
    id.job >= state.next_job || state.jobs.get(&id.job).is_some_and(|job| id.gang >= job.next_gang())
}

/// Whether the gang has a number that was skipped: a lost database gave it.
pub(super) fn is_foreign(state: &State, id: GangId) -> bool {
    let of_job = |job: &Job| job.lost_gangs.iter().any(|lost| lost.contains(&id.gang));
    state.recovery.is_lost(id.job) || state.jobs.get(&id.job).is_some_and(of_job)
}

/// A node that is let in says what it holds: all that counts from now on.
pub(super) fn on_joined(state: &mut State, node: &NodeId) {
    state.recovery.changed |= state.recovery.foreign.remove(node).is_some();
}

/// A node that is let in holds a foreign gang.
pub(super) fn on_held(state: &mut State, now: Now, node: &NodeId, held: &HeldGang, step: &mut Step) {
    let ended: Vec<TaskEnded> = held.attempts.iter().filter_map(|attempt| attempt.ended.clone()).collect();
    for ended in &ended {
        on_task_ended(state, now, node, ended, step);
    }
    if !ended.is_empty() {
        let acked = ended.into_iter().map(|ended| ended.attempt).collect();
        state.send(node, Command::EndedAck(acked), step);
    }
    match held.phase {
        GangPhase::Ended => state.send(node, Command::Release(held.gang), step),
        GangPhase::Preparing | GangPhase::Prepared | GangPhase::Running => {
            state.recovery.put(node, held.gang);
        }
    }
}

/// Nobody has a place for the result but the event log.
pub(super) fn on_task_ended(state: &State, now: Now, node: &NodeId, ended: &TaskEnded, step: &mut Step) {
    if is_foreign(state, ended.attempt.gang_id()) {
        let detail =
            json!({ "attempt": ended.attempt.to_string(), "exit": ended.exit, "cause": ended.cause });
        state.journal_node(now, "foreignEnded", node, detail, step);
    }
}

/// Nothing of it runs there any more.
pub(super) fn on_gang_ended(state: &mut State, id: GangId, node: &NodeId) {
    if state.recovery.remove(node, id) {
        state.placement_due = true;
        state.changed = true;
    }
}

/// An operator wants foreign work to end, or says that it is `gone` with its node.
pub(super) fn on_foreign_stopped(state: &mut State, reply: ReplyTo, id: GangId, gone: bool, step: &mut Step) {
    let holders = state.recovery.foreign.iter().filter(|(_, gangs)| gangs.contains(&id));
    let nodes: Vec<NodeId> = holders.map(|(node, _)| node.clone()).collect();
    for node in &nodes {
        let connected = state.nodes.get(node).is_some_and(|node| node.session.is_some());
        if connected {
            gang::stop(state, id, node, step);
        } else if gone {
            on_gang_ended(state, id, node);
        }
    }
    step.then.push(Effect::Reply(reply, Answer::Stopping { nodes }));
}

/// The foreign gang of this job that is not known to be over, and where: the job must not run beside it.
pub(super) fn runs_elsewhere(state: &State, job: JobId) -> Option<(NodeId, GangId)> {
    state.recovery.foreign.iter().find_map(|(node, gangs)| {
        let gang = gangs.iter().find(|gang| gang.job == job)?;
        Some((node.clone(), *gang))
    })
}

/// How many tries a job has had, skipped numbers not counted.
pub(super) fn tries(job: &Job) -> u32 {
    let skipped = |lost: &Lost<crate::id::GangNo>| {
        if job.gangs >= lost.to.0 { lost.to.0 - lost.from.0 } else { 0 }
    };
    job.gangs - job.lost_gangs.iter().map(skipped).sum::<u32>()
}

/// Whether a job of this state waits for an operator.
pub(super) fn holds_back(state: &State) -> bool {
    state.recovery.is_needed()
}

/// How far a held gang is known to the database, for the operator's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Knowledge {
    /// It is a live gang of an open job: it is taken over.
    Live,
    /// It was given by a lost database: kept until it ends or is stopped.
    Foreign,
    /// It is over here: it is ended.
    Over,
}

/// What becomes of a held gang.
#[must_use]
pub fn knowledge(state: &State, id: GangId) -> Knowledge {
    let live = state.jobs.get(&id.job).is_some_and(|job| match &job.phase {
        JobPhase::Active(gang) => gang.id == id,
        JobPhase::Queued { .. } | JobPhase::Ended { .. } => false,
    });
    match () {
        () if live => Knowledge::Live,
        () if is_ahead(state, id) || is_foreign(state, id) => Knowledge::Foreign,
        () => Knowledge::Over,
    }
}
