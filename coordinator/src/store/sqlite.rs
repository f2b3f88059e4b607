//! The store in SQLite: WAL, `synchronous=FULL`, one writing connection, a lock file against a second
//! coordinator. Readers have connections of their own.
//!
//! Domain types are stored as JSON documents beside the few columns that queries need.

mod open;
mod read;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::Flock;
use rusqlite::Connection;
use trainyard_core::coordinator::event::FinishedJob;
use trainyard_core::coordinator::recover::Stored;
use trainyard_core::id::{Generation, JobId};

use super::{Change, OpenError, Read, Store, StoreError};

/// The store in SQLite.
pub struct SqliteStore {
    writer: Connection,
    generation: Generation,
    /// One more than the highest number ever given.
    next_job: JobId,
    reader: Arc<read::Reader>,
    /// Held for as long as this lives; the kernel lets go of it if the process dies.
    _lock: Flock<std::fs::File>,
}

impl SqliteStore {
    /// Opens or makes `trainyard.db` in this folder, which is made too, and counts the generation up.
    ///
    /// # Errors
    /// Another coordinator has it, it is damaged, of a later version, or cannot be read.
    pub fn open(folder: &Path) -> Result<SqliteStore, OpenError> {
        let path = database(folder);
        let lock = open::lock(folder)?;
        let mut writer = open::writer(&path)?;
        let (generation, next_job) =
            open::start(&mut writer).map_err(|source| OpenError::Sqlite { path: path.clone(), source })?;
        let reader = Arc::new(read::Reader::new(path));
        Ok(SqliteStore { writer, generation, next_job, reader, _lock: lock })
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
        let (jobs, plans, nodes) = read::stored(&self.writer)?;
        Ok(Stored { jobs, plans, nodes, next_job: self.next_job })
    }

    fn finished(&mut self, folded: &str) -> Result<Option<FinishedJob>, StoreError> {
        read::finished(&self.writer, folded)
    }

    fn commit(&mut self, changes: &[Change]) -> Result<Vec<u64>, StoreError> {
        let (sequence, next_job) = write::commit(&mut self.writer, changes, self.next_job)?;
        self.next_job = next_job;
        Ok(sequence)
    }

    fn check_space(&mut self) -> Result<(), StoreError> {
        write::check_space(&mut self.writer)
    }

    fn reader(&self) -> Arc<dyn Read> {
        self.reader.clone()
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
