//! A verified copy of the database, made while a coordinator runs on it or not.
//!
//! One read transaction is copied page by page, checked, compared row by row with its source, synced, and only
//! then given its name. Logs are not part of it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::backup::Backup;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{database, file, open};

/// Pages of one step: the copy is made in one transaction however many steps it takes.
const STEP_PAGES: i32 = 1024;

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackedUp {
    /// Where it is.
    pub file: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Of the coordinator that wrote the database last.
    pub generation: u64,
    /// Its schema.
    pub schema: i64,
    /// Jobs in it.
    pub jobs: u64,
    /// Those that have not ended.
    pub open_jobs: u64,
    /// SHA-256 of all rows, in hex: equal in source and copy.
    pub rows_sha256: String,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Nothing to copy.
    #[error("there is no database at {0}")]
    NoDatabase(PathBuf),
    /// It is not overwritten.
    #[error("{0} exists: choose another name, or replace it (--replace)")]
    Exists(PathBuf),
    /// Written by a later version.
    #[error(
        "{path} was written by a later version of Trainyard (schema {found}, this version knows {known})"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// It is no database, or one of something else.
    #[error("{0} is no database of a Trainyard coordinator")]
    NotOurs(PathBuf),
    /// `PRAGMA integrity_check` found damage.
    #[error("{path} is damaged: {finding}")]
    Damaged {
        /// The database.
        path: PathBuf,
        /// The first finding.
        finding: String,
    },
    /// Source and copy differ.
    #[error("the copy of {0} does not hold the same rows: nothing was kept")]
    Differs(PathBuf),
    /// SQLite refuses.
    #[error("{path} cannot be copied")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A file or folder.
    #[error("{path} cannot be written")]
    Io {
        /// It.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Copies the database of this folder (a coordinator's own) to a file that only its owner can read.
///
/// # Errors
/// [`BackupError`]; then there is no new file, and one that was there before is as it was.
pub fn backup(folder: &Path, to: &Path, replace: bool) -> Result<BackedUp, BackupError> {
    let source = database(folder);
    if !source.exists() {
        return Err(BackupError::NoDatabase(source));
    }
    if to.exists() && !replace {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let temporary = file::with_suffix(to, &format!(".tmp{}", std::process::id()));
    let made = copy(&source, &temporary, |_| Ok(())).and_then(|facts| {
        let io = |source| BackupError::Io { path: to.to_owned(), source };
        fs::rename(&temporary, to).map_err(io)?;
        file::sync_folder(to).map_err(io)?;
        Ok(BackedUp { file: to.to_owned(), ..facts })
    });
    if made.is_err() {
        remove(&temporary);
    }
    made
}

/// `trainyard-20260131T120000.123Z.db`: names that sort by time.
#[must_use]
pub fn backup_name() -> String {
    format!("trainyard-{}.db", file::stamp())
}

/// A verified and synced copy, mode 0600; `change` makes its last changes, after it was compared.
pub(super) fn copy(
    source: &Path,
    to: &Path,
    change: impl FnOnce(&Connection) -> Result<(), rusqlite::Error>,
) -> Result<BackedUp, BackupError> {
    let sqlite = |source_error| BackupError::Sqlite { path: source.to_owned(), source: source_error };
    let io = |source| BackupError::Io { path: to.to_owned(), source };
    remove(to);
    let private = OpenOptions::new().create_new(true).write(true).mode(0o600).open(to).map_err(io)?;
    let from = Connection::open_with_flags(
        source,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(sqlite)?;
    from.busy_timeout(std::time::Duration::from_secs(5)).map_err(sqlite)?;
    // Everything from here on sees one state of the source, whatever a coordinator commits beside it.
    from.execute_batch("BEGIN").map_err(sqlite)?;
    let before = facts(&from, source)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut copy = Connection::open_with_flags(to, flags).map_err(sqlite)?;
    let whole = Backup::new(&from, &mut copy)
        .and_then(|backup| backup.run_to_completion(STEP_PAGES, std::time::Duration::ZERO, None));
    whole.map_err(sqlite)?;
    // One file, without a write-ahead log beside it, wherever it is copied to.
    let mode: String = copy.query_row("PRAGMA journal_mode=DELETE", [], |row| row.get(0)).map_err(sqlite)?;
    debug_assert_eq!(mode, "delete");
    integrity_check(&copy, source)?;
    let after = facts(&copy, source)?;
    if after != before {
        return Err(BackupError::Differs(source.to_owned()));
    }
    change(&copy).map_err(sqlite)?;
    copy.close().map_err(|(_, error)| sqlite(error))?;
    private.sync_all().map_err(io)?;
    let bytes = private.metadata().map_err(io)?.len();
    Ok(BackedUp { bytes, ..after })
}

/// What a database holds; `file` and `bytes` are for the caller.
fn facts(connection: &Connection, path: &Path) -> Result<BackedUp, BackupError> {
    let known = open::known();
    let schema = open::applied(connection).map_err(|error| refused(path, error))?;
    if schema == 0 {
        return Err(BackupError::NotOurs(path.to_owned()));
    }
    if schema > known {
        return Err(BackupError::Newer { path: path.to_owned(), found: schema, known });
    }
    let read = || -> Result<BackedUp, rusqlite::Error> {
        let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, u64>(0));
        Ok(BackedUp {
            file: PathBuf::new(),
            bytes: 0,
            generation: open::meta(connection, "generation")?.unwrap_or(0),
            schema,
            jobs: count("SELECT count(*) FROM jobs")?,
            open_jobs: count("SELECT count(*) FROM jobs WHERE open = 1")?,
            rows_sha256: rows_sha256(connection)?,
        })
    };
    read().map_err(|error| refused(path, error))
}

fn refused(path: &Path, error: rusqlite::Error) -> BackupError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => BackupError::NotOurs(path.to_owned()),
        Some(rusqlite::ErrorCode::DatabaseCorrupt) => {
            BackupError::Damaged { path: path.to_owned(), finding: error.to_string() }
        }
        Some(_) | None => BackupError::Sqlite { path: path.to_owned(), source: error },
    }
}

fn integrity_check(connection: &Connection, path: &Path) -> Result<(), BackupError> {
    let finding = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0));
    let finding = finding.map_err(|error| refused(path, error))?;
    if finding == "ok" { Ok(()) } else { Err(BackupError::Damaged { path: path.to_owned(), finding }) }
}

/// Over every row of every table, in the order of its primary key.
fn rows_sha256(connection: &Connection) -> Result<String, rusqlite::Error> {
    let mut tables = connection.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name",
    )?;
    let names = tables.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    let mut hash = Sha256::new();
    for name in names {
        hash.update(name.as_bytes());
        // The name comes from the schema itself.
        let mut statement = connection.prepare(&format!("SELECT * FROM \"{name}\" ORDER BY 1, 2"))?;
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                feed(&mut hash, row.get_ref(column)?);
            }
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Type and length first, so that no two rows read alike.
fn feed(hash: &mut Sha256, value: ValueRef<'_>) {
    let mut bytes = |kind: u8, bytes: &[u8]| {
        hash.update([kind]);
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    match value {
        ValueRef::Null => bytes(0, &[]),
        ValueRef::Integer(number) => bytes(1, &number.to_le_bytes()),
        ValueRef::Real(number) => bytes(2, &number.to_le_bytes()),
        ValueRef::Text(text) => bytes(3, text),
        ValueRef::Blob(blob) => bytes(4, blob),
    }
}

/// A copy that is not finished; SQLite may have put a journal beside it.
pub(super) fn remove(temporary: &Path) {
    for path in [temporary.to_owned(), file::with_suffix(temporary, "-journal")] {
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "a part of a copy stays behind"),
        }
    }
}

/// Of a copy that only its own folder names: for those who give it its name.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
