//! The agent with real shims against a small coordinator in this process, over real gRPC on loopback.

mod coordinator;
mod node;
#[path = "../shim/yard.rs"]
#[expect(dead_code, reason = "only the shim's binary is needed here")]
mod yard;

use std::collections::BTreeSet;

use trainyard_agent::local;
use trainyard_core::id::{Generation, Rank};
use trainyard_core::plan::task::PlannedFile;
use trainyard_core::session::{Command, EndCause, GangPhase, PrepareFailure, Report};
use trainyard_core::unit::{Exit, Port};
use trainyard_proto::v1;

use coordinator::Coordinator;
use node::{GANG, TestNode};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_prepared_started_and_ended_with_all_its_logs() {
    let mut coordinator = Coordinator::start(1);
    let node = TestNode::new(&coordinator);
    let agent = node.start();
    let mut session = coordinator.session().await;
    assert_eq!(session.hello.held, []);

    let mut plan = node.plan(&[
        "cat $D/prepared; i=0; while [ $i -lt 300 ]; do printf '%04096d\\n' $i; i=$((i+1)); done; echo oops >&2",
        "printf 'no newline\\0\\377'; echo $SECRET | wc -c",
    ]);
    plan.preparation = Some(node.program("prep", "echo preparing; echo ready > $D/prepared"));
    plan.files = vec![PlannedFile { path: node.text("hostfile"), content: "a\n".into() }];
    session.prepare(plan.clone(), false).await;
    assert_eq!(session.report().await, Report::Prepared(GANG));
    session.command(Command::Start(GANG)).await;

    let mut started = BTreeSet::new();
    let mut ended = Vec::new();
    loop {
        match session.report().await {
            Report::Started { attempt, .. } => assert!(started.insert(attempt)),
            Report::Ended(end) => ended.push(end),
            Report::GangEnded(gang) => {
                assert_eq!(gang, GANG);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((started.len(), ended.len()), (2, 2));
    assert!(ended.iter().all(|end| end.exit == Exit::Code(0) && end.cause == EndCause::Itself), "{ended:?}");
    let first = ended.iter().find(|end| end.attempt.rank == Rank(0)).unwrap();
    assert_eq!(first.stderr_tail, "oops\n");

    let mut whole = b"ready\n".to_vec();
    (0..300).for_each(|i| whole.extend(format!("{i:04096}\n").into_bytes()));
    let second = b"no newline\0\xff7\n".to_vec();
    for (file, wanted) in
        [("stdout-0.txt", whole), ("stdout-1.txt", second), ("stdout-prep.txt", b"preparing\n".into())]
    {
        assert!(coordinator.log(GANG, file).await == wanted, "{file} differs at the coordinator");
        assert!(
            std::fs::read(node.path("out/stdouterr").join(file)).unwrap() == wanted,
            "{file} differs in std_dir"
        );
    }
    session.command(Command::EndedAck(started.into_iter().collect())).await;
    session.command(Command::Release(GANG)).await;
    let steps = String::from_utf8(coordinator.log(GANG, "execution.log").await).unwrap();
    for step in [
        "plan: received",
        "hostfile is written",
        "preparation: ended with exit code 0",
        "worker-1: started, pid",
        "cleaned up",
    ] {
        assert!(steps.contains(step), "no `{step}` in\n{steps}");
    }
    assert!(!steps.contains("canary"), "a secret is in the log");
    agent.end().await;
    assert!(!node.file_names("root/run").iter().any(|name| name.starts_with("7.1.")), "run folders are left");
    assert!(!node.journal().contains("canary"), "a secret is on disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_what_runs_and_keeps_what_does_not_run_from_running() {
    let mut coordinator = Coordinator::start(1);
    let node = TestNode::new(&coordinator);
    let agent = node.start();
    let mut session = coordinator.session().await;
    session
        .prepare(
            node.plan(&["exec sleep 1000", "trap '' TERM; echo deaf; while :; do sleep 1000; done"]),
            true,
        )
        .await;
    let mut pids = BTreeSet::new();
    while pids.len() < 2 {
        if let Report::Started { pid, .. } = session.report().await {
            pids.insert(pid);
        }
    }
    // The trap must be set before the signal comes.
    coordinator.log_holds(GANG, "stdout-1.txt", b"deaf\n").await;
    session.command(Command::Stop { gang: GANG, grace_ms: 100, reason: "test".into() }).await;
    let mut exits = BTreeSet::new();
    loop {
        match session.report().await {
            Report::Ended(end) => {
                assert_eq!(end.cause, EndCause::Stopped);
                exits.insert(format!("{:?}", end.exit));
            }
            Report::GangEnded(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(exits, BTreeSet::from(["Signal(15)".to_owned(), "Signal(9)".to_owned()]));

    let other = trainyard_core::id::GangId { gang: trainyard_core::id::GangNo(2), ..GANG };
    session.command(Command::Stop { gang: other, grace_ms: 100, reason: "test".into() }).await;
    assert_eq!(session.report().await, Report::GangEnded(other));
    session.prepare_gang(other, node.plan(&["echo never > $D/ran"]), true).await;
    assert_eq!(session.report().await, Report::GangEnded(other));
    assert!(!node.path("ran").exists());
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_coordinator_finds_the_task_and_an_older_one_is_refused() {
    let mut first = Coordinator::start(5);
    let node = TestNode::new(&first);
    let agent = node.start();
    let mut session = first.session().await;
    node.make_gate();
    session.prepare(node.plan(&["echo before; read line < $D/gate; echo after; exit 3"]), true).await;
    let Report::Started { pid, .. } = session.report().await else { panic!("not started") };
    let address = first.kill().await;

    let mut older = Coordinator::start_at(address, 4);
    let mut session = older.session().await;
    assert_eq!(session.hello.last_generation, Generation(5));
    assert!(
        session.is_left().await,
        "the agent stays with a coordinator that is older than what it has obeyed"
    );
    let address = older.kill().await;

    let mut second = Coordinator::start_at(address, 6);
    let mut session = second.session().await;
    let held = &session.hello.held[0];
    assert_eq!((held.gang, held.phase), (GANG, GangPhase::Running));
    assert_eq!(held.attempts[0].started.unwrap().0, pid, "it is the same process");
    node.open_gate().await;
    let Report::Ended(end) = session.report().await else { panic!("no end") };
    assert_eq!((end.exit, end.cause), (Exit::Code(3), EndCause::Itself));
    assert_eq!(second.log(GANG, "stdout-0.txt").await, b"before\nafter\n");
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_back_adopts_what_runs_and_what_has_ended() {
    let mut coordinator = Coordinator::start(1);
    let node = TestNode::new(&coordinator);
    let agent = node.start();
    let mut session = coordinator.session().await;
    node.make_gate();
    // The first ends while no agent is there, the second after the next one came.
    let plan =
        node.plan(&["read line < $D/gate; echo one; exit 4", "read line < $D/gate2; echo two; exit 5"]);
    session.prepare(plan, true).await;
    let mut pids = BTreeSet::new();
    while pids.len() < 2 {
        if let Report::Started { pid, .. } = session.report().await {
            pids.insert(pid);
        }
    }
    agent.end().await;
    assert!(
        pids.iter().all(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists()),
        "a task was ended"
    );
    node.open_gate().await;
    node.has_exit_record(GANG.attempt(Rank(0))).await;

    let agent = node.start();
    let mut session = coordinator.session().await;
    let held = session.hello.held.clone();
    assert_eq!((held[0].gang, held[0].phase, held.len()), (GANG, GangPhase::Running, 1));
    let ends = |held: &trainyard_core::session::HeldGang| {
        held.attempts.iter().filter_map(|attempt| attempt.ended.clone()).collect::<Vec<_>>()
    };
    // The Hello may be faster than the adoption: then a report follows.
    let mut ended = ends(&held[0]);
    if ended.is_empty() {
        let Report::Ended(end) = session.report().await else { panic!("no end") };
        ended.push(end);
    }
    assert_eq!((ended[0].attempt.rank, ended[0].exit), (Rank(0), Exit::Code(4)));
    node.open_second_gate().await;
    let Report::Ended(end) = session.report().await else { panic!("no end") };
    assert_eq!((end.attempt.rank, end.exit), (Rank(1), Exit::Code(5)));
    assert_eq!(session.report().await, Report::GangEnded(GANG));
    assert_eq!(coordinator.log(GANG, "stdout-0.txt").await, b"one\n");
    assert_eq!(coordinator.log(GANG, "stdout-1.txt").await, b"two\n");
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn taken_ports_and_failing_preparations_start_nothing() {
    let mut coordinator = Coordinator::start(1);
    let node = TestNode::new(&coordinator);
    let agent = node.start();
    let mut session = coordinator.session().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = Port(listener.local_addr().unwrap().port());
    let mut plan = node.plan(&["echo never > $D/ran"]);
    plan.ports = vec![taken];
    session.prepare(plan, true).await;
    let Report::PrepareFailed(failed) = session.report().await else { panic!("prepared") };
    assert_eq!(failed.kind, PrepareFailure::PortsTaken(vec![taken]));
    session.command(Command::Release(GANG)).await;

    let second = trainyard_core::id::GangId { gang: trainyard_core::id::GangNo(2), ..GANG };
    let mut plan = node.plan(&["echo never > $D/ran"]);
    plan.preparation = Some(node.program("prep", "echo why >&2; exit 9"));
    session.prepare_gang(second, plan, true).await;
    let Report::PrepareFailed(failed) = session.report().await else { panic!("prepared") };
    assert_eq!(failed.kind, PrepareFailure::Command(Exit::Code(9)));
    assert!(failed.message.contains("why"), "{}", failed.message);
    session.command(Command::Release(second)).await;

    let third = trainyard_core::id::GangId { gang: trainyard_core::id::GangNo(3), ..GANG };
    let mut plan = node.plan(&[""]);
    plan.tasks[0].command.argv = vec!["/no/such/program".into()];
    session.prepare_gang(third, plan, true).await;
    let Report::Ended(end) = session.report().await else { panic!("started") };
    assert_eq!(end.cause, EndCause::NotStarted);
    assert!(end.message.contains("/no/such/program"), "{}", end.message);
    assert_eq!(session.report().await, Report::GangEnded(third));
    assert!(!node.path("ran").exists());
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_served_and_the_local_socket_tells_what_runs() {
    let mut coordinator = Coordinator::start(1);
    let node = TestNode::new(&coordinator);
    let agent = node.start();
    let mut session = coordinator.session().await;
    node.make_gate();
    session.prepare(node.plan(&["echo model > $D/out/stdouterr/model.txt; read line < $D/gate"]), true).await;
    let Report::Started { pid, .. } = session.report().await else { panic!("not started") };

    let root = node.path("root");
    let ask = |request| {
        let root = root.clone();
        tokio::task::spawn_blocking(move || local::Client::connect(&root)?.ask(&request))
    };
    let local::Answer::Status(status) = ask(local::Request::Status).await.unwrap().unwrap() else {
        panic!("status")
    };
    assert!(status.connected && status.gangs[0].running == 1, "{status:?}");
    let local::Answer::Tasks(tasks) = ask(local::Request::Tasks).await.unwrap().unwrap() else {
        panic!("tasks")
    };
    assert_eq!(
        (tasks[0].name.as_str(), tasks[0].pid, tasks[0].state.as_str()),
        ("worker-0", Some(pid), "running")
    );
    let env = ask(local::Request::Env { task: "worker-0".into() }).await.unwrap().unwrap();
    let local::Answer::Env(env) = env else { panic!("env") };
    assert_eq!((env.secrets.as_slice(), env.env.contains_key("D")), (&["SECRET".to_owned()][..], true));
    assert!(!format!("{env:?}").contains("canary"));
    let none = ask(local::Request::Logs { task: "ps-9".into() }).await.unwrap();
    assert!(none.unwrap_err().to_string().contains("worker-0"));

    node.open_gate().await;
    while session.report().await != Report::GangEnded(GANG) {}
    session.command(Command::Release(GANG)).await;
    let std_dir = node.path("out/stdouterr").to_str().unwrap().to_owned();
    let read = |directory: &str, path: &str| v1::FileRequest {
        id: 9,
        gang: Some(GANG.into()),
        directory: directory.into(),
        path: path.into(),
        what: Some(v1::file_request::What::Read(v1::FileRange { offset: 0, length: 100 })),
    };
    let reply = session.ask_file(read(&std_dir, "model.txt")).await;
    assert_eq!((&reply.data[..], reply.error.as_str()), (&b"model\n"[..], ""), "of a released gang, too");
    let reply = session.ask_file(read("/etc", "passwd")).await;
    assert!(reply.data.is_empty() && reply.error.contains("not found"), "{reply:?}");
    agent.end().await;
}
