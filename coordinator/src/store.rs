//! What must outlive the process: jobs, plans, nodes, the journal, workspaces and experiments.
//!
//! One [`Store`] belongs to the driver and is the only writer; any number of readers use [`Read`].
//! `sqlite` is the real one, `memory` an honest small one for tests, `failing` fails on demand.

mod failing;
mod memory;
mod secrets;
mod sqlite;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use trainyard_core::coordinator::Record;
use trainyard_core::coordinator::effect::JournalEntry;
use trainyard_core::coordinator::event::FinishedJob;
use trainyard_core::coordinator::recover::Stored;
use trainyard_core::coordinator::state::Job;
use trainyard_core::id::{GangId, Generation, JobId, NodeId};
use trainyard_core::plan::NodePlan;
use trainyard_core::text::Name;
use trainyard_core::unit::WallMs;

pub use failing::{FailingStore, Failure, Switch};
pub use memory::MemoryStore;
pub use sqlite::SqliteStore;

/// Journal entries that a later retention will keep at least; about 200 bytes each.
pub const JOURNAL_KEEP_ENTRIES: u64 = 1_000_000;

/// The one writer.
pub trait Store: Send {
    /// Of this start; one more than the last start's.
    fn generation(&self) -> Generation;

    /// What the state is rebuilt from.
    ///
    /// # Errors
    /// The store cannot be read.
    fn load(&mut self) -> Result<Stored, StoreError>;

    /// The finished job of this folded name, its secrets restored.
    ///
    /// # Errors
    /// The store cannot be read.
    fn finished(&mut self, folded: &str) -> Result<Option<FinishedJob>, StoreError>;

    /// Makes all changes durable in one transaction, or none. Gives the sequence numbers of the journal
    /// entries, in their order.
    ///
    /// # Errors
    /// [`StoreError::Full`] if there is no space: nothing has changed then.
    fn commit(&mut self, changes: &[Change]) -> Result<Vec<u64>, StoreError>;

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

/// The store did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing was written.
    #[error("the disk of the database is full")]
    Full,
    /// Neither reading nor writing can be trusted any more.
    #[error("the database does not answer as it should ({what})")]
    Broken {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    pub(crate) fn broken(
        what: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> StoreError {
        StoreError::Broken { what, source: source.into() }
    }
}

/// The store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Two coordinators on one database would start every job twice.
    #[error("another coordinator runs on {0}: stop it first, or give this one another --state-dir")]
    Locked(PathBuf),
    /// Written by a later version.
    #[error(
        "{path} was written by a later version of Trainyard (schema {found}, this version knows {known}): install that version"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// `PRAGMA quick_check` found damage.
    #[error("{path} is damaged ({finding}): restore it from a backup, or move it away to start empty")]
    Damaged {
        /// The database.
        path: PathBuf,
        /// The first finding.
        finding: String,
    },
    /// There are logs of jobs, but no database.
    #[error(
        "{path} is missing, though there are logs of jobs beside it: restore it from a backup, or move the logs away to start empty"
    )]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// Earlier versions can damage a database in WAL mode.
    #[error("SQLite {0} is linked: at least 3.51.3 is needed, earlier ones can damage the database")]
    OldSqlite(String),
    /// A file or folder.
    #[error("{path} cannot be opened")]
    Io {
        /// It.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// SQLite refuses.
    #[error("{path} cannot be opened as a database")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The schema cannot be brought up to date.
    #[error("the schema of {path} cannot be brought up to date")]
    Migration {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<refinery::Error>,
    },
}
