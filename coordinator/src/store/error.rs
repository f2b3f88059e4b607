//! What goes wrong with the store: an operator reads these messages, and each says what helps.

use std::path::PathBuf;

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
    #[error(
        "{path} is damaged ({finding}): nothing is started on it, and nothing in it is changed. Restore a backup with `trainyard coordinator restore FILE` ({path} is kept aside)"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// The first finding.
        finding: String,
    },
    /// There was a database, and it is not there.
    #[error(
        "{path} is missing, though {evidence}: restore a backup with `trainyard coordinator restore FILE`, or begin without it by `--init` (jobs of the lost database stay unknown)"
    )]
    Missing {
        /// Where it should be.
        path: PathBuf,
        /// Why it is known that there was one.
        evidence: String,
    },
    /// `--init` would forget a database.
    #[error("{path} exists: `--init` is for a database that is lost; start without it")]
    Exists {
        /// The database.
        path: PathBuf,
    },
    /// Commits would be lost by a power cut.
    #[error(
        "{path} cannot be written durably (journal mode {journal}, synchronous {synchronous}): is it on a network file system?"
    )]
    NotDurable {
        /// The database.
        path: PathBuf,
        /// Its journal mode.
        journal: String,
        /// Its synchronous setting; 2 is FULL.
        synchronous: i64,
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
