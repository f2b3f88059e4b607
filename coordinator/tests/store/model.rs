//! SQLite against the store in memory: any sequence of batches, restarts, power cuts and crashes before a commit
//! gives the same answers.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};
use trainyard_coordinator::store::{
    Change, Experiment, JobsQuery, Limits, MemoryStore, SqliteStore, Store, Workspace,
};
use trainyard_core::coordinator::Record;
use trainyard_core::coordinator::effect::JournalEntry;
use trainyard_core::coordinator::recovery::{Adoption, Lost};
use trainyard_core::id::{Epoch, Generation, JobId, NodeId};
use trainyard_core::text::{Name, Secret};
use trainyard_core::unit::WallMs;

use crate::fixture::*;

/// Jobs, workspaces and nodes that the sequences speak of.
const NAMES: u64 = 6;

#[derive(Clone, Debug)]
enum One {
    Queued(u64),
    Active(u64),
    Ended(u64),
    Delete(u64),
    Node(u64),
    Workspace(u64),
    Experiment(u64),
    DeleteWorkspace(u64),
    DeleteExperiment(u64),
    Adopt,
}

#[derive(Clone, Debug)]
enum Act {
    Commit(Vec<One>),
    /// The batch is made, and the process is gone before the commit.
    CrashBeforeCommit(Vec<One>),
    Restart,
    /// What is on the disk while the store is open is all that is left.
    PowerCut,
    Expire { before: Option<i64>, jobs: Option<u64>, events: Option<u64> },
}

fn one() -> impl Strategy<Value = One> {
    let n = 1..=NAMES;
    prop_oneof![
        3 => n.clone().prop_map(One::Queued),
        3 => n.clone().prop_map(One::Active),
        3 => n.clone().prop_map(One::Ended),
        2 => n.clone().prop_map(One::Delete),
        1 => n.clone().prop_map(One::Node),
        1 => n.clone().prop_map(One::Workspace),
        1 => n.clone().prop_map(One::Experiment),
        1 => n.clone().prop_map(One::DeleteWorkspace),
        1 => n.prop_map(One::DeleteExperiment),
        1 => Just(One::Adopt),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let batch = || proptest::collection::vec(one(), 1..6);
    let some = proptest::option::of(0_u64..5);
    prop_oneof![
        8 => batch().prop_map(Act::Commit),
        1 => batch().prop_map(Act::CrashBeforeCommit),
        1 => Just(Act::Restart),
        1 => Just(Act::PowerCut),
        2 => (proptest::option::of(0_i64..20), some.clone(), some)
            .prop_map(|(before, jobs, events)| Act::Expire { before, jobs, events }),
    ]
}

/// Both stores, and where the one in SQLite lies.
struct Pair {
    folders: tempfile::TempDir,
    folder: PathBuf,
    starts: u32,
    sqlite: Option<SqliteStore>,
    memory: MemoryStore,
}

impl Pair {
    fn new() -> Pair {
        let folders = tempfile::tempdir().unwrap();
        let folder = folders.path().join("0");
        let sqlite = Some(SqliteStore::open(&folder).unwrap());
        Pair { folders, folder, starts: 0, sqlite, memory: MemoryStore::new() }
    }

    fn sqlite(&mut self) -> &mut SqliteStore {
        self.sqlite.as_mut().unwrap()
    }

    fn reopen(&mut self) {
        drop(self.sqlite.take());
        self.sqlite = Some(SqliteStore::open(&self.folder).unwrap());
        self.memory = self.memory.reopen();
    }

    fn cut_power(&mut self) {
        self.starts += 1;
        let next = self.folders.path().join(self.starts.to_string());
        copy_files(&self.folder, &next);
        self.folder = next;
        self.reopen();
    }

    fn changes(&mut self, batch: &[One]) -> Vec<Change> {
        let next = self.memory.load().unwrap().next_job;
        let generation = self.memory.generation();
        batch.iter().flat_map(|one| changes(one, generation, next)).collect()
    }
}

/// The database's files as they are on the disk now, however open they are.
pub(crate) fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in ["trainyard.db", "trainyard.db-wal", "database-was-made"] {
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

fn changes(one: &One, generation: Generation, next: JobId) -> Vec<Change> {
    let name = |n: u64| format!("job{n}");
    let entry = |id| journal("jobStarted", id);
    let text = "sub".to_owned();
    let workspace = |n: u64| Workspace {
        subscription: text.clone(),
        resource_group: "rg".to_owned(),
        name: Name::parse(&format!("w{n}")).unwrap(),
        location: format!("place {generation}"),
        tags: [].into(),
        created: WallMs(1),
    };
    match *one {
        One::Queued(n) => vec![put(&job(n, &name(n))), entry(n)],
        One::Active(n) => {
            let (job, plan) = active(n, &name(n));
            let gang = trainyard_core::id::GangId { job: job.id, gang: trainyard_core::id::GangNo(1) };
            vec![Change::Record(Record::PutPlan { gang, nodes: vec![plan] }), put(&job), entry(n)]
        }
        One::Ended(n) => vec![put(&ended_at(n, &name(n), n as i64 * 3)), entry(n)],
        One::Delete(n) => vec![Change::Record(Record::DeleteJob(JobId(n))), entry(n)],
        One::Node(n) => {
            let node = NodeId(format!("node-{n}"));
            vec![Change::Record(Record::PutNode { node, epoch: Epoch(generation.0), facts: facts() })]
        }
        One::Workspace(n) => vec![Change::PutWorkspace(workspace(n))],
        One::Experiment(n) => {
            let experiment = Experiment {
                subscription: text.clone(),
                resource_group: "rg".to_owned(),
                workspace: workspace(n).name,
                name: Name::parse("e").unwrap(),
                created: WallMs(generation.0 as i64),
            };
            // As `rest` does it: an experiment stands in a workspace.
            vec![Change::PutWorkspace(workspace(n)), Change::PutExperiment(experiment)]
        }
        One::DeleteWorkspace(n) => vec![Change::DeleteWorkspace(format!("sub/rg/w{n}"))],
        One::DeleteExperiment(n) => vec![Change::DeleteExperiment(format!("sub/rg/w{n}/e"))],
        One::Adopt => {
            let to = JobId(next.0 + 10);
            let gang = trainyard_core::id::GangId { job: next, gang: trainyard_core::id::GangNo(1) };
            let entry = JournalEntry {
                at: WallMs(4),
                kind: "recovered",
                job_id: None,
                job: None,
                node: None,
                detail: json!({}),
            };
            let adoption = Adoption {
                generation: Generation(generation.0 + 1),
                next_job: to,
                lost: vec![Lost { from: next, to }],
                jobs: vec![],
                foreign: [(NodeId("node-1".to_owned()), [gang].into())].into(),
                entry: entry.clone(),
            };
            vec![Change::Adopt(Box::new(adoption)), Change::Record(Record::Journal(entry))]
        }
    }
}

/// Everything that can be asked, as text.
fn answers(store: &mut dyn Store) -> Value {
    let stored = store.load().unwrap();
    let reader = store.reader();
    let all = JobsQuery { limit: 100, ..JobsQuery::default() };
    let listed: Vec<Value> = reader.jobs(&all).unwrap().iter().map(|job| json!(job)).collect();
    let plans: Vec<Value> = (1..=NAMES)
        .map(|n| {
            let gang = trainyard_core::id::GangId { job: JobId(n), gang: trainyard_core::id::GangNo(1) };
            json!(reader.plan(gang).unwrap())
        })
        .collect();
    let entries = reader.journal(0, 1000).unwrap();
    let entries: Vec<Value> = entries.iter().map(|e| json!([e.seq, e.kind, e.job_id, e.detail])).collect();
    let secret = |job: &trainyard_core::coordinator::state::Job| {
        job.spec.secrets[0].value.as_ref().map(|secret| secret.expose().to_owned())
    };
    let mut finished = Vec::new();
    for n in 1..=NAMES {
        let name = format!("job{n}");
        let same = job(n, &name).spec;
        let mut other = same.clone();
        other.secrets[0].value = Some(Secret::new("another".to_owned()));
        let folded = key(&name).folded();
        for offered in [None, Some(&same), Some(&other)] {
            let found = store.finished(&folded, offered).unwrap();
            finished.push(json!(found.map(|found| (found.id, found.same_spec))));
        }
    }
    let numbers = reader.numbers().unwrap();
    json!({
        "generation": store.generation(),
        "jobs": listed,
        "open": stored.jobs.iter().map(|job| json!([job, secret(job)])).collect::<Vec<_>>(),
        "livePlans": stored.plans.iter().map(|(gang, nodes)| json!([gang, nodes])).collect::<Vec<_>>(),
        "nodes": stored.nodes.iter().map(|(node, epoch, facts)| json!([node, epoch, facts])).collect::<Vec<_>>(),
        "nextJob": stored.next_job,
        "lost": stored.lost,
        "foreign": stored.foreign.iter().collect::<Vec<_>>(),
        "numbers": [json!(numbers.next_job), json!(numbers.lost), json!(numbers.restored)],
        "plans": plans,
        "journal": entries,
        "finished": finished,
        "workspaces": reader.workspaces("sub", "", 100).unwrap(),
        "experiments": (1..=NAMES).map(|n| reader.experiments(&format!("sub/rg/w{n}"), "", 9).unwrap()).collect::<Vec<_>>(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn n1_any_history_gives_the_same_answers_in_sqlite_and_in_memory(acts in proptest::collection::vec(act(), 1..25)) {
        let mut pair = Pair::new();
        for act in &acts {
            match act {
                Act::Commit(batch) => {
                    let changes = pair.changes(batch);
                    let sequence = pair.memory.commit(&changes).unwrap();
                    prop_assert_eq!(pair.sqlite().commit(&changes).unwrap(), sequence);
                }
                Act::CrashBeforeCommit(batch) => {
                    drop(pair.changes(batch));
                    pair.cut_power();
                }
                Act::Restart => pair.reopen(),
                Act::PowerCut => pair.cut_power(),
                Act::Expire { before, jobs, events } => {
                    let limits = Limits { ended_before: before.map(WallMs), jobs: *jobs, events: *events };
                    let expired = pair.memory.expire(&limits).unwrap();
                    prop_assert_eq!(pair.sqlite().expire(&limits).unwrap(), expired);
                }
            }
            let expected = answers(&mut pair.memory);
            prop_assert_eq!(answers(pair.sqlite()), expected);
        }
    }
}
