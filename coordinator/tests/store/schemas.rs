//! Databases of other versions: of every earlier schema (`tests/schemas/N.sql`), of a later one, and half brought
//! up to date.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use trainyard_coordinator::store::{OpenError, SqliteStore, Store};
use trainyard_core::id::{GangId, GangNo, JobId};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemas")
}

/// Puts the database of this schema into a folder.
fn lay_down(folder: &Path, schema: i64) -> PathBuf {
    let sql = fs::read_to_string(fixtures().join(format!("{schema}.sql"))).unwrap();
    let path = folder.join("trainyard.db");
    Connection::open(&path).unwrap().execute_batch(&sql).unwrap();
    path
}

fn schema(path: &Path) -> i64 {
    let connection = Connection::open(path).unwrap();
    connection.query_row("SELECT max(version) FROM refinery_schema_history", [], |row| row.get(0)).unwrap()
}

/// The one that this program makes.
fn known() -> i64 {
    let dir = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(dir.path()).unwrap());
    schema(&dir.path().join("trainyard.db"))
}

fn folded(job: &str) -> String {
    format!("00000000-0000-0000-0000-000000000000/trainyard/default/default/{job}")
}

#[test]
fn fault_22_a_database_of_every_earlier_schema_is_brought_up_to_date_with_all_it_holds() {
    for earlier in 1..known() {
        let dir = tempfile::tempdir().unwrap();
        let path = lay_down(dir.path(), earlier);
        let mut store = SqliteStore::open(dir.path()).unwrap();
        assert_eq!(schema(&path), known());
        assert_eq!(store.generation().0, 2, "schema {earlier}");
        let stored = store.load().unwrap();
        let open: Vec<_> = stored.jobs.iter().map(|job| (job.id.0, job.key.job.as_str())).collect();
        assert_eq!(open, [(2, "running"), (3, "queued")], "schema {earlier}");
        assert_eq!(stored.next_job, JobId(4));
        assert_eq!((stored.plans.len(), stored.nodes.len()), (1, 1), "schema {earlier}");
        assert!(!stored.restored);
        let reader = store.reader();
        let done = reader.job_by_id(JobId(1)).unwrap().unwrap();
        assert_eq!(done.execution_state(), "succeeded");
        assert!(reader.plan(GangId { job: JobId(1), gang: GangNo(1) }).unwrap().is_some());
        assert!(!reader.journal(0, 100).unwrap().is_empty());

        // The submit of the job that has ended, again: known by its spec and the hash of its secret.
        let mut offered = stored.jobs[1].spec.clone();
        let found = store.finished(&folded("done"), Some(&offered)).unwrap().unwrap();
        assert!(found.same_spec, "schema {earlier}");
        offered.node_count = stored.jobs[1].spec.node_count.saturating_add(1);
        let found = store.finished(&folded("done"), Some(&offered)).unwrap().unwrap();
        assert!(!found.same_spec, "schema {earlier}");
        let connection = Connection::open(&path).unwrap();
        let secrets: i64 =
            connection.query_row("SELECT count(*) FROM job_secrets", [], |row| row.get(0)).unwrap();
        assert_eq!(secrets, 2, "those of open jobs stay, that of the ended one is wiped");
        let ended: i64 =
            connection.query_row("SELECT ended FROM jobs WHERE id = 1", [], |row| row.get(0)).unwrap();
        assert_eq!(ended, done.transition.0, "retention counts from its end");
    }
}

#[test]
fn fault_22_a_database_of_a_later_version_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(dir.path()).unwrap());
    let path = dir.path().join("trainyard.db");
    let later = "INSERT INTO refinery_schema_history (version, name, applied_on, checksum)
                 VALUES (99, 'x', '2030-01-01T00:00:00Z', '1')";
    Connection::open(&path).unwrap().execute(later, []).unwrap();
    let before = fs::read(&path).unwrap();
    let error = SqliteStore::open(dir.path()).err().unwrap();
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("later version of Trainyard"), "{error}");
    assert!(fs::read(&path).unwrap() == before, "it was changed");
    Connection::open(&path)
        .unwrap()
        .execute("DELETE FROM refinery_schema_history WHERE version = 99", [])
        .unwrap();
    SqliteStore::open(dir.path()).unwrap();
}

#[test]
fn fault_22_a_migration_that_fails_half_way_is_rolled_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = lay_down(dir.path(), 1);
    let connection = Connection::open(&path).unwrap();
    // The last statement of migration 2 then fails.
    connection.execute_batch("CREATE INDEX jobs_ended ON jobs (state)").unwrap();
    let columns = |connection: &Connection| -> Vec<String> {
        let mut statement = connection.prepare("SELECT name FROM pragma_table_info('jobs')").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let before = columns(&connection);
    let error = SqliteStore::open(dir.path()).err().unwrap();
    assert!(matches!(error, OpenError::Migration { .. }), "{error}");
    assert_eq!(columns(&connection), before, "half a migration is there");
    assert_eq!(schema(&path), 1);
    connection.execute_batch("DROP INDEX jobs_ended").unwrap();
    drop(connection);
    let mut store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(store.load().unwrap().jobs.len(), 2);
}
