//! A database that is damaged, missing, or in use: refused, in words that say what helps, and never changed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use trainyard_coordinator::store::{JobsQuery, OpenError, SqliteStore, Store};

use crate::jobs::*;

/// As SQLite makes them.
const PAGE: usize = 4096;

fn refused(folder: &Path) -> OpenError {
    SqliteStore::open(folder).err().expect("it is refused")
}

/// Names and states of all jobs.
fn contents(store: &SqliteStore) -> Vec<(u64, String, &'static str)> {
    let query = JobsQuery { limit: 10_000, ..JobsQuery::default() };
    let jobs = store.reader().jobs(&query).unwrap();
    jobs.iter().map(|job| (job.id.0, job.key.job.as_str().to_owned(), job.execution_state())).collect()
}

/// A database of many pages, closed.
fn database(folder: &Path) -> Vec<(u64, String, &'static str)> {
    let mut store = SqliteStore::open(folder).unwrap();
    for id in 1..=60 {
        let change =
            if id % 3 == 0 { put(&ended(id, &format!("j{id}"))) } else { put(&job(id, &format!("j{id}"))) };
        store.commit(&[change, journal("jobSubmitted", id)]).unwrap();
    }
    let contents = contents(&store);
    drop(store);
    // Everything is in the file itself then, and the log is empty.
    drop(SqliteStore::open(folder).unwrap());
    contents
}

fn names_restore(error: &OpenError) -> bool {
    matches!(error, OpenError::Damaged { .. })
        && error.to_string().contains("trainyard coordinator restore")
        && error.to_string().contains("trainyard.db")
}

#[test]
fn fault_16_a_second_opener_is_refused_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let generation = store.generation();
    let error = refused(dir.path());
    assert!(matches!(error, OpenError::Locked(_)), "{error}");
    assert!(error.to_string().contains("another coordinator runs on"), "{error}");
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(store.generation().0, generation.0 + 1, "who was refused has counted nothing up");
}

#[test]
fn fault_20_a_zeroed_page_is_refused_whichever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    database(dir.path());
    let path = dir.path().join("trainyard.db");
    let whole = fs::read(&path).unwrap();
    let pages = whole.len() / PAGE;
    assert!(pages > 15, "{pages} pages are no test");
    for page in 0..pages {
        let mut damaged = whole.clone();
        damaged[page * PAGE..(page + 1) * PAGE].fill(0);
        fs::write(&path, &damaged).unwrap();
        let error = refused(dir.path());
        assert!(names_restore(&error), "page {page}: {error}");
        assert!(fs::read(&path).unwrap() == damaged, "page {page}: a refused database was changed");
    }
    fs::write(&path, whole).unwrap();
    SqliteStore::open(dir.path()).unwrap();
}

#[test]
fn fault_20_flipped_bytes_of_the_structure_are_refused_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let before = database(dir.path());
    let path = dir.path().join("trainyard.db");
    let whole = fs::read(&path).unwrap();
    let mut refusals = 0;
    for page in 1..whole.len() / PAGE {
        // Kind of the page, count of its cells, where they begin, and the place of the first of them.
        for byte in [0, 3, 4, 5, 6, 8, 9] {
            let mut damaged = whole.clone();
            damaged[page * PAGE + byte] ^= 0x55;
            fs::write(&path, &damaged).unwrap();
            match SqliteStore::open(dir.path()) {
                Err(error) => {
                    assert!(names_restore(&error), "page {page}, byte {byte}: {error}");
                    refusals += 1;
                }
                Ok(store) => assert_eq!(contents(&store), before, "page {page}, byte {byte}"),
            }
        }
    }
    assert!(refusals > whole.len() / PAGE * 4, "only {refusals} were noticed");
}

#[test]
fn fault_20_a_truncated_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    database(dir.path());
    let path = dir.path().join("trainyard.db");
    let whole = fs::read(&path).unwrap();
    for length in [1, 50, PAGE - 1, PAGE, 3 * PAGE + 7, whole.len() / 2, whole.len() - PAGE, whole.len() - 1]
    {
        fs::write(&path, &whole[..length]).unwrap();
        let error = refused(dir.path());
        assert!(names_restore(&error), "{length} bytes: {error}");
    }
    fs::write(&path, "").unwrap();
    assert!(names_restore(&refused(dir.path())), "an empty file is no new database");
    fs::write(&path, "this is no database, whatever its name says, and long enough to be looked at").unwrap();
    assert!(names_restore(&refused(dir.path())));
}

/// What a killed coordinator leaves: the file of the database, and a write-ahead log with all commits.
fn killed(folder: &Path) -> (Vec<u8>, Vec<u8>) {
    let mut store = SqliteStore::open(folder).unwrap();
    for id in 1..=40 {
        store.commit(&[put(&job(id, &format!("j{id}"))), journal("jobSubmitted", id)]).unwrap();
    }
    let (path, wal) = (folder.join("trainyard.db"), folder.join("trainyard.db-wal"));
    let files = (fs::read(path).unwrap(), fs::read(wal).unwrap());
    assert!(files.1.len() > 100_000, "the commits are in the log");
    files
}

/// SQLite cannot tell a log that was cut off from one that ends there: it must give whole commits, up to one of
/// them. What is missing then shows where agents hold more (fault 17).
#[test]
fn fault_20_a_truncated_write_ahead_log_gives_whole_commits_up_to_one_of_them() {
    let source = tempfile::tempdir().unwrap();
    let (database, log) = killed(source.path());
    let mut seen = BTreeSet::new();
    for part in 0..=20 {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("database-was-made"), "").unwrap();
        fs::write(dir.path().join("trainyard.db"), &database).unwrap();
        fs::write(dir.path().join("trainyard.db-wal"), &log[..log.len() * part / 20]).unwrap();
        let mut store = SqliteStore::open(dir.path()).unwrap();
        let jobs: Vec<u64> = contents(&store).into_iter().map(|(id, _, _)| id).collect();
        let count = jobs.len() as u64;
        assert_eq!(jobs, (1..=count).collect::<Vec<_>>());
        assert_eq!(store.reader().journal(0, 100).unwrap().len() as u64, count, "half a commit");
        assert_eq!(store.load().unwrap().next_job.0, count + 1);
        assert_eq!(store.generation().0, 2, "the generation stands in the database's own file");
        seen.insert(count);
    }
    assert_eq!((seen.first(), seen.last()), (Some(&0), Some(&40)));
    assert!(seen.len() > 5, "{seen:?}");
}

#[test]
fn fault_20_a_damaged_write_ahead_log_gives_whole_commits_before_the_damage() {
    let source = tempfile::tempdir().unwrap();
    let (database, log) = killed(source.path());
    for part in 1..20 {
        let dir = tempfile::tempdir().unwrap();
        let mut damaged = log.clone();
        damaged[log.len() * part / 20] ^= 1;
        fs::write(dir.path().join("database-was-made"), "").unwrap();
        fs::write(dir.path().join("trainyard.db"), &database).unwrap();
        fs::write(dir.path().join("trainyard.db-wal"), damaged).unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let jobs: Vec<u64> = contents(&store).into_iter().map(|(id, _, _)| id).collect();
        assert_eq!(jobs, (1..=jobs.len() as u64).collect::<Vec<_>>());
        assert!(jobs.len() < 40, "the sums of the frames notice it");
    }
}

#[test]
fn fault_21_a_missing_database_is_refused_while_anything_says_that_there_was_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trainyard.db");
    database(dir.path());
    fs::remove_file(&path).unwrap();
    let check = |expected: &str| {
        let error = refused(dir.path());
        assert!(matches!(error, OpenError::Missing { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("coordinator restore") && text.contains("--init"), "{text}");
        assert!(text.contains(expected), "{text}");
        assert!(!path.exists(), "a refused start has made something");
    };
    check("database-was-made");
    fs::remove_file(dir.path().join("database-was-made")).unwrap();
    fs::create_dir_all(dir.path().join("logs/1.1")).unwrap();
    check("logs");
    fs::remove_dir_all(dir.path().join("logs")).unwrap();
    fs::write(dir.path().join("trainyard.db-wal"), "frames").unwrap();
    check("write-ahead log");
    fs::remove_file(dir.path().join("trainyard.db-wal")).unwrap();
    SqliteStore::open(dir.path()).expect("nothing says that there was one");
}

#[test]
fn fault_21_init_begins_anew_puts_the_logs_aside_and_waits_for_an_operator() {
    let dir = tempfile::tempdir().unwrap();
    database(dir.path());
    let error = SqliteStore::open_or_init(dir.path(), true).err().unwrap();
    assert!(matches!(error, OpenError::Exists { .. }), "it would forget a database: {error}");
    fs::remove_file(dir.path().join("trainyard.db")).unwrap();
    fs::create_dir_all(dir.path().join("logs/1.1")).unwrap();
    let mut store = SqliteStore::open_or_init(dir.path(), true).unwrap();
    assert!(store.load().unwrap().restored, "agents may hold what the lost one gave");
    assert_eq!(contents(&store), []);
    assert!(!dir.path().join("logs").exists());
    let aside = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap());
    let aside: Vec<_> =
        aside.filter(|entry| entry.file_name().to_str().unwrap().starts_with("logs.before-")).collect();
    assert!(aside.len() == 1 && aside[0].path().join("1.1").exists());
}

#[test]
fn init_on_a_new_folder_is_a_plain_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = SqliteStore::open_or_init(&dir.path().join("new"), true).unwrap();
    assert!(!store.load().unwrap().restored);
}
