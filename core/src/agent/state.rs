//! What a node knows of its gangs. The durable part changes by [`State::apply`] alone, so that the
//! journal's records rebuild it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::effect::Record;
use crate::id::{AttemptId, Epoch, GangId, Generation, Rank};
use crate::plan::NodePlan;
use crate::session::{GangPhase, HeldAttempt, HeldGang, PrepareFailed, TaskEnded};
use crate::unit::WallMs;

/// Released gangs that are remembered, for late commands and for files that a client still asks for.
pub const RELEASED_MAX: usize = 10_000;

/// Everything that one agent knows.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(super) boot_id: String,
    pub(super) generation: Generation,
    pub(super) session: Session,
    /// The latest moment of which it is known that the coordinator heard of this node after it.
    pub(super) contact_boot_ms: Option<u64>,
    /// The same, as the journal has it.
    pub(super) noted_boot_ms: Option<u64>,
    pub(super) gangs: BTreeMap<GangId, Gang>,
    /// Stopped before a plan came, and not released.
    pub(super) barred: BTreeSet<GangId>,
    pub(super) released: VecDeque<Released>,
    /// Attempts that survive SIGKILL, also of gangs that are released.
    pub(super) stuck: BTreeSet<AttemptId>,
}

/// How far the talk with the coordinator is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Session {
    #[default]
    Absent,
    /// A Hello is made; what happens from now on is said behind it.
    Greeting {
        boot_ms: u64,
    },
    Open {
        generation: Generation,
        epoch: Epoch,
    },
}

/// A gang that this node holds.
#[derive(Clone, Debug)]
pub struct Gang {
    /// What to do.
    pub plan: NodePlan,
    /// 0: never fenced.
    pub lease_ms: u64,
    /// Whether to start as soon as prepared.
    pub start_when_prepared: bool,
    /// A `Start` came, but the agent was restarted meanwhile and has to prepare again.
    pub start_wanted: bool,
    /// Its lease ran out before it was started: it may run elsewhere, so only a `Start` of later starts it.
    pub lapsed: bool,
    /// Whether `plan` holds its secrets: they are lost with each restart of the agent.
    pub whole: bool,
    /// Whether the preparation went well.
    pub preparation_done: bool,
    /// The grace in ms, once it is to end.
    pub stop: Option<u64>,
    /// Where the fences of its attempts stand; 0 if not known.
    pub fence_boot_ms: u64,
    /// How far it is.
    pub phase: Phase,
}

/// How far a gang is.
#[derive(Clone, Debug)]
pub enum Phase {
    /// The agent was restarted before the start: the plan will come again, with secrets.
    Awaiting,
    /// Directories, mounts, files, ports.
    SettingUp,
    /// The preparation's command.
    Preparation(Attempt),
    /// Ready to start.
    Prepared,
    /// Started; by rank.
    Running(BTreeMap<Rank, Attempt>),
    /// Nothing runs any more; its log files are being completed.
    Closing(Outcome),
    /// All is done and said.
    Ended(Outcome),
}

/// How a gang ended here.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What was started, by rank.
    pub attempts: BTreeMap<Rank, Attempt>,
    /// Set if it could not be prepared.
    pub prepare_failed: Option<PrepareFailed>,
}

/// One attempt.
#[derive(Clone, Debug)]
pub enum Attempt {
    /// The journal holds the intent.
    Launching,
    /// It runs.
    Running {
        /// Its main process.
        pid: u32,
        /// Since when.
        at: WallMs,
    },
    /// It has ended.
    Ended {
        /// Its main process and start, if it ever started.
        started: Option<(u32, WallMs)>,
        /// How.
        ended: Box<TaskEnded>,
        /// Whether the coordinator has it on disk.
        acked: bool,
    },
}

/// A gang that was forgotten, but for this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// Which.
    pub gang: GangId,
    /// Its temporary directory; empty if it never had a plan.
    pub job_temp: String,
    /// Directories whose files a client may still ask for.
    pub directories: Vec<String>,
    /// Whether `job_temp` is gone.
    pub wiped: bool,
}

impl State {
    /// The state that these records lead to.
    #[must_use]
    pub fn recover(records: impl IntoIterator<Item = Record>) -> State {
        let mut state = State::default();
        for record in records {
            state.apply(record);
        }
        state
    }

    /// The fewest records that lead to this state.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Record> {
        let mut records =
            vec![Record::Booted { boot_id: self.boot_id.clone() }, Record::Generation(self.generation)];
        records.extend(self.noted_boot_ms.map(|boot_ms| Record::Contact { boot_ms }));
        for released in &self.released {
            records.push(Record::Released {
                gang: released.gang,
                job_temp: released.job_temp.clone(),
                directories: released.directories.clone(),
                wiped: released.wiped,
            });
        }
        records.extend(self.barred.iter().copied().map(Record::Barred));
        records.extend(self.stuck.iter().copied().map(Record::Stuck));
        for (id, gang) in &self.gangs {
            gang.snapshot(*id, &mut records);
        }
        records
    }

    /// Every gang of which this node holds anything, for Hello.
    #[must_use]
    pub fn held(&self) -> Vec<HeldGang> {
        let barred = self.barred.iter().map(|gang| HeldGang {
            gang: *gang,
            phase: GangPhase::Ended,
            prepare_failed: None,
            attempts: Vec::new(),
        });
        self.gangs.iter().map(|(id, gang)| gang.held(*id)).chain(barred).collect()
    }

    /// Attempts that survive SIGKILL, for Hello.
    #[must_use]
    pub fn stuck(&self) -> &BTreeSet<AttemptId> {
        &self.stuck
    }

    /// The highest generation that was obeyed.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The gangs that are held, in order.
    #[must_use]
    pub fn gangs(&self) -> &BTreeMap<GangId, Gang> {
        &self.gangs
    }

    /// The session that is open, if one is.
    #[must_use]
    pub fn session(&self) -> Option<(Generation, Epoch)> {
        match self.session {
            Session::Absent | Session::Greeting { .. } => None,
            Session::Open { generation, epoch } => Some((generation, epoch)),
        }
    }

    /// The shortest lease of what is held, in ms; absent if nothing is fenced.
    #[must_use]
    pub fn shortest_lease_ms(&self) -> Option<u64> {
        self.gangs.values().map(|gang| gang.lease_ms).filter(|lease_ms| *lease_ms > 0).min()
    }

    /// Whether a client may ask for files below this directory of this gang.
    #[must_use]
    pub fn serves(&self, gang: GangId, directory: &str) -> bool {
        if let Some(gang) = self.gangs.get(&gang) {
            return gang.served_directories().iter().any(|served| served == directory);
        }
        let released = self.released.iter().rev().find(|released| released.gang == gang);
        released.is_some_and(|released| released.directories.iter().any(|served| served == directory))
    }

    pub(super) fn is_released(&self, gang: GangId) -> bool {
        !mutant!("released-forgotten") && self.released.iter().any(|released| released.gang == gang)
    }

    pub(super) fn attempt(&self, attempt: AttemptId) -> Option<&Attempt> {
        match &self.gangs.get(&attempt.gang_id())?.phase {
            Phase::Preparation(preparation) => (attempt.rank == Rank::PREPARATION).then_some(preparation),
            Phase::Running(attempts) => attempts.get(&attempt.rank),
            Phase::Closing(outcome) | Phase::Ended(outcome) => outcome.attempts.get(&attempt.rank),
            Phase::Awaiting | Phase::SettingUp | Phase::Prepared => None,
        }
    }

    fn attempt_mut(&mut self, attempt: AttemptId) -> Option<&mut Attempt> {
        match &mut self.gangs.get_mut(&attempt.gang_id())?.phase {
            Phase::Preparation(preparation) => (attempt.rank == Rank::PREPARATION).then_some(preparation),
            Phase::Running(attempts) => attempts.get_mut(&attempt.rank),
            Phase::Closing(outcome) | Phase::Ended(outcome) => outcome.attempts.get_mut(&attempt.rank),
            Phase::Awaiting | Phase::SettingUp | Phase::Prepared => None,
        }
    }

    /// The only change of the durable part. A record about a gang that is not held changes nothing.
    pub(super) fn apply(&mut self, record: Record) {
        match record {
            Record::Booted { boot_id } => {
                if self.boot_id != boot_id {
                    // Its clock began anew.
                    self.contact_boot_ms = None;
                    self.noted_boot_ms = None;
                }
                self.boot_id = boot_id;
            }
            Record::Contact { boot_ms } => {
                self.contact_boot_ms = self.contact_boot_ms.max(Some(boot_ms));
                self.noted_boot_ms = Some(boot_ms);
            }
            Record::Generation(generation) => self.generation = self.generation.max(generation),
            Record::Planned { gang, plan, start_when_prepared, lease_ms } => {
                self.gangs.insert(gang, Gang::new(*plan, start_when_prepared, lease_ms));
            }
            Record::Barred(gang) => drop(self.barred.insert(gang)),
            Record::Stopping { gang, grace_ms } => {
                if let Some(gang) = self.gangs.get_mut(&gang) {
                    gang.stop = Some(grace_ms);
                }
            }
            Record::PreparationIntended(gang) => {
                if let Some(gang) = self.gangs.get_mut(&gang) {
                    gang.phase = Phase::Preparation(Attempt::Launching);
                }
            }
            Record::PreparationDone(gang) => {
                if let Some(gang) = self.gangs.get_mut(&gang) {
                    gang.preparation_done = true;
                    gang.phase = Phase::Awaiting;
                }
            }
            Record::StartIntended(gang) => {
                if let Some(gang) = self.gangs.get_mut(&gang) {
                    let ranks = gang.plan.tasks.iter().map(|task| (task.rank, Attempt::Launching));
                    gang.phase = Phase::Running(ranks.collect());
                }
            }
            Record::Started { attempt, pid, at } => {
                if let Some(attempt) = self.attempt_mut(attempt) {
                    attempt.start(pid, at);
                }
            }
            Record::Ended(ended) => {
                if let Some(attempt) = self.attempt_mut(ended.attempt) {
                    attempt.end(ended);
                }
            }
            Record::Acked(attempts) => {
                for attempt in attempts {
                    if let Some(Attempt::Ended { acked, .. }) = self.attempt_mut(attempt) {
                        *acked = true;
                    }
                }
            }
            Record::Over { gang, prepare_failed } => {
                if let Some(gang) = self.gangs.get_mut(&gang) {
                    gang.end(prepare_failed);
                }
            }
            Record::Released { gang, job_temp, directories, wiped } => {
                self.gangs.remove(&gang);
                self.barred.remove(&gang);
                self.released.push_back(Released { gang, job_temp, directories, wiped });
                if self.released.len() > RELEASED_MAX {
                    self.released.pop_front();
                }
            }
            Record::Stuck(attempt) => drop(self.stuck.insert(attempt)),
            Record::Gone(attempt) => drop(self.stuck.remove(&attempt)),
            Record::Wiped { job_temps } => {
                for released in &mut self.released {
                    released.wiped |= job_temps.contains(&released.job_temp);
                }
            }
        }
    }

    /// What must always hold; empty if it does.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let mut violations = Vec::new();
        for (id, gang) in &self.gangs {
            if self.barred.contains(id) || self.is_released(*id) {
                violations.push(format!("gang {id} is held and yet barred or released"));
            }
            match &gang.phase {
                Phase::Awaiting | Phase::SettingUp | Phase::Preparation(_) => {}
                Phase::Prepared if !gang.whole => {
                    violations.push(format!("gang {id} is ready without its secrets"))
                }
                Phase::Prepared => {}
                Phase::Running(attempts) => {
                    let planned = gang.plan.tasks.iter().map(|task| task.rank).collect::<BTreeSet<_>>();
                    if planned != attempts.keys().copied().collect() {
                        violations.push(format!("gang {id} does not run what is planned"));
                    }
                }
                Phase::Closing(outcome) | Phase::Ended(outcome) => {
                    if outcome.attempts.values().any(|attempt| !matches!(attempt, Attempt::Ended { .. })) {
                        violations.push(format!("gang {id} is over and yet runs"));
                    }
                }
            }
        }
        violations
    }
}

impl Gang {
    fn new(plan: NodePlan, start_when_prepared: bool, lease_ms: u64) -> Gang {
        Gang {
            plan,
            lease_ms,
            start_when_prepared,
            start_wanted: false,
            lapsed: false,
            whole: false,
            preparation_done: false,
            stop: None,
            fence_boot_ms: 0,
            phase: Phase::Awaiting,
        }
    }

    /// The attempts that the gang has, or had, with the preparation.
    #[must_use]
    pub fn attempts(&self) -> Vec<(Rank, &Attempt)> {
        match &self.phase {
            Phase::Preparation(preparation) => vec![(Rank::PREPARATION, preparation)],
            Phase::Running(attempts) => attempts.iter().map(|(rank, attempt)| (*rank, attempt)).collect(),
            Phase::Closing(outcome) | Phase::Ended(outcome) => {
                outcome.attempts.iter().map(|(rank, attempt)| (*rank, attempt)).collect()
            }
            Phase::Awaiting | Phase::SettingUp | Phase::Prepared => Vec::new(),
        }
    }

    /// Directories whose files a client may ask for: logs and outputs.
    #[must_use]
    pub fn served_directories(&self) -> Vec<String> {
        let plan = &self.plan;
        let variables = plan.tasks.iter().map(|task| &task.command).chain(&plan.preparation);
        let outputs = variables
            .flat_map(|command| &command.env)
            .filter(|(name, _)| name.starts_with("AZ_BATCHAI_OUTPUT_"))
            .map(|(_, value)| value);
        let all: BTreeSet<&String> =
            std::iter::once(&plan.std_dir).chain(&plan.mounted_directories).chain(outputs).collect();
        all.into_iter().cloned().collect()
    }

    fn end(&mut self, prepare_failed: Option<PrepareFailed>) {
        let attempts = match std::mem::replace(&mut self.phase, Phase::Awaiting) {
            Phase::Running(attempts) => attempts,
            Phase::Closing(outcome) | Phase::Ended(outcome) => outcome.attempts,
            Phase::Awaiting | Phase::SettingUp | Phase::Preparation(_) | Phase::Prepared => BTreeMap::new(),
        };
        self.phase = Phase::Closing(Outcome { attempts, prepare_failed });
    }

    fn held(&self, gang: GangId) -> HeldGang {
        let (phase, prepare_failed, attempts) = match &self.phase {
            Phase::Awaiting | Phase::SettingUp | Phase::Preparation(_) => (GangPhase::Preparing, None, None),
            Phase::Prepared => (GangPhase::Prepared, None, None),
            Phase::Running(attempts) => (GangPhase::Running, None, Some(attempts)),
            // It never started: the coordinator's next word finds it ended.
            Phase::Closing(outcome) if outcome.attempts.is_empty() => (GangPhase::Preparing, None, None),
            Phase::Closing(outcome) => (GangPhase::Running, None, Some(&outcome.attempts)),
            Phase::Ended(outcome) => {
                (GangPhase::Ended, outcome.prepare_failed.clone(), Some(&outcome.attempts))
            }
        };
        let attempts = attempts.into_iter().flatten();
        let attempts = attempts.filter_map(|(rank, attempt)| attempt.held(gang.attempt(*rank))).collect();
        HeldGang { gang, phase, prepare_failed, attempts }
    }

    fn snapshot(&self, gang: GangId, records: &mut Vec<Record>) {
        records.push(Record::Planned {
            gang,
            plan: Box::new(self.plan.clone()),
            start_when_prepared: self.start_when_prepared,
            lease_ms: self.lease_ms,
        });
        if let Some(grace_ms) = self.stop {
            records.push(Record::Stopping { gang, grace_ms });
        }
        if self.preparation_done {
            records.push(Record::PreparationDone(gang));
        }
        match &self.phase {
            Phase::Awaiting | Phase::SettingUp | Phase::Prepared => {}
            Phase::Preparation(attempt) => {
                records.push(Record::PreparationIntended(gang));
                attempt.snapshot(gang.attempt(Rank::PREPARATION), records);
            }
            Phase::Running(attempts) => {
                records.push(Record::StartIntended(gang));
                for (rank, attempt) in attempts {
                    attempt.snapshot(gang.attempt(*rank), records);
                }
            }
            Phase::Closing(outcome) | Phase::Ended(outcome) => {
                if !outcome.attempts.is_empty() {
                    records.push(Record::StartIntended(gang));
                }
                for (rank, attempt) in &outcome.attempts {
                    attempt.snapshot(gang.attempt(*rank), records);
                }
                records.push(Record::Over { gang, prepare_failed: outcome.prepare_failed.clone() });
            }
        }
    }
}

impl Attempt {
    fn start(&mut self, pid: u32, at: WallMs) {
        match self {
            Attempt::Launching => *self = Attempt::Running { pid, at },
            Attempt::Running { .. } | Attempt::Ended { .. } => {}
        }
    }

    /// The first end is kept.
    fn end(&mut self, ended: Box<TaskEnded>) {
        let started = match self {
            Attempt::Launching => None,
            Attempt::Running { pid, at } => Some((*pid, *at)),
            Attempt::Ended { .. } => return,
        };
        *self = Attempt::Ended { started, ended, acked: false };
    }

    fn held(&self, attempt: AttemptId) -> Option<HeldAttempt> {
        match self {
            Attempt::Launching => Some(HeldAttempt { attempt, started: None, ended: None }),
            Attempt::Running { pid, at } => {
                Some(HeldAttempt { attempt, started: Some((*pid, *at)), ended: None })
            }
            Attempt::Ended { acked: true, .. } => None,
            Attempt::Ended { started, ended, acked: false } => {
                Some(HeldAttempt { attempt, started: *started, ended: Some((**ended).clone()) })
            }
        }
    }

    fn snapshot(&self, id: AttemptId, records: &mut Vec<Record>) {
        match self {
            Attempt::Launching => {}
            Attempt::Running { pid, at } => records.push(Record::Started { attempt: id, pid: *pid, at: *at }),
            Attempt::Ended { started, ended, acked } => {
                if let Some((pid, at)) = started {
                    records.push(Record::Started { attempt: id, pid: *pid, at: *at });
                }
                records.push(Record::Ended(ended.clone()));
                if *acked {
                    records.push(Record::Acked(vec![id]));
                }
            }
        }
    }
}
