//! The loop over a disk that fails: nothing happens whose record is not durable.

use std::sync::atomic::{AtomicUsize, Ordering};

use trainyard_core::id::{GangId, GangNo, JobId, NodeId, Rank};
use trainyard_core::plan::task::Role;
use trainyard_core::plan::{Command as Program, NodePlan, TaskPlan};

use super::*;
use crate::journal::failing::FailingJournal;
use crate::journal::memory::MemoryJournal;
use crate::supervisor::{AttemptLimits, CgroupMode, SupervisorConfig};

const GANG: GangId = GangId { job: JobId(7), gang: GangNo(1) };

fn plan(root: &std::path::Path) -> NodePlan {
    let text = |below: &str| root.join(below).to_str().unwrap().to_owned();
    NodePlan {
        node: NodeId("node-0".into()),
        job_temp: text("jobs/w/e/j"),
        directories: vec![text("jobs/w/e/j"), text("out")],
        host_mounts: Vec::new(),
        mounted_directories: Vec::new(),
        files: Vec::new(),
        std_dir: text("out"),
        execution_log: "execution.log".into(),
        preparation: None,
        ports: Vec::new(),
        preflight: None,
        tasks: vec![TaskPlan {
            rank: Rank(0),
            role: Role::Master,
            index: 0,
            name: "master".into(),
            command: Program {
                argv: vec!["/bin/true".into()],
                env: Default::default(),
                secret_env: Default::default(),
                cwd: "/".into(),
                stdout: "stdout.txt".into(),
                stderr: "stderr.txt".into(),
            },
            gpus: Vec::new(),
        }],
        notes: Vec::new(),
    }
}

/// Starts the only task with so many commits that go well; gives what the loop said, what is durable, and
/// how many attempts have left a trace on the node.
async fn run(commits: usize) -> (Result<(), JournalError>, Vec<Record>, usize) {
    let root = tempfile::tempdir().unwrap();
    let memory = MemoryJournal::default();
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let (shim_events, mut shims) = mpsc::unbounded_channel();
    let config = SupervisorConfig {
        run_dir: root.path().join("run"),
        // It ends at once: the attempt counts as never started.
        shim: "/bin/false".into(),
        cgroups: CgroupMode::None { reason: "a test without".into() },
        limits: AttemptLimits::default(),
    };
    let supervisor = Arc::new(Supervisor::new(config, shim_events).unwrap());
    let (events, received) = mpsc::channel(QUEUE);
    let (lease_ms, _lease) = watch::channel(None);
    let (running, _running) = watch::channel(BTreeSet::new());
    let (cleaning, _clean) = watch::channel(0);
    let driver = Driver::new(Parts {
        records: Vec::new(),
        journal: FailingJournal::new(memory.clone(), Arc::clone(&left)),
        supervisor: Arc::clone(&supervisor),
        spool: Spool::start(root.path().join("spool"), "node-0".into(), 1 << 30).unwrap(),
        setup: Setup::new(root.path().to_owned(), false),
        runtime: Handle::current(),
        events: events.downgrade(),
        cleaning,
        running,
        lease_ms,
        node: Node::default(),
    });
    let looping = tokio::task::spawn_blocking(move || driver.run(received));
    let forward = events.clone();
    tokio::spawn(async move {
        while let Some(event) = shims.recv().await {
            forward.send(Event::Shim(event)).await.ok();
        }
    });
    events.send(Event::Core(agent::Event::Restarted { boot_id: "boot".into() })).await.unwrap();
    let (outbox, mut outgoing) = mpsc::unbounded_channel();
    let (reply, greeting) = oneshot::channel();
    events.send(Event::Greet { session: 1, outbox, reply }).await.unwrap();
    assert!(greeting.await.unwrap().held.is_empty());
    let (generation, epoch) = (Generation(1), Epoch(1));
    let welcome = Welcome { generation, epoch, lease_ms: 1, heartbeat_ms: 1, metrics_period_ms: 1 };
    events.send(Event::Welcomed { session: 1, welcome }).await.unwrap();
    let (reply, pong) = oneshot::channel();
    events.send(Event::Pinged(reply)).await.unwrap();
    pong.await.unwrap();

    left.store(commits, Ordering::Relaxed);
    let plan = Box::new(plan(root.path()));
    let command = Command::Prepare { gang: GANG, plan, start_when_prepared: true, lease_ms: 0 };
    events.send(Event::Commanded { session: 1, generation, epoch, command }).await.unwrap();
    // Until the gang is over, or the loop has died and with it the outbox.
    while let Some(Outgoing::Reports(reports)) = outgoing.recv().await {
        if reports.contains(&Report::GangEnded(GANG)) {
            events.send(Event::Shutdown).await.unwrap();
        }
    }
    let result = looping.await.unwrap();
    let traces = supervisor.list().unwrap().len();
    (result, memory.records(), traces)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_disk_that_works_the_task_is_tried_once_and_reported() {
    let (result, records, _) = run(usize::MAX).await;
    assert!(result.is_ok());
    assert!(records.contains(&Record::StartIntended(GANG)));
    assert!(records.iter().any(|record| matches!(record, Record::Ended(_))), "{records:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_24_a_start_whose_intent_cannot_be_written_does_not_happen() {
    // The plan is written, the intent is not.
    let (result, records, traces) = run(1).await;
    assert!(matches!(result, Err(JournalError::Io { .. })));
    assert!(matches!(records.last(), Some(Record::Planned { .. })), "{records:?}");
    assert_eq!(traces, 0, "something was launched");
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_24_a_plan_that_cannot_be_written_is_not_set_up() {
    let (result, records, traces) = run(0).await;
    assert!(result.is_err() && !records.iter().any(|record| matches!(record, Record::Planned { .. })));
    assert_eq!(traces, 0);
}
