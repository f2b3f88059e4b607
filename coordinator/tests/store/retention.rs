//! What is old or too much goes, a bounded part at a time; open jobs never.

use trainyard_coordinator::store::{
    Change, EXPIRE_EVENTS, EXPIRE_JOBS, Expired, JobsQuery, Limits, SqliteStore, Store,
};
use trainyard_core::coordinator::Record;
use trainyard_core::id::{GangId, GangNo, JobId};
use trainyard_core::unit::WallMs;

use crate::fixture::*;

fn ids(store: &SqliteStore) -> Vec<u64> {
    let query = JobsQuery { limit: 1000, ..JobsQuery::default() };
    store.reader().jobs(&query).unwrap().iter().map(|job| job.id.0).collect()
}

#[test]
fn age_and_count_remove_ended_jobs_and_never_open_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = SqliteStore::open(dir.path()).unwrap();
    let (running, plan) = active(2, "running");
    let gang = GangId { job: JobId(2), gang: GangNo(1) };
    let mut changes = vec![
        put(&job(1, "queued")),
        Change::Record(Record::PutPlan { gang, nodes: vec![plan] }),
        put(&running),
    ];
    changes.extend((3..=8).map(|id| put(&ended_at(id, &format!("j{id}"), id as i64 * 10))));
    store.commit(&changes).unwrap();
    let old = Limits { ended_before: Some(WallMs(50)), ..Limits::default() };
    assert_eq!(store.expire(&old).unwrap().jobs, [JobId(3), JobId(4)]);
    assert!(store.expire(&old).unwrap().is_empty());
    let few = Limits { jobs: Some(1), ..Limits::default() };
    assert_eq!(store.expire(&few).unwrap().jobs, [JobId(5), JobId(6), JobId(7)]);
    let none = Limits { ended_before: Some(WallMs(i64::MAX)), jobs: Some(0), events: Some(0) };
    assert_eq!(store.expire(&none).unwrap().jobs, [JobId(8)]);
    assert_eq!(ids(&store), [1, 2]);
    assert!(store.reader().plan(gang).unwrap().is_some());
    // A number is never given again, also if all that had higher ones are gone.
    drop(store);
    assert_eq!(SqliteStore::open(dir.path()).unwrap().load().unwrap().next_job, JobId(9));
}

#[test]
fn one_call_removes_a_bounded_part() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = SqliteStore::open(dir.path()).unwrap();
    let jobs = u64::from(EXPIRE_JOBS) + 7;
    let changes: Vec<Change> = (1..=jobs).map(|id| put(&ended(id, &format!("j{id}")))).collect();
    store.commit(&changes).unwrap();
    let entries: Vec<Change> = (0..EXPIRE_EVENTS + 9).map(|_| journal("jobStarted", 1)).collect();
    store.commit(&entries).unwrap();
    let limits = Limits { ended_before: Some(WallMs(100)), jobs: None, events: Some(2) };
    let first = store.expire(&limits).unwrap();
    assert_eq!((first.jobs.len() as u32, first.events), (EXPIRE_JOBS, EXPIRE_EVENTS));
    let second = store.expire(&limits).unwrap();
    assert_eq!((second.jobs.len(), second.events), (7, 7));
    assert_eq!(store.expire(&limits).unwrap(), Expired::default());
    let kept = store.reader().journal(0, 10).unwrap();
    let kept: Vec<u64> = kept.iter().map(|entry| entry.seq).collect();
    assert_eq!(kept, [EXPIRE_EVENTS + 8, EXPIRE_EVENTS + 9], "the newest stay, with their numbers");
    // Numbers of entries go on, so that whoever follows misses nothing.
    assert_eq!(store.commit(&[journal("jobStarted", 1)]).unwrap(), [EXPIRE_EVENTS + 10]);
}
