//! The invariants, named by their numbers in docs/reliability.md, and what really happened, to check against.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_core::agent::Record as AgentRecord;
use trainyard_core::coordinator::reason::{EndReason, Fault};
use trainyard_core::coordinator::state::{Job, JobPhase, NodePhase, TaskState};
use trainyard_core::coordinator::{Answer, Record};
use trainyard_core::id::{AttemptId, GangId, JobId, NodeId, Rank};
use trainyard_core::session::{Command, EndCause, Hello};
use trainyard_core::unit::Exit;

use crate::workload::{CANARY, Request, What};
use crate::world::World;

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When, simulated ms.
    pub at_ms: u64,
    /// Its number, or a word for one of our own.
    pub invariant: &'static str,
    /// What was seen.
    pub text: String,
}

/// What really happened, whatever anybody believes.
#[derive(Debug, Default)]
pub struct Truth {
    pub(crate) violation: Option<Violation>,
    /// With the node, since each node of a gang has a preparation of its own.
    started: BTreeSet<(AttemptId, usize)>,
    ended: BTreeMap<AttemptId, Exit>,
    /// Attempts whose end nobody may have seen.
    unseen: BTreeSet<AttemptId>,
    deleted: BTreeSet<JobId>,
    /// Answered submits: name and job.
    acked: BTreeMap<String, JobId>,
    /// Jobs that were over before any task of them started.
    never_started: BTreeSet<JobId>,
    /// Phases of jobs, as committed.
    phases: BTreeMap<JobId, &'static str>,
    outcomes: BTreeMap<JobId, String>,
    node_phases: BTreeMap<(GangId, NodeId), NodePhase>,
    /// Nodes that said they were prepared, or were told that they need not wait.
    prepared: BTreeSet<(GangId, NodeId)>,
}

impl Truth {
    pub(crate) fn ended(&mut self, attempt: AttemptId, exit: Exit) {
        self.ended.insert(attempt, exit);
    }

    pub(crate) fn shim_killed(&mut self, attempt: AttemptId) {
        self.unseen.insert(attempt);
    }
}

/// The name of a command.
#[must_use]
pub fn command_word(command: &Command) -> &'static str {
    match command {
        Command::Prepare { .. } => "prepare",
        Command::Start(_) => "start",
        Command::Stop { .. } => "stop",
        Command::Release(_) => "release",
        Command::EndedAck(_) => "endedAck",
    }
}

fn cause_word(cause: EndCause) -> &'static str {
    match cause {
        EndCause::Itself => "itself",
        EndCause::Stopped => "stopped",
        EndCause::Fenced => "fenced",
        EndCause::Oom => "oom",
        EndCause::NotStarted => "notStarted",
        EndCause::Lost => "lost",
        EndCause::Unkillable => "unkillable",
    }
}

fn reason_word(reason: &EndReason) -> &'static str {
    match reason {
        EndReason::Succeeded => "Succeeded",
        EndReason::TaskFailed { .. } => "TaskFailed",
        EndReason::TaskNotStarted { .. } => "TaskNotStarted",
        EndReason::PreparationFailed { .. } => "PreparationFailed",
        EndReason::SetupFailed { .. } => "SetupFailed",
        EndReason::PortsTaken { .. } => "PortsTaken",
        EndReason::NodeLost { .. } => "NodeLost",
        EndReason::GpuLost { .. } => "GpuLost",
        EndReason::PreflightFailed { .. } => "PreflightFailed",
        EndReason::NotBuilt { .. } => "NotBuilt",
        EndReason::PlanFailed { .. } => "PlanFailed",
        EndReason::Terminated => "Terminated",
        EndReason::WallClockExceeded { .. } => "WallClockExceeded",
    }
}

fn phase_word(job: &Job) -> &'static str {
    match job.phase {
        JobPhase::Queued { .. } => "queued",
        JobPhase::Active(_) => "active",
        JobPhase::Ended { .. } => "ended",
    }
}

impl World {
    /// 1, 2, 3, 11, 12, 13: a program is about to run.
    pub(crate) fn check_start(&mut self, n: usize, attempt: AttemptId, task: &crate::world::StartedTask) {
        let once = if attempt.rank == Rank::PREPARATION { n } else { usize::MAX };
        if !self.truth.started.insert((attempt, once)) {
            return self.violate("1", format!("{attempt} is started a second time"));
        }
        if self.truth.never_started.contains(&attempt.job) {
            return self
                .violate("13", format!("{attempt} starts, though its job was over before it had started"));
        }
        if let Some(text) = self.live_copy(n, attempt) {
            return self.violate("2", text);
        }
        for (other, gpus) in self.living(n) {
            if let Some(gpu) = gpus.iter().find(|gpu| task.gpus.contains(gpu)) {
                return self.violate("3", format!("{gpu} belongs to {other}, and {attempt} starts on it"));
            }
        }
        let gang = attempt.gang_id();
        if attempt.rank != Rank::PREPARATION {
            let Some(nodes) = self.planned_nodes(gang) else {
                return self.violate("7", format!("{attempt} starts, and no plan of its gang is on disk"));
            };
            let alone = nodes.len() == 1;
            let late = nodes.iter().find(|node| !self.truth.prepared.contains(&(gang, (*node).clone())));
            if let Some(node) = late.filter(|_| !alone) {
                self.violate("12", format!("{attempt} starts before {node} was prepared"));
            }
        }
    }

    /// A living process of the same rank in another gang, on a node that does not stand still.
    fn live_copy(&self, n: usize, attempt: AttemptId) -> Option<String> {
        if attempt.rank == Rank::PREPARATION {
            return None;
        }
        (0..self.node_count()).find_map(|other| {
            let copy = self.living(other).into_iter().find(|(id, _)| {
                id.job == attempt.job && id.rank == attempt.rank && id.gang != attempt.gang
            })?;
            let excused = self.is_frozen(other) || self.is_beyond_killing(other, copy.0);
            (!excused).then(|| format!("{attempt} starts on node {n}, and {} lives on node {other}", copy.0))
        })
    }

    /// 2, while everything runs: looked at after something stood still.
    pub(crate) fn check_copies(&mut self) {
        let all: Vec<(usize, AttemptId)> = (0..self.node_count())
            .filter(|n| !self.is_frozen(*n))
            .flat_map(|n| self.living(n).into_iter().map(move |(id, _)| (n, id)))
            .filter(|(n, id)| !self.is_beyond_killing(*n, *id))
            .collect();
        let double = all.iter().enumerate().find_map(|(i, (_, a))| {
            let b = all[i + 1..].iter().find(|(_, b)| {
                a.rank != Rank::PREPARATION && b.job == a.job && b.rank == a.rank && b.gang != a.gang
            })?;
            Some(format!("{a} and {} live at once", b.1))
        });
        if let Some(text) = double {
            self.violate("2", text);
        }
    }

    /// N7: a shim says that nothing is left.
    pub(crate) fn check_finished(&mut self, n: usize, attempt: AttemptId) {
        if self.living(n).iter().any(|(id, _)| *id == attempt) {
            self.violate("17", format!("the shim of {attempt} has finished, and its processes live"));
        }
    }

    /// 6, 10, 13, 16: a change of the database.
    pub(crate) fn check_record(&mut self, record: &Record) {
        let Record::PutJob(job) = record else {
            if let Record::DeleteJob(id) = record {
                self.truth.acked.retain(|_, acked| acked != id);
                self.truth.deleted.insert(*id);
                if !self.truth.started.iter().any(|(attempt, _)| attempt.job == *id) {
                    self.truth.never_started.insert(*id);
                }
            }
            return;
        };
        let from = self.truth.phases.get(&job.id).copied().unwrap_or("new");
        let to = phase_word(job);
        self.coverage.hit("job", format_args!("{from} > {to}"));
        self.truth.phases.insert(job.id, to);
        if from == "ended" && self.truth.outcomes.get(&job.id) != Some(&format!("{:?}", job.phase)) {
            return self.violate("6", format!("job {} was over, and changes to {:?}", job.id, job.phase));
        }
        let user_faults = job.history.iter().filter(|(_, reason)| reason.fault() == Fault::User).count();
        if job.retries_used as usize > user_faults {
            let text = format!(
                "job {} used {} retries after {user_faults} faults of its own",
                job.id, job.retries_used
            );
            return self.violate("16", text);
        }
        if let Some(reason) = job.history.last().map(|(_, reason)| reason) {
            self.coverage.hit("reason", reason_word(reason));
        }
        match &job.phase {
            JobPhase::Queued { .. } if job.cancelled => {
                self.violate("13", format!("job {} is cancelled and waits for its start", job.id));
            }
            JobPhase::Queued { .. } => {}
            JobPhase::Active(gang) => {
                for node in &gang.nodes {
                    self.node_edge(gang.id, node.node.clone(), node.phase);
                }
                self.check_tasks(job);
            }
            JobPhase::Ended { reason, .. } => {
                self.truth.outcomes.insert(job.id, format!("{:?}", job.phase));
                self.coverage.hit("reason", reason_word(reason));
                if !self.truth.started.iter().any(|(attempt, _)| attempt.job == job.id) {
                    self.truth.never_started.insert(job.id);
                }
                self.check_tasks(job);
                if *reason == EndReason::Succeeded {
                    self.check_success(job);
                }
            }
        }
    }

    fn node_edge(&mut self, gang: GangId, node: NodeId, phase: NodePhase) {
        let word = |phase| match phase {
            NodePhase::Preparing => "preparing",
            NodePhase::Prepared => "prepared",
            NodePhase::Started => "started",
            NodePhase::Ended => "ended",
            NodePhase::Lost => "lost",
        };
        let before = self.truth.node_phases.insert((gang, node), phase);
        if let Some(before) = before.filter(|before| *before != phase) {
            self.coverage.hit("node of a gang", format_args!("{} > {}", word(before), word(phase)));
        }
    }

    /// N2: what is said of an exit is what was.
    fn check_tasks(&mut self, job: &Job) {
        let Some(gang) = job.gang() else { return };
        let gang = GangId { job: job.id, gang };
        for task in job.tasks() {
            let TaskState::Ended(ended) = &task.state else { continue };
            self.coverage.hit("end", cause_word(ended.cause));
            let attempt = gang.attempt(task.rank);
            let truth = self.truth.ended.get(&attempt).copied();
            let wrong = match ended.exit {
                Exit::Unknown => false,
                said => truth != Some(said) && ended.cause != EndCause::NotStarted,
            };
            if wrong {
                let text = format!(
                    "{attempt}: {} ({:?}) is on disk, the truth is {truth:?}",
                    ended.exit, ended.cause
                );
                return self.violate("N2", text);
            }
            let unknown = ended.exit == Exit::Unknown && ended.cause == EndCause::Lost;
            if unknown
                && truth.is_some()
                && !self.truth.unseen.contains(&attempt)
                && !ended.message.contains("lease")
            {
                let text = format!("{attempt} is lost ({}), though somebody saw it end", ended.message);
                return self.violate("10", text);
            }
        }
    }

    fn check_success(&mut self, job: &Job) {
        let Some(gang) = job.gang() else { return };
        for task in job.tasks() {
            let attempt = GangId { job: job.id, gang }.attempt(task.rank);
            let server = task.role == trainyard_core::plan::task::Role::ParameterServer;
            if !server && self.truth.ended.get(&attempt) != Some(&Exit::Code(0)) {
                let truth = self.truth.ended.get(&attempt);
                return self
                    .violate("N2", format!("job {} succeeded, but {attempt} ended with {truth:?}", job.id));
            }
        }
    }

    /// 4, 5: an answer is given.
    pub(crate) fn check_answer(&mut self, request: &Request, answer: &Answer) {
        let folded = request.key.folded();
        match (&request.what, answer) {
            (What::Submit(spec), Answer::Created(id) | Answer::Existed(id)) => {
                // One transaction can hold a submit and the delete that followed at once.
                if self.truth.deleted.contains(id) {
                    return;
                }
                let stored = self.stored_job(*id);
                if stored.is_none_or(|job| job.spec != **spec || job.key.folded() != folded) {
                    return self
                        .violate("4", format!("{folded} was accepted as job {id}, which is not on disk"));
                }
                if let Some(before) = self.truth.acked.insert(folded.clone(), *id)
                    && before != *id
                {
                    self.violate("5", format!("{folded} was job {before}, and now is {id}"));
                }
            }
            (What::Submit(_), _) | (What::Cancel | What::Delete, _) => {}
        }
        let lost: Vec<JobId> =
            self.truth.acked.values().filter(|id| self.stored_job(**id).is_none()).copied().collect();
        if let Some(id) = lost.first() {
            self.violate("4", format!("job {id} was accepted, and is not on disk"));
        }
    }

    /// 7: a command leaves the coordinator.
    pub(crate) fn check_send(&mut self, node: &NodeId, command: &Command) {
        if let Command::Prepare { gang, plan, .. } = command {
            if plan.node != *node {
                return self.violate("7", format!("{node} gets the plan of {}", plan.node));
            }
            let planned = self.planned_nodes(*gang).is_some_and(|nodes| nodes.contains(node));
            if !planned || !self.is_live_on_disk(*gang) {
                self.violate("7", format!("{gang} is sent to {node} before it is on disk"));
            }
        }
    }

    /// 10, 14: a change of an agent's journal.
    pub(crate) fn check_agent_record(&mut self, n: usize, record: &AgentRecord) {
        if let AgentRecord::Planned { gang, plan, start_when_prepared: true, .. } = record {
            self.truth.prepared.insert((*gang, plan.node.clone()));
        }
        if let AgentRecord::Released { gang, .. } = record
            && self.is_live_on_disk(*gang)
            && !self.is_over_on(*gang, n)
        {
            return self.violate("10", format!("node {n} forgets {gang}, whose outcome is not on disk"));
        }
        if self.wants_texts() {
            let text = serde_json::to_string(record).unwrap_or_default();
            self.check_text("the agent's journal", &text);
        }
    }

    /// 12: what a node says of itself.
    pub(crate) fn check_prepared(&mut self, gang: GangId, node: NodeId) {
        self.truth.prepared.insert((gang, node));
    }

    /// 12, for what a Hello says.
    pub(crate) fn check_hello(&mut self, hello: &Hello) {
        for held in &hello.held {
            if held.phase == trainyard_core::session::GangPhase::Prepared {
                self.check_prepared(held.gang, hello.node.clone());
            }
        }
    }

    /// 14: secrets are nowhere in what is written or shown.
    pub(crate) fn check_text(&mut self, place: &str, text: &str) {
        if text.contains(CANARY) {
            self.violate("14", format!("a secret is in {place}"));
        }
    }
}
