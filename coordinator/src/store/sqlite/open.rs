//! Opening the database: lock, version, damage, schema, generation. Nothing here runs twice in a process.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use trainyard_core::id::{Generation, JobId};

use crate::store::OpenError;

mod schema {
    refinery::embed_migrations!("src/store/migrations");
}

/// 3.51.3, as SQLite counts: the first without the WAL-reset bug.
const SQLITE_AT_LEAST: i32 = 3_051_003;

pub(super) fn lock(folder: &Path) -> Result<Flock<File>, OpenError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { path, source }
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io(folder))?;
    let path = folder.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(io(&path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => OpenError::Locked(folder.to_owned()),
        errno => OpenError::Io { path, source: errno.into() },
    })
}

pub(super) fn writer(path: &Path) -> Result<Connection, OpenError> {
    if rusqlite::version_number() < SQLITE_AT_LEAST {
        return Err(OpenError::OldSqlite(rusqlite::version().to_owned()));
    }
    create(path)?;
    let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
    quick_check(&connection, path)?;
    connection
        .execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; PRAGMA temp_store=MEMORY;",
        )
        .map_err(sqlite)?;
    migrate(&mut connection, path)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Secrets are in it: nobody else may read it, whatever the umask.
fn create(path: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let logs = path.with_file_name("logs");
    let logs_exist = fs::read_dir(logs).is_ok_and(|mut entries| entries.next().is_some());
    if !path.exists() && logs_exist {
        return Err(OpenError::Missing { path: path.to_owned() });
    }
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(io)?;
    Ok(())
}

fn quick_check(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let damaged = |finding| OpenError::Damaged { path: path.to_owned(), finding };
    let finding = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match finding {
        Ok(finding) if finding == "ok" => Ok(()),
        Ok(finding) => Err(damaged(finding)),
        Err(source) => match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                Err(damaged(source.to_string()))
            }
            Some(_) | None => Err(OpenError::Sqlite { path: path.to_owned(), source }),
        },
    }
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let migration = |source| OpenError::Migration { path: path.to_owned(), source: Box::new(source) };
    let runner = schema::migrations::runner();
    let known = runner.get_migrations().iter().map(|m| i64::from(m.version())).max().unwrap_or(0);
    let found = applied(connection).map_err(|source| OpenError::Sqlite { path: path.to_owned(), source })?;
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    runner.set_grouped(true).run(connection).map_err(migration)?;
    Ok(())
}

/// The highest schema version in the database; 0 in a new one.
fn applied(connection: &Connection) -> Result<i64, rusqlite::Error> {
    let table = "SELECT 1 FROM sqlite_schema WHERE name = 'refinery_schema_history'";
    if connection.query_row(table, [], |_| Ok(())).optional()?.is_none() {
        return Ok(0);
    }
    connection
        .query_row("SELECT coalesce(max(version), 0) FROM refinery_schema_history", [], |row| row.get(0))
}

/// Counts the generation up, and draws the link key once.
pub(super) fn start(connection: &mut Connection) -> Result<(Generation, JobId), rusqlite::Error> {
    let transaction = connection.transaction()?;
    let generation = meta(&transaction, "generation")?.unwrap_or(0) + 1;
    let next_job = meta(&transaction, "next_job")?.unwrap_or(1);
    set_meta(&transaction, "generation", &generation.to_string())?;
    set_meta(&transaction, "next_job", &next_job.to_string())?;
    let new_key = crate::download::draw_key();
    transaction.execute("INSERT OR IGNORE INTO meta (name, value) VALUES ('link_key', ?1)", [new_key])?;
    transaction.commit()?;
    Ok((Generation(generation), JobId(next_job)))
}

fn meta(connection: &Connection, name: &str) -> Result<Option<u64>, rusqlite::Error> {
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
