//! What a client and an agent see when a coordinator dies at the worst moment, when its database goes back, and
//! when old jobs are removed.

mod support;

use std::sync::Arc;

use serde_json::{Value, json};
use support::*;
use trainyard_coordinator::clock::RealClock;
use trainyard_coordinator::store::{FailingStore, Failure, SqliteStore, backup, restore};
use trainyard_coordinator::{Retention, serve, serve_on};
use trainyard_core::id::{GangId, Generation, Rank};
use trainyard_core::session::{Command, GangPhase, HeldAttempt, HeldGang, Hello, Report};
use trainyard_core::unit::WallMs;
use trainyard_proto::convert::{Down, hello_to_wire};

async fn job_numbers(yard: &Yard) -> Vec<u64> {
    let jobs = yard.get("/api/v1/jobs").await;
    jobs["value"].as_array().unwrap().iter().map(|job| job["jobId"].as_u64().unwrap()).collect()
}

fn with_secret(value: &str) -> Value {
    let mut body = job("true");
    body["properties"]["secrets"][0]["value"] = json!(value);
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_02_gone_between_commit_and_reply_the_same_submit_again_gives_the_same_job() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let (store, switch) = FailingStore::new(SqliteStore::open(&config.folder()).unwrap());
    let clock = Arc::new(RealClock::new());
    let yard = Yard::start_with(|ready, stop| serve_on(config, Box::new(store), clock, ready, stop)).await;
    // Workspace and experiment are there, so that the next commit is the job's.
    yard.submit("first", &job("true")).await;
    switch.set(Failure::GoneAfterCommit);
    let request = yard.request("PUT", &job_path("j")).body(job("true").to_string());
    // The answer may be cut off with the connection; it is no success.
    if let Ok(response) = request.send().await {
        assert_eq!(response.status(), 503);
    }
    yard.end().await.unwrap_err();

    let yard = Yard::start(dir.path()).await;
    assert_eq!(job_numbers(&yard).await, [2, 1], "the commit stands");
    assert_eq!(yard.submit("j", &job("true")).await, 200, "it is there already");
    assert_eq!(job_numbers(&yard).await, [2, 1], "no second job");
    let (status, _) = yard.call("PUT", &job_path("j"), Some(job("false"))).await;
    assert_eq!(status, 409);
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn n1_the_same_submit_is_the_same_job_until_it_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    let mut agent = Agent::join(&yard, "node-0").await;
    yard.submit("j", &job("true")).await;
    assert_eq!(yard.submit("j", &job("true")).await, 200, "while it is open");
    let (gang, _) = agent.start().await;
    agent.finish(gang, 0).await;
    // What is left out is what is filled in.
    let mut written_out = job("true");
    written_out["properties"]["constraints"] = json!({ "maxWallClockTime": "P7D" });
    for same in [job("true"), written_out] {
        assert_eq!(yard.submit("J", &same).await, 200, "once it has ended: {same}");
    }
    for other in [job("false"), with_secret("another")] {
        let (status, error) = yard.call("PUT", &job_path("j"), Some(other)).await;
        assert_eq!((status, error["error"]["code"].as_str()), (409, Some("JobAlreadyExists")));
        assert!(!error.to_string().contains("another\""), "{error}");
    }
    assert_eq!(job_numbers(&yard).await, [1]);
    assert_eq!(yard.call("DELETE", &job_path("j"), None).await.0, 202);
    assert_eq!(yard.submit("j", &job("false")).await, 202, "the name is free");
    assert_eq!(job_numbers(&yard).await, [2], "the number is not");
    yard.stop().await.unwrap();
}

fn running(gang: GangId) -> HeldGang {
    let attempt =
        HeldAttempt { attempt: gang.attempt(Rank(0)), started: Some((4711, WallMs(1))), ended: None };
    HeldGang { gang, phase: GangPhase::Running, prepare_failed: None, attempts: vec![attempt] }
}

/// The words with which an agent is refused.
async fn refused(yard: &Yard, hello: Hello) -> String {
    match Agent::connect(yard, hello_to_wire(hello, inventory())).await.1 {
        Down::Refused { reason } => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_17_after_a_restore_nothing_is_decided_before_an_operator_has_looked() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, file) = (config(dir.path()).folder(), dir.path().join("backup.db"));
    let yard = Yard::start(dir.path()).await;
    let mut a = Agent::join(&yard, "node-0").await;
    yard.submit("known", &job("sleep 1000")).await;
    let (known, _) = a.start().await;
    while yard.job("known").await["properties"]["trainyard"]["tasks"][0]["state"] != "running" {
        tokio::task::yield_now().await;
    }
    let mut b = Agent::join(&yard, "node-1").await;
    backup(&folder, &file, false).unwrap();
    yard.submit("lost", &job("sleep 1000")).await;
    let (lost, _) = b.start().await;
    assert_eq!((known.job.0, lost.job.0), (1, 2));
    yard.stop().await.unwrap();
    restore(&folder, &file).unwrap();

    // Who knows more is refused, and what it holds is shown.
    let yard = Yard::start(dir.path()).await;
    let of_a = Hello { last_generation: Generation(9), ..hello("node-0", vec![running(known)]) };
    let of_b = Hello { last_generation: Generation(1), ..hello("node-1", vec![running(lost)]) };
    assert!(refused(&yard, of_a.clone()).await.contains("trainyard coordinator recover"));
    let (status, error) = yard.call("PUT", &job_path("new"), Some(job("true"))).await;
    assert_eq!((status, error["error"]["code"].as_str()), (503, Some("RecoveryNeeded")), "{error}");
    let (status, error) = yard.call("POST", "/api/v1/recovery/adopt", None).await;
    assert_eq!(status, 409);
    assert!(error.to_string().contains("node-1"), "what it holds is not known: {error}");
    assert!(refused(&yard, of_b.clone()).await.contains("2.1"));
    assert_eq!(yard.state("known").await, "running", "nothing is given up meanwhile");
    let shown = yard.get("/api/v1/recovery").await;
    assert_eq!(shown["needed"], true);
    let after: Vec<&Value> =
        shown["nodes"].as_array().unwrap().iter().map(|node| &node["gangs"][0]["after"]).collect();
    assert_eq!(after, [&json!("live"), &json!("foreign")], "{shown:#}");

    // Adopted: above every generation, and beyond every number.
    let (status, adopted) = yard.call("POST", "/api/v1/recovery/adopt", None).await;
    assert_eq!(status, 200, "{adopted}");
    assert_eq!(adopted, json!({ "generation": 10, "nextJob": 1_000_001, "foreign": 1 }));
    let mut a = Agent::join_with(&yard, of_a).await;
    let mut b = Agent::join_with(&yard, of_b).await;
    assert_eq!((a.generation, b.generation), (10, 10));
    yard.submit("lost", &job("true")).await;
    assert_eq!(job_numbers(&yard).await, [1_000_001, 1], "no number is given twice");
    assert_eq!(yard.get("/api/v1/nodes/node-1").await["state"], "unusable", "it holds foreign work");
    a.finish(known, 0).await;
    assert_eq!(yard.state("known").await, "succeeded", "what is known is taken over");
    let (new, _) = a.start().await;
    assert_eq!(new.job.0, 1_000_001);

    // Foreign work ends by itself; its result is in the event log, and its node is free again.
    b.report(vec![Report::Ended(ended(lost, 5)), Report::GangEnded(lost)]).await;
    loop {
        match b.command().await {
            Command::Release(gang) => break assert_eq!(gang, lost),
            command => {
                assert!(!matches!(command, Command::Stop { .. } | Command::Prepare { .. }), "{command:?}")
            }
        }
    }
    while yard.get("/api/v1/nodes/node-1").await["state"] != "idle" {
        tokio::task::yield_now().await;
    }
    assert_eq!(yard.get("/api/v1/recovery").await["foreign"], json!([]));
    yard.stop().await.unwrap();

    // The adoption is durable.
    let yard = Yard::start(dir.path()).await;
    let shown = yard.get("/api/v1/recovery").await;
    assert_eq!((&shown["needed"], &shown["generation"]), (&json!(false), &json!(11)), "{shown:#}");
    assert_eq!(shown["lostJobNumbers"], json!([{ "from": 2, "to": 1_000_000 }]));
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_17_an_agent_that_has_obeyed_a_later_coordinator_stops_all_decisions() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    drop(Agent::join(&yard, "node-0").await);
    let ahead = Hello { last_generation: Generation(5), ..hello("node-0", vec![]) };
    assert!(refused(&yard, ahead.clone()).await.contains("restored from a backup"));
    let (status, _) = yard.call("PUT", &job_path("j"), Some(job("true"))).await;
    assert_eq!(status, 503);
    assert_eq!(yard.call("POST", "/api/v1/recovery/adopt", None).await.0, 200);
    let mut agent = Agent::join_with(&yard, ahead).await;
    assert_eq!(agent.generation, 6);
    yard.submit("j", &job("true")).await;
    let (gang, _) = agent.start().await;
    agent.finish(gang, 0).await;
    assert_eq!(yard.call("POST", "/api/v1/recovery/adopt", None).await.0, 409, "nothing is left to adopt");
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_removes_the_oldest_ended_jobs_with_their_logs_and_no_open_one() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    let mut agent = Agent::join(&yard, "node-0").await;
    for name in ["a", "b", "c"] {
        yard.submit(name, &job("true")).await;
        let (gang, _) = agent.start().await;
        upload(&yard, vec![log_chunk(gang, "stdout.txt", 0, name, true)]).await;
        agent.finish(gang, 0).await;
    }
    drop(agent);
    yard.submit("open", &job("true")).await;
    yard.stop().await.unwrap();
    let logs = config(dir.path()).folder().join("logs");
    assert!(["1.1", "2.1", "3.1"].iter().all(|gang| logs.join(gang).exists()));

    let mut config = config(dir.path());
    config.retention = Retention { days: 0, jobs: 1, events: 3 };
    let yard = Yard::start_with(|ready, stop| serve(config, ready, stop)).await;
    while job_numbers(&yard).await.len() > 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(job_numbers(&yard).await, [4, 3]);
    while ["1.1", "2.1"].iter().any(|gang| logs.join(gang).exists()) {
        tokio::task::yield_now().await;
    }
    let kept = yard.request("GET", &own_path("c", "logs/stdout.txt")).send().await.unwrap();
    assert_eq!(kept.text().await.unwrap(), "c");
    assert_eq!(yard.submit("a", &job("false")).await, 202, "its name is free");
    yard.stop().await.unwrap();
}
