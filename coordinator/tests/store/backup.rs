//! Backups: whole, verified, private; and the way back to one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use trainyard_coordinator::store::{
    BackupError, JobsQuery, OpenError, RestoreError, SqliteStore, Store, backup, restore,
};

use crate::jobs::*;

fn jobs(store: &SqliteStore) -> Vec<u64> {
    let query = JobsQuery { limit: 100_000, ..JobsQuery::default() };
    store.reader().jobs(&query).unwrap().iter().map(|job| job.id.0).collect()
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_backup_taken_while_jobs_come_in_holds_all_that_was_acknowledged_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let to = tempfile::tempdir().unwrap();
    let mut store = SqliteStore::open(dir.path()).unwrap();
    for id in 1..=30 {
        store.commit(&[put(&job(id, &format!("j{id}"))), journal("jobSubmitted", id)]).unwrap();
    }
    let stop = AtomicBool::new(false);
    let made: Vec<_> = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut id = 30;
            while !stop.load(Ordering::SeqCst) {
                id += 1;
                store.commit(&[put(&job(id, &format!("j{id}"))), journal("jobSubmitted", id)]).unwrap();
            }
            id
        });
        let made =
            (0..5).map(|n| backup(dir.path(), &to.path().join(format!("{n}.db")), false).unwrap()).collect();
        stop.store(true, Ordering::SeqCst);
        let last = writer.join().unwrap();
        assert!(last > 30, "nothing came in meanwhile");
        made
    });
    assert_eq!(files(to.path()), ["0.db", "1.db", "2.db", "3.db", "4.db"], "one file each, and nothing else");
    let mut before = 30;
    for made in made {
        assert!(made.jobs >= before && made.open_jobs == made.jobs, "{made:?} after {before}");
        before = made.jobs;
        assert_eq!(fs::metadata(&made.file).unwrap().permissions().mode() & 0o777, 0o600);
        let folder = tempfile::tempdir().unwrap();
        restore(folder.path(), &made.file).unwrap();
        let copy = SqliteStore::open(folder.path()).unwrap();
        assert_eq!(jobs(&copy), (1..=made.jobs).collect::<Vec<_>>());
        assert_eq!(copy.reader().journal(0, u32::MAX).unwrap().len() as u64, made.jobs, "one state, not two");
    }
}

#[test]
fn a_backup_takes_no_name_that_is_taken_and_no_damaged_database() {
    let dir = tempfile::tempdir().unwrap();
    let to = tempfile::tempdir().unwrap();
    let file = to.path().join("b.db");
    assert!(matches!(backup(dir.path(), &file, false), Err(BackupError::NoDatabase(_))));
    let mut store = SqliteStore::open(dir.path()).unwrap();
    for id in 1..=40 {
        store.commit(&[put(&job(id, &format!("j{id}")))]).unwrap();
    }
    drop(store);
    backup(dir.path(), &file, false).unwrap();
    let good = fs::read(&file).unwrap();
    assert!(matches!(backup(dir.path(), &file, false), Err(BackupError::Exists(_))));
    backup(dir.path(), &file, true).unwrap();

    let path = dir.path().join("trainyard.db");
    let mut bytes = fs::read(&path).unwrap();
    let page = bytes.len() / 4096 / 2 * 4096;
    bytes[page..page + 4096].fill(0);
    fs::write(&path, bytes).unwrap();
    let error = backup(dir.path(), &file, true).unwrap_err();
    assert!(matches!(error, BackupError::Damaged { .. }), "{error}");
    assert!(fs::read(&file).unwrap() == good, "the last good backup is gone");
    assert_eq!(files(to.path()), ["b.db"], "a part of a copy stays behind");
}

#[test]
fn fault_17_a_restored_database_says_so_and_the_replaced_one_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let to = tempfile::tempdir().unwrap();
    let file = to.path().join("b.db");
    let mut store = SqliteStore::open(dir.path()).unwrap();
    store.commit(&[put(&job(1, "a"))]).unwrap();
    backup(dir.path(), &file, false).unwrap();
    store.commit(&[put(&job(2, "b"))]).unwrap();
    let error = restore(dir.path(), &file).unwrap_err();
    assert!(matches!(error, RestoreError::Open(OpenError::Locked(_))), "while it runs: {error}");
    drop(store);

    let restored = restore(dir.path(), &file).unwrap();
    let mut store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(jobs(&store), [1]);
    assert!(store.load().unwrap().restored);
    assert!(store.reader().numbers().unwrap().restored);
    drop(store);
    // Until somebody adopts it, whatever happens meanwhile.
    assert!(SqliteStore::open(dir.path()).unwrap().load().unwrap().restored);

    // What was replaced is a whole database.
    let replaced = restored.replaced.unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    restore(elsewhere.path(), &replaced).unwrap();
    assert_eq!(jobs(&SqliteStore::open(elsewhere.path()).unwrap()), [1, 2]);
}

#[test]
fn fault_20_a_damaged_backup_is_not_restored_and_the_database_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let to = tempfile::tempdir().unwrap();
    let file = to.path().join("b.db");
    let mut store = SqliteStore::open(dir.path()).unwrap();
    for id in 1..=40 {
        store.commit(&[put(&job(id, &format!("j{id}")))]).unwrap();
    }
    backup(dir.path(), &file, false).unwrap();
    drop(store);
    let before = (files(dir.path()), fs::read(dir.path().join("trainyard.db")).unwrap());
    let good = fs::read(&file).unwrap();
    let mut bad: Vec<Vec<u8>> =
        vec![Vec::new(), b"no database at all".to_vec(), good[..good.len() / 2].to_vec()];
    for page in 0..good.len() / 4096 {
        let mut zeroed = good.clone();
        zeroed[page * 4096..(page + 1) * 4096].fill(0);
        bad.push(zeroed);
    }
    for (n, bytes) in bad.iter().enumerate() {
        fs::write(&file, bytes).unwrap();
        let error = restore(dir.path(), &file).unwrap_err();
        assert!(matches!(error, RestoreError::Backup(_)), "{n}: {error}");
        let after = (files(dir.path()), fs::read(dir.path().join("trainyard.db")).unwrap());
        assert!(after == before, "{n}: {error}: {:?}", after.0);
    }
    let database = dir.path().join("trainyard.db");
    assert!(matches!(restore(dir.path(), &database), Err(RestoreError::Itself(_))));
    assert!(matches!(restore(dir.path(), &to.path().join("none")), Err(RestoreError::NoFile(_))));
}
