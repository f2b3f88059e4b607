//! Schemas: a database of each released one is brought up to date; later ones and half migrations are refused.

use std::path::Path;

use rusqlite::Connection;
use trainyard_coordinator::store::{JobsQuery, OpenError, SqliteStore, Store};
use trainyard_core::id::{GangId, GangNo, JobId};
use trainyard_core::text::Secret;

/// One dump per released schema, in order.
const RELEASED: [&str; 1] = [include_str!("../schemas/1.sql")];

fn load(folder: &Path, dump: &str) {
    let path = folder.join("trainyard.db");
    Connection::open(&path).unwrap().execute_batch(dump).unwrap();
}

/// Tables and indexes with their columns, in an order of their own: `ALTER TABLE` writes other text than
/// `CREATE TABLE`, and means the same.
fn schema(folder: &Path) -> Vec<String> {
    let connection = Connection::open(folder.join("trainyard.db")).unwrap();
    let mut statement = connection
        .prepare("SELECT type, name, tbl_name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name")
        .unwrap();
    let objects = statement
        .query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
        })
        .unwrap()
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let mut lines = Vec::new();
    for (kind, name, table) in objects {
        let pragma = if kind == "index" { "index_info" } else { "table_info" };
        let mut columns = connection.prepare(&format!("PRAGMA {pragma}({name})")).unwrap();
        let count = columns.column_count();
        let rows = columns
            .query_map([], |row| {
                (0..count).map(|i| row.get_ref(i).map(|value| format!("{value:?}"))).collect::<Result<Vec<_>, _>>()
            })
            .unwrap();
        for row in rows {
            lines.push(format!("{kind} {name} of {table}: {}", row.unwrap().join(" ")));
        }
    }
    lines
}

#[test]
fn fault_22_a_database_of_each_released_schema_is_brought_up_to_date() {
    let fresh = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(fresh.path()).unwrap());
    for (i, dump) in RELEASED.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        load(dir.path(), dump);
        let mut store = SqliteStore::open(dir.path()).unwrap_or_else(|e| panic!("schema {}: {e}", i + 1));
        assert_eq!(store.generation().0, 2, "schema {}", i + 1);
        let stored = store.load().unwrap();
        assert_eq!(stored.next_job, JobId(4));
        assert_eq!(stored.jobs.iter().map(|job| job.key.job.as_str()).collect::<Vec<_>>(), ["running", "queued"]);
        for job in &stored.jobs {
            let secret = job.spec.secrets[0].value.as_ref().unwrap();
            assert_eq!(secret.expose(), "canary-7f3a", "open jobs keep their secrets");
        }
        let gang = GangId { job: JobId(2), gang: GangNo(1) };
        assert_eq!(stored.plans.iter().map(|(gang, _)| *gang).collect::<Vec<_>>(), [gang]);
        assert_eq!(stored.nodes.len(), 1);
        let reader = store.reader();
        let all = JobsQuery { limit: 10, ..JobsQuery::default() };
        let states: Vec<&str> = reader.jobs(&all).unwrap().iter().map(|job| job.execution_state()).collect();
        assert_eq!(states, ["succeeded", "running", "queued"]);
        assert_eq!(reader.journal(0, 100).unwrap().len(), 10);
        // The job that has ended is known again by its spec, though its secrets are wiped.
        let done = reader.job_by_id(JobId(1)).unwrap().unwrap();
        let mut offered = done.spec.clone();
        offered.secrets[0].value = Some(Secret::new("canary-7f3a".to_owned()));
        let folded = done.key.folded();
        assert!(store.finished(&folded, Some(&offered)).unwrap().unwrap().same_spec);
        offered.secrets[0].value = Some(Secret::new("another".to_owned()));
        assert!(!store.finished(&folded, Some(&offered)).unwrap().unwrap().same_spec);
        drop((store, reader));
        assert_eq!(schema(dir.path()), schema(fresh.path()), "schema {}", i + 1);
        let connection = Connection::open(dir.path().join("trainyard.db")).unwrap();
        let kept: Vec<i64> = connection
            .prepare("SELECT job FROM job_secrets ORDER BY job")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(kept, [2, 3]);
        let ended: i64 =
            connection.query_row("SELECT ended FROM jobs WHERE id = 1", [], |row| row.get(0)).unwrap();
        assert_eq!(ended, 1_795_593_787_402);
    }
}

#[test]
fn fault_22_a_database_of_a_later_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(dir.path()).unwrap());
    let connection = Connection::open(dir.path().join("trainyard.db")).unwrap();
    connection
        .execute(
            "INSERT INTO refinery_schema_history (version, name, applied_on, checksum)
             VALUES (99, 'x', '2030-01-01T00:00:00Z', '1')",
            [],
        )
        .unwrap();
    drop(connection);
    let error = SqliteStore::open(dir.path()).err().unwrap();
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("written by a later version of Trainyard"), "{error}");
}

#[test]
fn fault_22_a_migration_that_fails_half_way_leaves_the_old_schema() {
    let dir = tempfile::tempdir().unwrap();
    load(dir.path(), RELEASED[0]);
    let path = dir.path().join("trainyard.db");
    // The last statement of version 2 finds its name taken.
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE jobs_ended (x)").unwrap();
    let before = schema(dir.path());
    let error = SqliteStore::open(dir.path()).err().unwrap();
    assert!(matches!(error, OpenError::Migration { .. }), "{error}");
    assert_eq!(schema(dir.path()), before, "no column of the new schema is there");
    let connection = Connection::open(&path).unwrap();
    let version: i64 =
        connection.query_row("SELECT max(version) FROM refinery_schema_history", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 1);
    connection.execute_batch("DROP TABLE jobs_ended").unwrap();
    drop(connection);
    assert!(SqliteStore::open(dir.path()).is_ok(), "it goes on once the cause is gone");
}
