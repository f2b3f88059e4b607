//! Sessions and log uploads, as agents see them; and what a full or broken disk does.

mod support;

use std::sync::Arc;

use futures_util::StreamExt;
use serde_json::json;
use support::*;
use trainyard_coordinator::clock::{ManualClock, RealClock};
use trainyard_coordinator::serve_on;
use trainyard_coordinator::store::{FailingStore, Failure, MemoryStore};
use trainyard_core::session::{Command, Report};
use trainyard_proto::convert::{Down, hello_to_wire};
use trainyard_proto::v1;

#[tokio::test(flavor = "multi_thread")]
async fn agents_need_the_token_too() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    let mut client = client(yard.address).await;
    let status = client.session(tokio_stream::empty::<v1::FromAgent>()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
    let status = client.upload_logs(tokio_stream::empty::<v1::LogChunk>()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_version_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    let hello = v1::Hello { protocol_version: 999, ..hello_to_wire(hello("node-0", vec![]), inventory()) };
    let (mut agent, first) = Agent::connect(&yard, hello).await;
    match first {
        Down::Refused { reason } => assert!(reason.contains("protocol version 999"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(agent.next().await, None);
    assert_eq!(yard.get("/api/v1/nodes").await, json!({ "value": [] }));
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_are_answered_and_a_new_session_ends_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    let mut old = Agent::join(&yard, "node-0").await;
    old.send(v1::from_agent::Body::Heartbeat(v1::Heartbeat { boot_ms: 42 })).await;
    assert_eq!(old.next().await, Some(Down::HeartbeatAck { boot_ms: 42 }));
    let mut new = Agent::join(&yard, "node-0").await;
    assert!(new.epoch > old.epoch);
    assert_eq!(old.next().await, None);
    new.send(v1::from_agent::Body::Heartbeat(v1::Heartbeat { boot_ms: 43 })).await;
    assert_eq!(new.next().await, Some(Down::HeartbeatAck { boot_ms: 43 }));
    assert_eq!(yard.get("/api/v1/nodes/node-0").await["state"], "idle");

    // What an earlier epoch says ends that stream.
    let stale = v1::Heartbeat { boot_ms: 1 };
    new.epoch -= 1;
    new.send(v1::from_agent::Body::Heartbeat(stale)).await;
    assert_eq!(new.next().await, None);
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_14_a_repeated_message_is_dropped_and_a_gap_ends_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    let mut agent = Agent::join(&yard, "node-0").await;
    let beat = |boot_ms| v1::from_agent::Body::Heartbeat(v1::Heartbeat { boot_ms });
    agent.send_numbered(1, beat(1)).await;
    agent.send_numbered(1, beat(2)).await;
    agent.send_numbered(2, beat(3)).await;
    assert_eq!(agent.next().await, Some(Down::HeartbeatAck { boot_ms: 1 }));
    assert_eq!(agent.next().await, Some(Down::HeartbeatAck { boot_ms: 3 }), "the repetition was obeyed");
    agent.send_numbered(4, beat(5)).await;
    assert_eq!(agent.next().await, None, "after a gap nothing is obeyed");
    // The stream ends first; that the node has left is told just after.
    while yard.get("/api/v1/nodes/node-0").await["state"] != "unknown" {
        tokio::task::yield_now().await;
    }
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_shown_with_inventory_and_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    let agent = Agent::join(&yard, "node-0").await;
    let sample = v1::Sample { name: "cpu_utilization_ratio".to_owned(), labels: [].into(), value: 0.5 };
    agent
        .send(v1::from_agent::Body::Metrics(v1::MetricBatch {
            at_ms: 1_700_000_000_250,
            samples: vec![sample],
        }))
        .await;
    let metrics = loop {
        let metrics = yard.get("/api/v1/nodes/node-0/metrics").await;
        if metrics["samples"].as_array().is_some_and(|samples| !samples.is_empty()) {
            break metrics;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(
        metrics,
        json!({ "at": "2023-11-14T22:13:20.25Z", "samples": [{ "name": "cpu_utilization_ratio", "labels": {}, "value": 0.5 }] })
    );
    let history = yard.get("/api/v1/nodes/node-0/metrics?since=2023-11-14T22:13:20Z").await;
    assert_eq!(history["series"][0]["points"], json!([[1_700_000_000_250_i64, 0.5]]));
    let node = yard.get("/api/v1/nodes/node-0").await;
    assert_eq!(node["inventory"]["limitations"], json!(["no cgroups: not root"]));
    assert_eq!(yard.call("GET", "/api/v1/nodes/none", None).await.0, 404);
    assert_eq!(yard.call("GET", "/api/v1/nodes/node-0/metrics?since=yesterday", None).await.0, 400);

    let cluster = yard.get(&format!("{WORKSPACE}/clusters/default?api-version=2018-05-01")).await;
    assert_eq!(cluster["properties"]["currentNodeCount"], 1);
    assert_eq!(cluster["properties"]["nodeStateCounts"]["idleNodeCount"], 1);
    assert_eq!(cluster["properties"]["scaleSettings"]["autoScale"]["maximumNodeCount"], 1);
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn log_uploads_resume_where_the_disk_ends() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    let mut agent = Agent::join(&yard, "node-0").await;
    yard.submit("j", &job("true")).await;
    let (gang, _) = agent.start().await;
    let acks = upload(&yard, vec![log_chunk(gang, "stdout.txt", 0, "hello", false)]).await;
    assert_eq!(acks["stdout.txt"], (5, false));

    // A restart of the coordinator: the agent begins before what it saw acknowledged.
    yard.stop().await.unwrap();
    let yard = Yard::start(dir.path()).await;
    let chunks = vec![
        log_chunk(gang, "stdout.txt", 2, "llo, wor", false),
        log_chunk(gang, "stdout.txt", 10, "ld", true),
        log_chunk(gang, "stderr.txt", 7, "too far", false),
    ];
    let acks = upload(&yard, chunks).await;
    assert_eq!(acks["stdout.txt"], (12, true));
    assert_eq!(acks["stderr.txt"], (0, false));
    let text =
        yard.request("GET", &own_path("j", "logs/stdout.txt")).send().await.unwrap().text().await.unwrap();
    assert_eq!(text, "hello, world");

    // Of a job that does not exist everything is taken, and nothing is kept.
    let gone = trainyard_core::id::GangId { job: trainyard_core::id::JobId(99), ..gang };
    let acks = upload(&yard, vec![log_chunk(gone, "stdout.txt", 100, "x", true)]).await;
    assert_eq!(acks["stdout.txt"], (101, true));
    assert!(!dir.path().join("coordinator/logs/99.1").exists());

    // A name that is no file name ends the stream, and nothing is written.
    for bad in ["../x", "a/b", "", ".index"] {
        let mut client = client(yard.address).await;
        let stream = tokio_stream::iter(vec![log_chunk(gang, bad, 0, "x", false)]);
        let mut acks = client.upload_logs(with_token(stream)).await.unwrap().into_inner();
        let status = acks.message().await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{bad:?}");
    }
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_recovers_without_losing_what_was_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let (store, switch) = FailingStore::new(MemoryStore::new());
    let config = config(dir.path());
    let clock = Arc::new(RealClock::new());
    let yard = Yard::start_with(|ready, stop| serve_on(config, Box::new(store), clock, ready, stop)).await;
    yard.submit("before", &job("true")).await;
    switch.set(Failure::Full);
    let (status, error) = yard.call("PUT", &job_path("during"), Some(job("true"))).await;
    assert_eq!((status, error["error"]["code"].as_str()), (507, Some("InsufficientStorage")), "{error}");
    assert_eq!(yard.call("GET", &job_path("during"), None).await.0, 404);
    assert_eq!(yard.state("before").await, "queued");
    // While it is full, too: no request hangs.
    assert_eq!(yard.call("PUT", &job_path("during"), Some(job("true"))).await.0, 507);
    switch.set(Failure::None);
    while yard.call("PUT", &job_path("after"), Some(job("true"))).await.0 == 507 {
        tokio::task::yield_now().await;
    }
    let mut agent = Agent::join(&yard, "node-0").await;
    let (gang, _) = agent.start().await;
    agent.finish(gang, 0).await;
    assert_eq!(yard.state("before").await, "succeeded");
    let (gang, _) = agent.start().await;
    assert_ne!(gang.job.0, 1);
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_is_told_once_while_the_others_still_end() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let (past_lease, clock) =
        (config.core.lease_ms + config.core.lease_margin_ms, Arc::new(ManualClock::default()));
    let time = clock.clone();
    let store = Box::new(MemoryStore::new());
    let yard = Yard::start_with(|ready, stop| serve_on(config, store, time, ready, stop)).await;
    let mut a = Agent::join(&yard, "node-0").await;
    let mut b = Agent::join(&yard, "node-1").await;
    let mut body = job("true");
    body["properties"]["nodeCount"] = json!(2);
    yard.submit("j", &body).await;
    for agent in [&mut a, &mut b] {
        let Command::Prepare { gang, start_when_prepared: false, .. } = agent.command().await else {
            panic!("no Prepare")
        };
        agent.report(vec![Report::Prepared(gang)]).await;
    }
    assert!(matches!(a.command().await, Command::Start(_)));
    drop(b);
    while yard.get("/api/v1/nodes/node-1").await["state"] != "unknown" {
        tokio::task::yield_now().await;
    }
    clock.advance(u32::try_from(past_lease).unwrap());
    // Each of these is a step.
    for _ in 0..3 {
        a.report(vec![]).await;
        yard.call("DELETE", &job_path("none"), None).await;
    }
    assert!(matches!(a.command().await, Command::Stop { .. }));
    let journal = yard.request("GET", "/api/v1/events?after=0").send().await.unwrap();
    let mut journal = journal.bytes_stream();
    yard.submit("last", &job("true")).await;
    let mut text = String::new();
    while text.matches("event: jobSubmitted").count() < 2 {
        text.push_str(std::str::from_utf8(&journal.next().await.unwrap().unwrap()).unwrap());
    }
    assert_eq!(text.matches("event: nodeLost").count(), 1, "{text}");
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_database_stops_the_coordinator() {
    let dir = tempfile::tempdir().unwrap();
    let (store, switch) = FailingStore::new(MemoryStore::new());
    let config = config(dir.path());
    let clock = Arc::new(RealClock::new());
    let yard = Yard::start_with(|ready, stop| serve_on(config, Box::new(store), clock, ready, stop)).await;
    switch.set(Failure::Broken);
    let request = yard.request("PUT", &job_path("j")).body(job("true").to_string());
    // The answer may be cut off with the connection; it is no success.
    if let Ok(response) = request.send().await {
        assert_eq!(response.status(), 503);
    }
    let error = yard.end().await.unwrap_err();
    assert!(error.to_string().contains("the database failed"), "{error}");
}
