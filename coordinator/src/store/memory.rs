//! The store in memory: the same promises but the disk. Clones share one content, so that a test can
//! "restart" on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trainyard_core::coordinator::Record;
use trainyard_core::coordinator::drain::Drain;
use trainyard_core::coordinator::event::FinishedJob;
use trainyard_core::coordinator::recover::Stored;
use trainyard_core::coordinator::recovery::Lost;
use trainyard_core::coordinator::state::{Job, JobPhase};
use trainyard_core::id::{Epoch, GangId, Generation, JobId, NodeId};
use trainyard_core::plan::NodePlan;
use trainyard_core::session::NodeFacts;
use trainyard_core::spec::JobSpec;
use trainyard_core::unit::WallMs;

use super::{
    Change, EXPIRE_EVENTS, EXPIRE_JOBS, Entry, Experiment, Expired, JobsQuery, Limits, Numbers, Read, Store,
    StoreError, Workspace, scope_of,
};

#[derive(Default)]
struct Tables {
    generation: u64,
    next_job: u64,
    /// With their secrets.
    jobs: BTreeMap<JobId, Job>,
    plans: BTreeMap<GangId, Vec<NodePlan>>,
    nodes: BTreeMap<NodeId, (Epoch, NodeFacts)>,
    drains: BTreeMap<NodeId, Drain>,
    journal: Vec<Entry>,
    /// Entries ever written.
    entries: u64,
    lost: Vec<Lost<JobId>>,
    foreign: BTreeMap<NodeId, BTreeSet<GangId>>,
    workspaces: BTreeMap<String, Workspace>,
    experiments: BTreeMap<String, Experiment>,
}

/// The store in memory.
#[derive(Clone, Default)]
pub struct MemoryStore {
    tables: Arc<Mutex<Tables>>,
    generation: Generation,
}

impl MemoryStore {
    /// An empty one, of generation 1.
    #[must_use]
    pub fn new() -> MemoryStore {
        MemoryStore::default().reopen()
    }

    /// What a coordinator finds that starts on the same content.
    #[must_use]
    pub fn reopen(&self) -> MemoryStore {
        let mut tables = self.lock();
        tables.generation += 1;
        let generation = Generation(tables.generation);
        drop(tables);
        MemoryStore { tables: self.tables.clone(), generation }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn generation(&self) -> Generation {
        self.generation
    }

    fn load(&mut self) -> Result<Stored, StoreError> {
        let tables = self.lock();
        let jobs: Vec<Job> = tables.jobs.values().filter(|job| job.is_open()).cloned().collect();
        let live = jobs.iter().filter_map(|job| match &job.phase {
            JobPhase::Active(gang) => Some(gang.id),
            JobPhase::Queued { .. } | JobPhase::Ended { .. } => None,
        });
        let plans = live.filter_map(|gang| Some((gang, tables.plans.get(&gang)?.clone()))).collect();
        let nodes =
            tables.nodes.iter().map(|(node, (epoch, facts))| (node.clone(), *epoch, facts.clone())).collect();
        let next_job = JobId(tables.next_job.max(1));
        let (lost, foreign) = (tables.lost.clone(), tables.foreign.clone());
        let drains = tables.drains.iter().map(|(node, drain)| (node.clone(), drain.clone())).collect();
        Ok(Stored { jobs, plans, nodes, drains, next_job, restored: false, lost, foreign })
    }

    fn finished(
        &mut self,
        folded: &str,
        offered: Option<&JobSpec>,
    ) -> Result<Option<FinishedJob>, StoreError> {
        let tables = self.lock();
        let job = tables.jobs.values().find(|job| !job.is_open() && job.key.folded() == folded);
        Ok(job.map(|job| FinishedJob { id: job.id, same_spec: offered == Some(&job.spec) }))
    }

    fn commit(&mut self, changes: &[Change]) -> Result<Vec<u64>, StoreError> {
        // Not through `lock`: the generation beside it may change, too.
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sequence = Vec::new();
        for change in changes {
            match change {
                Change::Record(Record::PutJob(job)) => {
                    tables.next_job = tables.next_job.max(job.id.0 + 1);
                    tables.jobs.insert(job.id, (**job).clone());
                }
                Change::Record(Record::PutPlan { gang, nodes }) => {
                    let mut nodes = nodes.clone();
                    nodes.iter_mut().for_each(forget_secrets);
                    tables.plans.insert(*gang, nodes);
                }
                Change::Record(Record::DeleteJob(id)) => {
                    tables.next_job = tables.next_job.max(id.0 + 1);
                    tables.jobs.remove(id);
                    tables.plans.retain(|gang, _| gang.job != *id);
                }
                Change::Record(Record::PutNode { node, epoch, facts }) => {
                    tables.nodes.insert(node.clone(), (*epoch, facts.clone()));
                }
                Change::Record(Record::PutDrain { node, drain: Some(drain) }) => {
                    tables.drains.insert(node.clone(), drain.clone());
                }
                Change::Record(Record::PutDrain { node, drain: None }) => {
                    tables.drains.remove(node);
                }
                Change::Record(Record::Journal(entry)) => {
                    tables.entries += 1;
                    let seq = tables.entries;
                    sequence.push(seq);
                    tables.journal.push(Entry::new(seq, entry.clone()));
                }
                Change::PutWorkspace(workspace) => {
                    tables.workspaces.insert(workspace.folded(), workspace.clone());
                }
                Change::DeleteWorkspace(folded) => {
                    tables.workspaces.remove(folded);
                    tables.experiments.retain(|_, experiment| experiment.scope() != *folded);
                }
                Change::PutExperiment(experiment) => {
                    tables.experiments.entry(experiment.folded()).or_insert_with(|| experiment.clone());
                }
                Change::DeleteExperiment(folded) => {
                    tables.experiments.remove(folded);
                }
                Change::Adopt(adoption) => {
                    tables.generation = adoption.generation.0;
                    self.generation = adoption.generation;
                    tables.next_job = adoption.next_job.0;
                    tables.lost.clone_from(&adoption.lost);
                    tables.foreign.clone_from(&adoption.foreign);
                }
                Change::Foreign(foreign) => tables.foreign.clone_from(foreign),
            }
        }
        Ok(sequence)
    }

    fn expire(&mut self, limits: &Limits) -> Result<Expired, StoreError> {
        let mut tables = self.lock();
        let mut ended: Vec<(WallMs, JobId)> = tables.jobs.values().filter_map(ended_at).collect();
        ended.sort_unstable();
        let beyond = limits.jobs.map_or(0, |jobs| (ended.len() as u64).saturating_sub(jobs));
        let goes = |(i, (at, id)): (usize, &(WallMs, JobId))| {
            let old = limits.ended_before.is_some_and(|before| *at < before);
            (old || (i as u64) < beyond).then_some(*id)
        };
        let jobs: Vec<JobId> = ended.iter().enumerate().filter_map(goes).take(EXPIRE_JOBS as usize).collect();
        for id in &jobs {
            tables.jobs.remove(id);
            tables.plans.retain(|gang, _| gang.job != *id);
        }
        let last = limits.events.map_or(0, |events| tables.entries.saturating_sub(events));
        let gone = tables.journal.iter().take_while(|entry| entry.seq <= last).count() as u64;
        let events = gone.min(EXPIRE_EVENTS);
        tables.journal.drain(..events as usize);
        Ok(Expired { jobs, events })
    }

    fn check_space(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn reader(&self) -> Arc<dyn Read> {
        Arc::new(self.clone())
    }
}

fn ended_at(job: &Job) -> Option<(WallMs, JobId)> {
    match &job.phase {
        JobPhase::Ended { at, .. } => Some((*at, job.id)),
        JobPhase::Queued { .. } | JobPhase::Active(_) => None,
    }
}

fn forget_secrets(node: &mut NodePlan) {
    node.preparation.iter_mut().for_each(|command| command.secret_env.clear());
    node.tasks.iter_mut().for_each(|task| task.command.secret_env.clear());
}

impl Read for MemoryStore {
    fn job(&self, folded: &str) -> Result<Option<Job>, StoreError> {
        Ok(self.lock().jobs.values().find(|job| job.key.folded() == folded).cloned())
    }

    fn job_by_id(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        Ok(self.lock().jobs.get(&id).cloned())
    }

    fn jobs(&self, query: &JobsQuery) -> Result<Vec<Job>, StoreError> {
        let tables = self.lock();
        let fits = |job: &&Job| {
            let folded = job.key.folded();
            let experiment = job.key.experiment.as_str().to_ascii_lowercase();
            let beyond =
                query.beyond.is_none_or(|id| if query.newest_first { job.id < id } else { job.id > id });
            query.scope.as_ref().is_none_or(|scope| scope_of(&folded) == scope)
                && query.experiment.as_ref().is_none_or(|name| experiment == *name)
                && (query.states.is_empty()
                    || query.states.iter().any(|state| job.execution_state() == state))
                && beyond
        };
        let limit = query.limit as usize;
        Ok(if query.newest_first {
            tables.jobs.values().rev().filter(fits).take(limit).cloned().collect()
        } else {
            tables.jobs.values().filter(fits).take(limit).cloned().collect()
        })
    }

    fn plan(&self, gang: GangId) -> Result<Option<Vec<NodePlan>>, StoreError> {
        Ok(self.lock().plans.get(&gang).cloned())
    }

    fn journal(&self, after: u64, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let tables = self.lock();
        Ok(tables.journal.iter().filter(|entry| entry.seq > after).take(limit as usize).cloned().collect())
    }

    fn workspace(&self, folded: &str) -> Result<Option<Workspace>, StoreError> {
        Ok(self.lock().workspaces.get(folded).cloned())
    }

    fn workspaces(&self, scope: &str, after: &str, limit: u32) -> Result<Vec<Workspace>, StoreError> {
        let prefix = format!("{scope}/");
        let tables = self.lock();
        let below = tables
            .workspaces
            .iter()
            .filter(|(folded, _)| folded.starts_with(&prefix) && folded.as_str() > after);
        Ok(below.take(limit as usize).map(|(_, workspace)| workspace.clone()).collect())
    }

    fn experiment(&self, folded: &str) -> Result<Option<Experiment>, StoreError> {
        Ok(self.lock().experiments.get(folded).cloned())
    }

    fn experiments(&self, scope: &str, after: &str, limit: u32) -> Result<Vec<Experiment>, StoreError> {
        let tables = self.lock();
        let below =
            tables.experiments.iter().filter(|(folded, e)| e.scope() == scope && folded.as_str() > after);
        Ok(below.take(limit as usize).map(|(_, experiment)| experiment.clone()).collect())
    }

    fn numbers(&self) -> Result<Numbers, StoreError> {
        let tables = self.lock();
        let next_job = JobId(tables.next_job.max(1));
        Ok(Numbers { next_job, lost: tables.lost.clone(), restored: false })
    }

    fn link_key(&self) -> Result<String, StoreError> {
        Ok("00".repeat(32))
    }
}
