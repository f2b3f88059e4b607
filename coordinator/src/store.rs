//! What must outlive the process: jobs, plans, nodes, the journal, workspaces and experiments.
//!
//! One [`Store`] belongs to the driver and is the only writer; any number of readers use [`Read`].
//! `sqlite` is the real one, `memory` an honest small one for tests, `failing` fails on demand.

mod error;
mod failing;
mod memory;
mod secrets;
mod sqlite;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use trainyard_core::coordinator::Record;
use trainyard_core::coordinator::effect::JournalEntry;
use trainyard_core::coordinator::event::FinishedJob;
use trainyard_core::coordinator::recover::Stored;
use trainyard_core::coordinator::recovery::{Adoption, Lost};
use trainyard_core::coordinator::state::Job;
use trainyard_core::id::{GangId, Generation, JobId, NodeId};
use trainyard_core::plan::NodePlan;
use trainyard_core::spec::JobSpec;
use trainyard_core::text::Name;
use trainyard_core::unit::WallMs;

pub use error::{OpenError, StoreError};
pub use failing::{FailingStore, Failure, Switch};
pub use memory::MemoryStore;
pub use sqlite::{BackedUp, BackupError, RestoreError, Restored, SqliteStore, backup, backup_name, restore};

/// Journal entries that are kept unless an operator sets another number; about 200 bytes each.
pub const JOURNAL_KEEP_ENTRIES: u64 = 1_000_000;
/// Jobs that one transaction of the retention removes at most: submits wait for no longer than that.
pub const EXPIRE_JOBS: u32 = 50;
/// Journal entries that one transaction of the retention removes at most.
pub const EXPIRE_EVENTS: u64 = 2_000;

/// The one writer.
pub trait Store: Send {
    /// Of this start; one more than the last start's.
    fn generation(&self) -> Generation;

    /// What the state is rebuilt from.
    ///
    /// # Errors
    /// The store cannot be read.
    fn load(&mut self) -> Result<Stored, StoreError>;

    /// The finished job of this folded name, and whether its spec is the offered one. Secrets are compared by
    /// their keyed hash: the values of jobs that have ended are not kept.
    ///
    /// # Errors
    /// The store cannot be read.
    fn finished(
        &mut self,
        folded: &str,
        offered: Option<&JobSpec>,
    ) -> Result<Option<FinishedJob>, StoreError>;

    /// Makes all changes durable in one transaction, or none. Gives the sequence numbers of the journal
    /// entries, in their order.
    ///
    /// # Errors
    /// [`StoreError::Full`] if there is no space: nothing has changed then.
    fn commit(&mut self, changes: &[Change]) -> Result<Vec<u64>, StoreError>;

    /// Removes what is beyond the limits, a bounded part of it in one transaction; open jobs never. Call it again
    /// until nothing was removed.
    ///
    /// # Errors
    /// [`StoreError::Full`] if there is no space: nothing has changed then.
    fn expire(&mut self, limits: &Limits) -> Result<Expired, StoreError>;

    /// Writes and takes back a little, to see whether a full disk has space again.
    ///
    /// # Errors
    /// [`StoreError::Full`] if it has not.
    fn check_space(&mut self) -> Result<(), StoreError>;

    /// For everybody else.
    fn reader(&self) -> Arc<dyn Read>;
}

/// Reads what is committed. Blocks: call it on a blocking thread.
pub trait Read: Send + Sync {
    /// The job of this folded name.
    ///
    /// # Errors
    /// The store cannot be read; so for all methods.
    fn job(&self, folded: &str) -> Result<Option<Job>, StoreError>;

    /// The job of this number.
    ///
    /// # Errors
    /// As above.
    fn job_by_id(&self, id: JobId) -> Result<Option<Job>, StoreError>;

    /// A page of jobs.
    ///
    /// # Errors
    /// As above.
    fn jobs(&self, query: &JobsQuery) -> Result<Vec<Job>, StoreError>;

    /// The plan of a gang, without the values of secrets.
    ///
    /// # Errors
    /// As above.
    fn plan(&self, gang: GangId) -> Result<Option<Vec<NodePlan>>, StoreError>;

    /// At most `limit` journal entries with a higher number than `after`, in order.
    ///
    /// # Errors
    /// As above.
    fn journal(&self, after: u64, limit: u32) -> Result<Vec<Entry>, StoreError>;

    /// The workspace of this folded name.
    ///
    /// # Errors
    /// As above.
    fn workspace(&self, folded: &str) -> Result<Option<Workspace>, StoreError>;

    /// Workspaces of this subscription, or of one group of it (`scope`, folded), by folded name.
    ///
    /// # Errors
    /// As above.
    fn workspaces(&self, scope: &str, after: &str, limit: u32) -> Result<Vec<Workspace>, StoreError>;

    /// The experiment of this folded name.
    ///
    /// # Errors
    /// As above.
    fn experiment(&self, folded: &str) -> Result<Option<Experiment>, StoreError>;

    /// Experiments of the workspace of this folded name, by folded name.
    ///
    /// # Errors
    /// As above.
    fn experiments(&self, scope: &str, after: &str, limit: u32) -> Result<Vec<Experiment>, StoreError>;

    /// What is known of the numbers of jobs.
    ///
    /// # Errors
    /// As above.
    fn numbers(&self) -> Result<Numbers, StoreError>;

    /// The key that download links are signed with: drawn once per database, 64 hex digits.
    ///
    /// # Errors
    /// As above.
    fn link_key(&self) -> Result<String, StoreError>;
}

/// One change that [`Store::commit`] makes.
#[derive(Clone, Debug)]
pub enum Change {
    /// Of the pure core.
    Record(Record),
    /// Insert, or replace location and tags.
    PutWorkspace(Workspace),
    /// The workspace of this folded name is gone, with its experiments.
    DeleteWorkspace(String),
    /// Insert, or leave as it is.
    PutExperiment(Experiment),
    /// The experiment of this folded name is gone.
    DeleteExperiment(String),
    /// An operator has adopted a database that is older than what agents have obeyed. Its jobs and its journal
    /// entry come as records beside it.
    Adopt(Box<Adoption>),
    /// All foreign work that is not known to be over.
    Foreign(BTreeMap<NodeId, BTreeSet<GangId>>),
}

/// What is kept; what is beyond is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Jobs that ended before this go.
    pub ended_before: Option<WallMs>,
    /// So many jobs that have ended stay, the newest.
    pub jobs: Option<u64>,
    /// So many journal entries stay, the newest.
    pub events: Option<u64>,
}

/// What one call of [`Store::expire`] has removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Jobs.
    pub jobs: Vec<JobId>,
    /// Journal entries.
    pub events: u64,
}

impl Expired {
    /// Whether nothing is left to remove.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.events == 0
    }
}

/// What is known of the numbers of jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// The next job's.
    pub next_job: JobId,
    /// Those that recoveries have skipped: a lost database may have given them.
    pub lost: Vec<Lost<JobId>>,
    /// The database was restored, and no operator has adopted it yet.
    pub restored: bool,
}

impl Numbers {
    /// Whether a lost database may have given this number: what carries it must not be removed.
    #[must_use]
    pub fn may_be_lost(&self, job: JobId) -> bool {
        self.restored || job >= self.next_job || self.lost.iter().any(|lost| lost.contains(&job))
    }
}

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct JobsQuery {
    /// Folded `subscription/group/workspace/experiment`.
    pub scope: Option<String>,
    /// Folded name of the experiment, in whatever workspace.
    pub experiment: Option<String>,
    /// Any of these `executionState`s; none: all.
    pub states: Vec<String>,
    /// Newest first; else oldest first.
    pub newest_first: bool,
    /// The last job of the page before.
    pub beyond: Option<JobId>,
    /// At most so many.
    pub limit: u32,
}

/// A journal entry as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its number.
    pub seq: u64,
    /// When.
    pub at: WallMs,
    /// `jobSubmitted`, ...
    pub kind: String,
    /// The job, where one is concerned.
    pub job_id: Option<JobId>,
    /// Its name.
    pub job: Option<String>,
    /// The node, where one is concerned.
    pub node: Option<NodeId>,
    /// More, by kind.
    pub detail: serde_json::Value,
}

impl Entry {
    pub(crate) fn new(seq: u64, entry: JournalEntry) -> Entry {
        let JournalEntry { at, kind, job_id, job, node, detail } = entry;
        Entry { seq, at, kind: kind.to_owned(), job_id, job, node, detail }
    }
}

/// A workspace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workspace {
    /// Subscription id.
    pub subscription: String,
    /// Resource group.
    pub resource_group: String,
    /// Its name.
    pub name: Name,
    /// Any text; `local` for those made on first use.
    pub location: String,
    /// Of the client.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// When.
    pub created: WallMs,
}

impl Workspace {
    /// The form of its name that is compared.
    #[must_use]
    pub fn folded(&self) -> String {
        fold(&[&self.subscription, &self.resource_group, self.name.as_str()])
    }

    /// The folded name of its group.
    #[must_use]
    pub fn scope(&self) -> String {
        fold(&[&self.subscription, &self.resource_group])
    }
}

/// An experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Experiment {
    /// Subscription id.
    pub subscription: String,
    /// Resource group.
    pub resource_group: String,
    /// Its workspace.
    pub workspace: Name,
    /// Its name.
    pub name: Name,
    /// When.
    pub created: WallMs,
}

impl Experiment {
    /// The form of its name that is compared.
    #[must_use]
    pub fn folded(&self) -> String {
        fold(&[&self.subscription, &self.resource_group, self.workspace.as_str(), self.name.as_str()])
    }

    /// The folded name of its workspace.
    #[must_use]
    pub fn scope(&self) -> String {
        fold(&[&self.subscription, &self.resource_group, self.workspace.as_str()])
    }
}

/// Parts of a name, as they are compared: lower case, joined by `/`, which none of them holds.
#[must_use]
pub fn fold(parts: &[&str]) -> String {
    parts.join("/").to_ascii_lowercase()
}

/// The part of a job's folded name before its own.
pub(crate) fn scope_of(folded: &str) -> &str {
    folded.rsplit_once('/').map_or("", |(scope, _)| scope)
}
