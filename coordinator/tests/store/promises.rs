//! One list of promises, kept by the store in memory and by the one in SQLite.

use std::path::Path;

use proptest::prelude::*;
use serde_json::json;
use trainyard_coordinator::store::{
    Change, EXPIRE_JOBS, Experiment, FailingStore, Failure, JobsQuery, Limits, MemoryStore, SqliteStore,
    Store, StoreError, Workspace,
};
use trainyard_core::coordinator::Record;
use trainyard_core::coordinator::state::{Job, JobPhase};
use trainyard_core::id::{Epoch, GangId, GangNo, Generation, JobId, NodeId};
use trainyard_core::plan::PortSpace;
use trainyard_core::session::NodeFacts;
use trainyard_core::text::Name;
use trainyard_core::unit::WallMs;

use crate::jobs::*;

/// What every store promises. `reopen` gives the store that a later start finds.
fn promises<S: Store>(mut store: S, reopen: impl FnOnce(S) -> S) {
    assert_eq!(store.generation(), Generation(1));
    assert_eq!(store.load().unwrap().next_job, JobId(1));

    let (running, plan) = active(2, "Running");
    let facts = NodeFacts {
        version: "1".to_owned(),
        address: "127.0.0.2".to_owned(),
        root: "/r".to_owned(),
        port_space: PortSpace { boot_id: "b".to_owned(), network_namespace: 7 },
        privileged: true,
        base_environment: [("PATH".to_owned(), "/bin".to_owned())].into(),
        gpus: vec![],
        gpu_problem: String::new(),
        degraded: String::new(),
        stuck: Vec::new(),
    };
    let node = NodeId("node-0".to_owned());
    let changes = [
        put(&job(1, "queued")),
        journal("jobSubmitted", 1),
        // A plan comes before its job in the batch that makes both.
        Change::Record(Record::PutPlan {
            gang: GangId { job: JobId(2), gang: GangNo(1) },
            nodes: vec![plan.clone()],
        }),
        put(&running),
        journal("jobStarted", 2),
        put(&ended(3, "done")),
        Change::Record(Record::PutNode { node: node.clone(), epoch: Epoch(4), facts: facts.clone() }),
    ];
    assert_eq!(store.commit(&changes).unwrap(), [1, 2]);
    assert_eq!(store.commit(&[journal("jobEnded", 3)]).unwrap(), [3]);

    assert_eq!(finished(&mut store, "DONE", Some(&job(3, "done"))), Some((JobId(3), true)));
    let other_command = job_with(3, "done", "false", "canary-7f3a");
    assert_eq!(finished(&mut store, "done", Some(&other_command)), Some((JobId(3), false)));
    let other_secret = job_with(3, "done", "true", "another");
    assert_eq!(finished(&mut store, "done", Some(&other_secret)), Some((JobId(3), false)));
    assert_eq!(finished(&mut store, "done", None), Some((JobId(3), false)));
    assert_eq!(finished(&mut store, "running", Some(&job(2, "running"))), None);

    let reader = store.reader();
    assert_eq!(reader.job(&key("RUNNING").folded()).unwrap().unwrap().id, JobId(2));
    assert_eq!(reader.job_by_id(JobId(1)).unwrap().unwrap().key.job.as_str(), "queued");
    let list = |query: JobsQuery| reader.jobs(&query).unwrap().iter().map(|job| job.id.0).collect::<Vec<_>>();
    let all = JobsQuery { limit: 10, ..JobsQuery::default() };
    assert_eq!(list(all.clone()), [1, 2, 3]);
    assert_eq!(list(JobsQuery { newest_first: true, limit: 2, ..all.clone() }), [3, 2]);
    assert_eq!(list(JobsQuery { newest_first: true, beyond: Some(JobId(2)), ..all.clone() }), [1]);
    assert_eq!(list(JobsQuery { beyond: Some(JobId(1)), limit: 1, ..all.clone() }), [2]);
    assert_eq!(list(JobsQuery { scope: Some("sub/rg/w/e".to_owned()), ..all.clone() }), [1, 2, 3]);
    assert_eq!(list(JobsQuery { scope: Some("sub/rg/w".to_owned()), ..all.clone() }), [0; 0]);
    assert_eq!(list(JobsQuery { experiment: Some("e".to_owned()), ..all.clone() }), [1, 2, 3]);
    let states = vec!["queued".to_owned(), "succeeded".to_owned()];
    assert_eq!(list(JobsQuery { states, ..all.clone() }), [1, 3]);
    let gang = GangId { job: JobId(2), gang: GangNo(1) };
    assert_eq!(reader.plan(gang).unwrap(), Some(vec![plan]));
    assert_eq!(reader.plan(GangId { gang: GangNo(2), ..gang }).unwrap(), None);
    let entries = reader.journal(1, 10).unwrap();
    assert_eq!(
        entries.iter().map(|e| (e.seq, e.kind.as_str())).collect::<Vec<_>>(),
        [(2, "jobStarted"), (3, "jobEnded")]
    );
    assert_eq!((entries[0].job_id, &entries[0].detail), (Some(JobId(2)), &json!({ "a": 1 })));
    assert_eq!(reader.journal(0, 1).unwrap().len(), 1);
    assert_eq!(reader.journal(u64::MAX, 10).unwrap(), []);
    drop(reader);

    parents(&mut store);
    store.check_space().unwrap();

    let mut store = reopen(store);
    assert_eq!(store.generation(), Generation(2));
    let stored = store.load().unwrap();
    assert_eq!(stored.jobs.iter().map(|job| job.id.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(stored.jobs[0].spec, job(1, "queued").spec, "secrets included");
    assert_eq!(stored.plans.iter().map(|(gang, _)| *gang).collect::<Vec<_>>(), [gang]);
    assert_eq!(stored.nodes, [(node, Epoch(4), facts)]);
    assert_eq!(stored.next_job, JobId(4));

    // A name is free once its job is deleted, even in the same batch; a number is never given again.
    let delete = |id| Change::Record(Record::DeleteJob(JobId(id)));
    store.commit(&[delete(2), put(&job(9, "running")), delete(9)]).unwrap();
    assert_eq!(store.reader().job_by_id(JobId(2)).unwrap().map(|job| job.id), None);
    assert_eq!(store.reader().plan(gang).unwrap(), None);
    assert_eq!(store.load().unwrap().next_job, JobId(10));
}

/// The finished job of this name, and whether its spec is the offered job's.
fn finished(store: &mut dyn Store, name: &str, offered: Option<&Job>) -> Option<(JobId, bool)> {
    let found = store.finished(&key(name).folded(), offered.map(|job| &job.spec)).unwrap();
    found.map(|found| (found.id, found.same_spec))
}

fn parents<S: Store>(store: &mut S) {
    let workspace = |name: &str, location: &str| Workspace {
        subscription: "Sub".to_owned(),
        resource_group: "rg".to_owned(),
        name: Name::parse(name).unwrap(),
        location: location.to_owned(),
        tags: [].into(),
        created: WallMs(1),
    };
    let experiment = |name: &str, created| Experiment {
        subscription: "Sub".to_owned(),
        resource_group: "rg".to_owned(),
        workspace: Name::parse("W").unwrap(),
        name: Name::parse(name).unwrap(),
        created: WallMs(created),
    };
    let changes = [
        Change::PutWorkspace(workspace("W", "here")),
        Change::PutWorkspace(workspace("v", "here")),
        Change::PutWorkspace(workspace("w", "there")),
        Change::PutExperiment(experiment("b", 1)),
        Change::PutExperiment(experiment("a", 1)),
        Change::PutExperiment(experiment("A", 2)),
    ];
    store.commit(&changes).unwrap();
    let reader = store.reader();
    assert_eq!(reader.workspace("sub/rg/w").unwrap().unwrap().location, "there");
    let names = |list: Vec<Workspace>| list.iter().map(Workspace::folded).collect::<Vec<_>>();
    assert_eq!(names(reader.workspaces("sub", "", 10).unwrap()), ["sub/rg/v", "sub/rg/w"]);
    assert_eq!(names(reader.workspaces("sub/rg", "sub/rg/v", 10).unwrap()), ["sub/rg/w"]);
    assert_eq!(names(reader.workspaces("sub/r", "", 10).unwrap()), [""; 0]);
    assert_eq!(reader.experiment("sub/rg/w/a").unwrap().unwrap().created, WallMs(1), "the first is kept");
    assert_eq!(reader.experiments("sub/rg/w", "", 1).unwrap()[0].name.as_str(), "a");
    assert_eq!(reader.experiments("sub/rg/w", "sub/rg/w/a", 9).unwrap()[0].name.as_str(), "b");
    store.commit(&[Change::DeleteExperiment("sub/rg/w/b".to_owned())]).unwrap();
    assert_eq!(reader.experiment("sub/rg/w/b").unwrap(), None);
    store.commit(&[Change::DeleteWorkspace("sub/rg/w".to_owned())]).unwrap();
    assert_eq!(reader.experiment("sub/rg/w/a").unwrap(), None, "experiments go with their workspace");
}

#[test]
fn memory_keeps_the_promises() {
    promises(MemoryStore::new(), |store| store.reopen());
}

#[test]
fn sqlite_keeps_the_promises() {
    let dir = tempfile::tempdir().unwrap();
    promises(SqliteStore::open(dir.path()).unwrap(), |store| {
        drop(store);
        SqliteStore::open(dir.path()).unwrap()
    });
}

#[test]
fn a_failing_commit_changes_nothing() {
    let memory = MemoryStore::new();
    let (mut store, switch) = FailingStore::new(memory.clone());
    switch.set(Failure::Full);
    assert!(matches!(store.commit(&[put(&job(1, "a"))]), Err(StoreError::Full)));
    assert!(matches!(store.check_space(), Err(StoreError::Full)));
    switch.set(Failure::Broken);
    assert!(matches!(store.commit(&[put(&job(1, "a"))]), Err(StoreError::Broken { .. })));
    switch.set(Failure::None);
    assert!(memory.reader().job_by_id(JobId(1)).unwrap().is_none());
    store.commit(&[put(&job(1, "a"))]).unwrap();
    assert!(memory.reader().job_by_id(JobId(1)).unwrap().is_some());
}

#[test]
fn half_a_batch_is_never_stored() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = SqliteStore::open(dir.path()).unwrap();
    // Two jobs of one name: an error of ours, which must leave nothing behind.
    let error = store.commit(&[put(&job(1, "a")), journal("jobSubmitted", 1), put(&job(2, "A"))]);
    assert!(matches!(error, Err(StoreError::Broken { what: "store a job", .. })), "{error:?}");
    assert!(store.reader().job_by_id(JobId(1)).unwrap().is_none());
    assert!(store.reader().journal(0, 10).unwrap().is_empty());
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn nobody_else_can_read_the_database_and_secrets_stand_apart() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("coordinator");
    let mut store = SqliteStore::open(&folder).unwrap();
    store.commit(&[put(&job(1, "a"))]).unwrap();
    assert_eq!(mode(&folder), 0o700);
    for entry in std::fs::read_dir(&folder).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()) & 0o077, 0);
    }
    let connection = rusqlite::Connection::open(folder.join("trainyard.db")).unwrap();
    let count = |table: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM {table} WHERE doc LIKE '%canary-7f3a%'");
        connection.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    assert_eq!((count("jobs"), count("job_secrets")), (0, 1));
}

fn ended_at(id: u64, at: u64) -> Job {
    let mut job = ended(id, &format!("job{id}"));
    if let JobPhase::Ended { at: end, .. } = &mut job.phase {
        *end = WallMs(i64::try_from(at).unwrap());
    }
    job
}

/// Old jobs go in small transactions, the oldest first; open ones stay whatever their age.
fn expires<S: Store>(mut store: S) {
    assert_eq!(EXPIRE_JOBS, 50, "what follows counts with it");
    let mut changes: Vec<Change> = (1..=70).map(|id| put(&ended_at(id, id))).collect();
    changes.extend([put(&job(1000, "waits")), put(&active(1001, "runs").0)]);
    changes.extend((1..=10).map(|id| journal("jobEnded", id)));
    store.commit(&changes).unwrap();

    assert!(store.expire(&Limits::default()).unwrap().is_empty());
    let limits = Limits { ended_before: Some(WallMs(61)), jobs: None, events: None };
    let first = store.expire(&limits).unwrap();
    assert_eq!(first.jobs, (1..=50).map(JobId).collect::<Vec<_>>());
    assert_eq!(store.expire(&limits).unwrap().jobs, (51..=60).map(JobId).collect::<Vec<_>>());
    assert!(store.expire(&limits).unwrap().is_empty());
    let limits = Limits { ended_before: None, jobs: Some(7), events: Some(4) };
    let last = store.expire(&limits).unwrap();
    assert_eq!((last.jobs, last.events), ((61..=63).map(JobId).collect::<Vec<_>>(), 6));
    assert!(store.expire(&limits).unwrap().is_empty());

    let all = JobsQuery { limit: 100, ..JobsQuery::default() };
    let left: Vec<u64> = store.reader().jobs(&all).unwrap().iter().map(|job| job.id.0).collect();
    assert_eq!(left, [64, 65, 66, 67, 68, 69, 70, 1000, 1001]);
    let numbers: Vec<u64> = store.reader().journal(0, 100).unwrap().iter().map(|entry| entry.seq).collect();
    assert_eq!(numbers, [7, 8, 9, 10]);
    assert_eq!(store.commit(&[journal("jobEnded", 1)]).unwrap(), [11], "a number is never given again");
    // Its name is free again, its number is not.
    assert_eq!(finished(&mut store, "job1", Some(&job(1, "job1"))), None);
    assert_eq!(store.load().unwrap().next_job, JobId(1002));
}

#[test]
fn retention_in_memory_removes_the_oldest_in_small_parts() {
    expires(MemoryStore::new());
}

#[test]
fn retention_in_sqlite_removes_the_oldest_in_small_parts() {
    let dir = tempfile::tempdir().unwrap();
    expires(SqliteStore::open(dir.path()).unwrap());
}

#[test]
fn the_secrets_of_a_job_that_has_ended_are_wiped_from_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = SqliteStore::open(dir.path()).unwrap();
    store.commit(&[put(&job(1, "a"))]).unwrap();
    store.commit(&[put(&ended(1, "a"))]).unwrap();
    assert_eq!(finished(&mut store, "a", Some(&job(1, "a"))), Some((JobId(1), true)), "by its hash");
    drop(store);
    drop(SqliteStore::open(dir.path()).unwrap());
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(11).any(|window| window == b"canary-7f3a"), "{}", path.display());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// After any history of batches and removals, both stores list the same jobs in the same states, and say the
    /// same about a repeated submit.
    #[test]
    fn both_stores_agree(steps in proptest::collection::vec((1_u64..6, 0_u8..7), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let mut sqlite = SqliteStore::open(dir.path()).unwrap();
        let mut memory = MemoryStore::new();
        for (id, what) in steps {
            let name = format!("job{id}");
            let limits = match what {
                5 => Some(Limits { jobs: Some(id), events: Some(id), ended_before: None }),
                6 => Some(Limits { ended_before: Some(WallMs(id as i64)), ..Limits::default() }),
                _ => None,
            };
            if let Some(limits) = limits {
                prop_assert_eq!(sqlite.expire(&limits).unwrap(), memory.expire(&limits).unwrap());
                continue;
            }
            let change = match what {
                0 => put(&job(id, &name)),
                1 => put(&active(id, &name).0),
                2 => put(&ended(id, &name)),
                3 => put(&ended_at(id, 6 - id)),
                _ => Change::Record(Record::DeleteJob(JobId(id))),
            };
            let changes = [change, journal("jobStarted", id)];
            prop_assert_eq!(sqlite.commit(&changes).unwrap(), memory.commit(&changes).unwrap());
        }
        let query = JobsQuery { limit: 100, ..JobsQuery::default() };
        let show = |store: &dyn Store| -> Vec<(u64, &'static str)> {
            let jobs = store.reader().jobs(&query).unwrap();
            jobs.iter().map(|job| (job.id.0, job.execution_state())).collect()
        };
        prop_assert_eq!(show(&sqlite), show(&memory));
        let numbers = |store: &dyn Store| -> Vec<u64> {
            store.reader().journal(0, 100).unwrap().iter().map(|entry| entry.seq).collect()
        };
        prop_assert_eq!(numbers(&sqlite), numbers(&memory));
        prop_assert_eq!(sqlite.load().unwrap().next_job, memory.load().unwrap().next_job);
        let open = |store: &mut dyn Store| -> Vec<_> {
            store.load().unwrap().jobs.into_iter().map(|job| (job.id, job.spec)).collect()
        };
        prop_assert_eq!(open(&mut sqlite), open(&mut memory), "secrets included");
        for id in 1..6 {
            let name = format!("job{id}");
            for (command, secret) in [("true", "canary-7f3a"), ("false", "canary-7f3a"), ("true", "x")] {
                let offered = job_with(id, &name, command, secret);
                let of_sqlite = finished(&mut sqlite, &name, Some(&offered));
                prop_assert_eq!(of_sqlite, finished(&mut memory, &name, Some(&offered)));
            }
        }
    }
}
