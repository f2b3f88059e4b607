//! Opening the database: version, damage, schema, generation.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use trainyard_core::id::{Generation, JobId};

use super::file;
use crate::store::{OpenError, secrets};

mod schema {
    refinery::embed_migrations!("src/store/migrations");
}

/// 3.51.3, as SQLite counts: the first without the WAL-reset bug.
const SQLITE_AT_LEAST: i32 = 3_051_003;

/// `has_schema`: it is known that tables were made in it.
pub(super) fn writer(path: &Path, has_schema: bool) -> Result<Connection, OpenError> {
    if rusqlite::version_number() < SQLITE_AT_LEAST {
        return Err(OpenError::OldSqlite(rusqlite::version().to_owned()));
    }
    let sqlite = |source| refused(path, source);
    whole_pages(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
    quick_check(&connection, path)?;
    connection
        .execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; PRAGMA secure_delete=ON;
             PRAGMA temp_store=MEMORY;",
        )
        .map_err(sqlite)?;
    // N1 stands on it: a commit returns after the disk has confirmed it.
    let (journal, synchronous) = durability(&connection).map_err(sqlite)?;
    if (journal.as_str(), synchronous) != ("wal", SYNCHRONOUS_FULL) {
        return Err(OpenError::NotDurable { path: path.to_owned(), journal, synchronous });
    }
    connection.wal_hook(Some(checkpoint)).map_err(sqlite)?;
    migrate(&mut connection, path, has_schema)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Pages of the write-ahead log from which on they are copied into the database.
const CHECKPOINT_PAGES: i32 = 1000;

/// In the place of SQLite's own, which keeps its errors to itself: a failed sync has to end the process.
fn checkpoint(wal: &mut Wal, pages: i32) -> Result<(), rusqlite::Error> {
    if pages < CHECKPOINT_PAGES {
        return Ok(());
    }
    match wal.checkpoint() {
        Err(error)
            if matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy)) =>
        {
            // What was committed is durable in the log, which grows until a later try.
            Ok(())
        }
        other => other,
    }
}

/// As `PRAGMA synchronous` says it.
const SYNCHRONOUS_FULL: i64 = 2;

fn durability(connection: &Connection) -> Result<(String, i64), rusqlite::Error> {
    let journal = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    let synchronous = connection.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
    Ok((journal, synchronous))
}

/// SQLite fills up a last page that was cut off, and says nothing. With a write-ahead log beside it that is right:
/// a power cut has met a checkpoint.
fn whole_pages(path: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let log = std::fs::metadata(file::with_suffix(path, "-wal"));
    if log.is_ok_and(|log| log.len() > 0) {
        return Ok(());
    }
    let mut header = [0; 18];
    let mut file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    if file.read_exact(&mut header).is_err() {
        // Empty, or too short to be anything: SQLite's to judge.
        return Ok(());
    }
    // Of 65,536 bytes, if it says 1.
    let page = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        page => u64::from(page),
    };
    if page >= 512 && !length.is_multiple_of(page) {
        let finding = "its end is cut off".to_owned();
        return Err(OpenError::Damaged { path: path.to_owned(), finding });
    }
    Ok(())
}

fn quick_check(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let damaged = |finding| OpenError::Damaged { path: path.to_owned(), finding };
    let finding = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match finding {
        Ok(finding) if finding == "ok" => Ok(()),
        Ok(finding) => Err(damaged(finding)),
        Err(source) => Err(refused(path, source)),
    }
}

/// Damage shows in any statement.
pub(super) fn refused(path: &Path, source: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            OpenError::Damaged { path, finding: source.to_string() }
        }
        Some(_) | None => OpenError::Sqlite { path, source },
    }
}

fn migrate(connection: &mut Connection, path: &Path, has_schema: bool) -> Result<(), OpenError> {
    let migration = |source| OpenError::Migration { path: path.to_owned(), source: Box::new(source) };
    let known = known();
    let found = applied(connection).map_err(|source| refused(path, source))?;
    if found == 0 && has_schema {
        let finding = "its tables are gone: was its write-ahead log removed?".to_owned();
        return Err(OpenError::Damaged { path: path.to_owned(), finding });
    }
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    // Grouped: all of them in one transaction, or none.
    schema::migrations::runner().set_grouped(true).run(connection).map_err(migration)?;
    Ok(())
}

/// The highest schema version of this program.
pub(super) fn known() -> i64 {
    let runner = schema::migrations::runner();
    runner.get_migrations().iter().map(|migration| i64::from(migration.version())).max().unwrap_or(0)
}

/// The highest schema version in the database; 0 in a new one.
pub(super) fn applied(connection: &Connection) -> Result<i64, rusqlite::Error> {
    let table = "SELECT 1 FROM sqlite_schema WHERE name = 'refinery_schema_history'";
    if connection.query_row(table, [], |_| Ok(())).optional()?.is_none() {
        return Ok(0);
    }
    connection
        .query_row("SELECT coalesce(max(version), 0) FROM refinery_schema_history", [], |row| row.get(0))
}

/// What a start has found and made.
pub(super) struct Started {
    pub(super) generation: Generation,
    pub(super) next_job: JobId,
    pub(super) spec_key: String,
}

/// Counts the generation up, and draws keys once. All of it reaches the database's own file at once: a lost
/// write-ahead log can then cost commits, never the schema or a generation that an agent has obeyed.
pub(super) fn start(connection: &mut Connection, begun_anew: bool) -> Result<Started, rusqlite::Error> {
    let transaction = connection.transaction()?;
    let generation = meta(&transaction, "generation")?.unwrap_or(0) + 1;
    let next_job = meta(&transaction, "next_job")?.unwrap_or(1);
    set_meta(&transaction, "generation", &generation.to_string())?;
    set_meta(&transaction, "next_job", &next_job.to_string())?;
    for name in ["link_key", "spec_key"] {
        let key = crate::download::draw_key();
        transaction.execute("INSERT OR IGNORE INTO meta (name, value) VALUES (?1, ?2)", [name, &key])?;
    }
    if begun_anew {
        set_meta(&transaction, "restored", "begun anew")?;
    }
    let spec_key: String =
        transaction.query_row("SELECT value FROM meta WHERE name = 'spec_key'", [], |row| row.get(0))?;
    wipe_secrets(&transaction, &spec_key)?;
    transaction.commit()?;
    // `busy` is one of its results: a reader from outside (a backup) only delays it to the next checkpoint.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(Started { generation: Generation(generation), next_job: JobId(next_job), spec_key })
}

/// Version 1 kept the secrets of jobs that have ended: their hashes take their place.
fn wipe_secrets(connection: &Connection, spec_key: &str) -> Result<(), rusqlite::Error> {
    let sql = "SELECT job, job_secrets.doc FROM job_secrets JOIN jobs ON jobs.id = job WHERE open = 0";
    let mut statement = connection.prepare(sql)?;
    let kept = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    for (job, document) in kept.collect::<Result<Vec<_>, _>>()? {
        let mac = secrets::mac(spec_key, &document);
        connection.execute("UPDATE jobs SET secrets_mac = ?2 WHERE id = ?1", params![job, mac])?;
        connection.execute("DELETE FROM job_secrets WHERE job = ?1", [job])?;
    }
    Ok(())
}

pub(super) fn meta(connection: &Connection, name: &str) -> Result<Option<u64>, rusqlite::Error> {
    let value: Option<String> = connection
        .query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0))
        .optional()?;
    Ok(value.and_then(|text| text.parse().ok()))
}

pub(super) fn set_meta(connection: &Connection, name: &str, value: &str) -> Result<(), rusqlite::Error> {
    let sql = "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    connection.prepare_cached(sql)?.execute([name, value])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n1_commits_wait_for_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trainyard.db");
        file::begin(&path, false).unwrap();
        let connection = writer(&path, false).unwrap();
        assert_eq!(durability(&connection).unwrap(), ("wal".to_owned(), SYNCHRONOUS_FULL));
    }
}
