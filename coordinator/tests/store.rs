//! One list of promises, kept by the store in memory and by the one in SQLite; and what only SQLite has.

use std::path::Path;

use proptest::prelude::*;
use serde_json::json;
use trainyard_coordinator::store::{
    Change, Experiment, FailingStore, Failure, JobsQuery, MemoryStore, OpenError, SqliteStore, Store,
    StoreError, Workspace,
};
use trainyard_core::coordinator::effect::JournalEntry;
use trainyard_core::coordinator::reason::EndReason;
use trainyard_core::coordinator::state::{Gang, GangNode, Job, JobPhase, NodePhase};
use trainyard_core::coordinator::{JobKey, Record};
use trainyard_core::id::{Epoch, GangId, GangNo, Generation, JobId, NodeId};
use trainyard_core::plan::{NodePlan, PortSpace};
use trainyard_core::session::NodeFacts;
use trainyard_core::spec;
use trainyard_core::text::Name;
use trainyard_core::unit::{Tick, WallMs};

fn key(job: &str) -> JobKey {
    JobKey {
        subscription: "Sub".to_owned(),
        resource_group: "rg".to_owned(),
        workspace: Name::parse("W").unwrap(),
        experiment: Name::parse("e").unwrap(),
        job: Name::parse(job).unwrap(),
    }
}

fn job(id: u64, name: &str) -> Job {
    let document = json!({ "properties": {
        "cluster": { "id": "/subscriptions/Sub/resourceGroups/rg/providers/Microsoft.BatchAI/workspaces/W/clusters/default" },
        "nodeCount": 1,
        "customToolkitSettings": { "commandLine": "true" },
        "stdOutErrPathPrefix": "$AZ_BATCHAI_JOB_TEMP_DIR",
        "secrets": [{ "name": "PASSWORD", "value": "canary-7f3a" }],
    }});
    let options = spec::Options { source: spec::Source::RestBody, ..Default::default() };
    Job {
        id: JobId(id),
        key: key(name),
        uuid: "u".to_owned(),
        spec: spec::read(document.to_string().as_bytes(), &options).unwrap().spec,
        created: WallMs(1),
        transition: WallMs(2),
        started: None,
        phase: JobPhase::Queued { not_before: None },
        gangs: 0,
        retries_used: 0,
        infrastructure_faults: 0,
        taken_ports: vec![],
        cancelled: false,
        delete_when_ended: false,
        history: vec![],
    }
}

fn active(id: u64, name: &str) -> (Job, NodePlan) {
    let gang = GangId { job: JobId(id), gang: GangNo(1) };
    let node = NodeId("node-0".to_owned());
    let phase = JobPhase::Active(Box::new(Gang {
        id: gang,
        nodes: vec![GangNode { node: node.clone(), phase: NodePhase::Preparing, space: None }],
        tasks: vec![],
        lease_ms: 5,
        deadline: Tick(0),
        outcome: None,
    }));
    let plan = NodePlan {
        node,
        job_temp: "/t".to_owned(),
        directories: vec![],
        host_mounts: vec![],
        mounted_directories: vec![],
        files: vec![],
        std_dir: "/s".to_owned(),
        execution_log: "execution.log".to_owned(),
        preparation: None,
        ports: vec![],
        tasks: vec![],
        notes: vec![],
    };
    (Job { phase, gangs: 1, ..job(id, name) }, plan)
}

fn ended(id: u64, name: &str) -> Job {
    let phase = JobPhase::Ended { reason: EndReason::Succeeded, at: WallMs(9), tasks: vec![], gang: None };
    Job { phase, ..job(id, name) }
}

fn put(job: &Job) -> Change {
    Change::Record(Record::PutJob(Box::new(job.clone())))
}

fn journal(kind: &'static str, job: u64) -> Change {
    Change::Record(Record::Journal(JournalEntry {
        at: WallMs(3),
        kind,
        job_id: Some(JobId(job)),
        job: Some("j".to_owned()),
        node: None,
        detail: json!({ "a": 1 }),
    }))
}

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

    let finished = store.finished(&key("DONE").folded()).unwrap().unwrap();
    assert_eq!(finished.id, JobId(3));
    assert_eq!(finished.spec, job(3, "done").spec, "secrets included");
    assert!(store.finished(&key("running").folded()).unwrap().is_none());

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

#[test]
fn a_second_opener_is_refused_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    assert!(matches!(SqliteStore::open(dir.path()), Err(OpenError::Locked(_))));
    drop(store);
    assert!(SqliteStore::open(dir.path()).is_ok());
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

#[test]
fn damage_and_later_versions_are_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(dir.path()).unwrap());
    let path = dir.path().join("trainyard.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute("INSERT INTO refinery_schema_history (version, name, applied_on, checksum) VALUES (99, 'x', '2030-01-01T00:00:00Z', '1')", [])
        .unwrap();
    drop(connection);
    assert!(matches!(SqliteStore::open(dir.path()), Err(OpenError::Newer { found: 99, .. })));

    std::fs::write(
        &path,
        "this is no database, whatever its name says, and it is long enough to be looked at",
    )
    .unwrap();
    assert!(matches!(SqliteStore::open(dir.path()), Err(OpenError::Damaged { .. })));

    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir_all(dir.path().join("logs/1.1")).unwrap();
    let error = SqliteStore::open(dir.path()).err().unwrap();
    assert!(matches!(error, OpenError::Missing { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// After any history of batches, both stores list the same jobs in the same states.
    #[test]
    fn both_stores_agree(steps in proptest::collection::vec((1_u64..6, 0_u8..4), 1..30)) {
        let dir = tempfile::tempdir().unwrap();
        let mut sqlite = SqliteStore::open(dir.path()).unwrap();
        let mut memory = MemoryStore::new();
        for (id, what) in steps {
            let name = format!("job{id}");
            let change = match what {
                0 => put(&job(id, &name)),
                1 => put(&active(id, &name).0),
                2 => put(&ended(id, &name)),
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
        prop_assert_eq!(sqlite.load().unwrap().next_job, memory.load().unwrap().next_job);
        prop_assert_eq!(sqlite.load().unwrap().jobs.len(), memory.load().unwrap().jobs.len());
    }
}
