//! The store in SQLite: WAL, `synchronous=FULL`, one writing connection, a lock file against a second
//! coordinator. Readers have connections of their own.
//!
//! Domain types are stored as JSON documents beside the few columns that queries need.

mod backup;
mod expire;
mod file;
mod open;
mod read;
mod restore;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::Flock;
use rusqlite::Connection;
use trainyard_core::coordinator::event::FinishedJob;
use trainyard_core::coordinator::recover::Stored;
use trainyard_core::id::{Generation, JobId};
use trainyard_core::spec::JobSpec;

use super::{Change, Expired, Limits, OpenError, Read, Store, StoreError};

pub use backup::{BackedUp, BackupError, backup, backup_name};
pub use restore::{RestoreError, Restored, restore};

/// The store in SQLite.
pub struct SqliteStore {
    writer: Connection,
    generation: Generation,
    /// One more than the highest number ever given.
    next_job: JobId,
    /// Of the hashes of secrets.
    spec_key: String,
    reader: Arc<read::Reader>,
    /// Held for as long as this lives; the kernel lets go of it if the process dies.
    _lock: Flock<std::fs::File>,
}

impl SqliteStore {
    /// Opens or makes `trainyard.db` in this folder, which is made too, and counts the generation up.
    ///
    /// # Errors
    /// Another coordinator has it, it is damaged, missing although there was one, of a later version, or cannot
    /// be read.
    pub fn open(folder: &Path) -> Result<SqliteStore, OpenError> {
        SqliteStore::open_or_init(folder, false)
    }

    /// As [`SqliteStore::open`]; `init` begins anew where the database is lost. Logs of the lost one are put aside.
    ///
    /// # Errors
    /// As above; and there is a database although `init` is given.
    pub fn open_or_init(folder: &Path, init: bool) -> Result<SqliteStore, OpenError> {
        let path = database(folder);
        let lock = file::lock(folder)?;
        let begun_anew = file::begin(&path, init)?;
        let has_schema = file::was_made(&path) && !begun_anew;
        let mut writer = open::writer(&path, has_schema)?;
        let started = open::start(&mut writer, begun_anew).map_err(|source| open::refused(&path, source))?;
        file::remember(&path)?;
        let reader = Arc::new(read::Reader::new(path));
        let open::Started { generation, next_job, spec_key } = started;
        Ok(SqliteStore { writer, generation, next_job, spec_key, reader, _lock: lock })
    }
}

fn database(folder: &Path) -> PathBuf {
    folder.join("trainyard.db")
}

impl Store for SqliteStore {
    fn generation(&self) -> Generation {
        self.generation
    }

    fn load(&mut self) -> Result<Stored, StoreError> {
        read::stored(&self.writer, self.next_job)
    }

    fn finished(
        &mut self,
        folded: &str,
        offered: Option<&JobSpec>,
    ) -> Result<Option<FinishedJob>, StoreError> {
        read::finished(&self.writer, &self.spec_key, folded, offered)
    }

    fn commit(&mut self, changes: &[Change]) -> Result<Vec<u64>, StoreError> {
        let written = write::commit(&mut self.writer, &self.spec_key, changes, self.next_job);
        let (sequence, next_job) = self.watch(written)?;
        self.next_job = next_job;
        for change in changes {
            if let Change::Adopt(adoption) = change {
                self.generation = adoption.generation;
            }
        }
        Ok(sequence)
    }

    fn expire(&mut self, limits: &Limits) -> Result<Expired, StoreError> {
        let expired = expire::expire(&mut self.writer, limits);
        self.watch(expired)
    }

    fn check_space(&mut self) -> Result<(), StoreError> {
        let looked = write::check_space(&mut self.writer);
        self.watch(looked)
    }

    fn reader(&self) -> Arc<dyn Read> {
        self.reader.clone()
    }
}

impl SqliteStore {
    /// After an error of the disk nothing is synced again, also not by closing: what the kernel has dropped, a
    /// later sync would only call durable.
    fn watch<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Broken { .. }) = result {
            let config = rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            if let Err(error) = self.writer.set_db_config(config, true) {
                tracing::error!(%error, "SQLite may write once more when it is closed");
            }
        }
        result
    }
}

/// Tells a full disk from everything else.
fn failed(what: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |error| match error.sqlite_error() {
        Some(code)
            if code.code == rusqlite::ErrorCode::DiskFull
                // The shared-memory file could not grow: nothing was written either.
                || code.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE =>
        {
            StoreError::Full
        }
        Some(_) | None => StoreError::broken(what, error),
    }
}
