//! Nodes out of service and back, over REST: what is answered, shown, kept over a restart.

mod support;

use serde_json::{Value, json};
use support::*;

async fn verb(yard: &Yard, node: &str, verb: &str, body: Value) -> (u16, Value) {
    yard.call("POST", &format!("/api/v1/nodes/{node}/{verb}"), Some(body)).await
}

async fn until_node(yard: &Yard, node: &str, state: &str) -> Value {
    loop {
        let shown = yard.get(&format!("/api/v1/nodes/{node}")).await;
        if shown["state"] == state {
            return shown;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_shown_outlives_a_restart_and_a_resume_lifts_it() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    let mut agent = Agent::join(&yard, "node-0").await;
    yard.submit("running", &job("sleep 1000")).await;
    let (gang, _) = agent.start().await;
    until_node(&yard, "node-0", "running").await;
    let (status, node) = verb(&yard, "node-0", "drain", json!({ "reason": "new disk" })).await;
    assert_eq!((status, &node["state"]), (200, &json!("draining")), "{node:#}");
    assert_eq!((&node["drain"]["by"], &node["drain"]["reason"]), (&json!("operator"), &json!("new disk")));
    yard.submit("waiting", &job("true")).await;
    agent.finish(gang, 0).await;
    until_node(&yard, "node-0", "drained").await;
    assert_eq!(yard.state("running").await, "succeeded", "what it ran went on");
    let explained = yard.get(&own_path("waiting", "explain")).await;
    assert!(explained["text"].as_str().unwrap().contains("(new disk)"), "{explained:#}");
    drop(agent);
    yard.stop().await.unwrap();

    let yard = Yard::start(dir.path()).await;
    let shown = yard.get("/api/v1/nodes/node-0").await;
    assert_eq!((&shown["state"], &shown["drain"]), (&json!("unknown"), &node["drain"]));
    assert!(shown["unknownSince"].is_string(), "{shown:#}");
    let mut agent = Agent::join(&yard, "node-0").await;
    until_node(&yard, "node-0", "drained").await;
    assert_eq!(yard.state("waiting").await, "queued");
    let (status, node) = verb(&yard, "node-0", "resume", json!({})).await;
    assert_eq!((status, &node["drain"]), (200, &Value::Null), "{node:#}");
    let (gang, _) = agent.start().await;
    agent.finish(gang, 0).await;
    assert_eq!(yard.state("waiting").await, "succeeded");
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_12_a_kept_job_of_a_dead_machine_starts_elsewhere_once_that_is_declared_lost() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    let mut dead = Agent::join(&yard, "node-0").await;
    let mut kept = job("sleep 1000");
    kept["properties"]["onLeaseLost"] = json!("keep");
    yard.submit("kept", &kept).await;
    let (first, plan) = dead.start().await;
    assert_eq!(plan.tasks[0].rank.0, 0);
    until_node(&yard, "node-0", "running").await;
    let (status, refused) = verb(&yard, "node-0", "declareLost", json!({})).await;
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("NodeConnected")), "{refused:#}");
    assert_eq!(yard.state("kept").await, "running");
    drop(dead);
    until_node(&yard, "node-0", "unknown").await;
    let task = yard.job("kept").await["properties"]["trainyard"]["tasks"][0].clone();
    assert_eq!(task["state"], "unknown", "it is not called failed");
    assert!(task["unknownSince"].is_string(), "{task:#}");

    let mut other = Agent::join(&yard, "node-1").await;
    let (status, node) = verb(&yard, "node-0", "declareLost", json!({})).await;
    assert_eq!((status, &node["drain"]["by"]), (200, &json!("operator")), "{node:#}");
    let (second, _) = other.start().await;
    assert_eq!((second.job, second.gang.0), (first.job, first.gang.0 + 1));
    other.finish(second, 0).await;
    let ended = yard.job("kept").await;
    assert_eq!(ended["properties"]["executionState"], "succeeded");
    assert!(ended["properties"]["trainyard"]["retriesUsed"].is_null(), "a lost node costs no retry");
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_verbs_on_nodes_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    let _agent = Agent::join(&yard, "node-0").await;
    for what in ["drain", "resume", "declareLost"] {
        assert_eq!(verb(&yard, "none", what, json!({})).await.0, 404, "{what}");
        let anonymous = yard.anonymous("POST", &format!("/api/v1/nodes/node-0/{what}")).send().await.unwrap();
        assert_eq!(anonymous.status().as_u16(), 401, "{what}");
    }
    let long = "x".repeat(201);
    for body in [json!({ "reason": "two\nlines" }), json!({ "reason": long }), json!({ "why": "x" })] {
        assert_eq!(verb(&yard, "node-0", "drain", body).await.0, 400);
    }
    let node = yard.get("/api/v1/nodes/node-0").await;
    assert_eq!((&node["state"], &node["drain"]), (&json!("idle"), &Value::Null));
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_lease_is_refused_with_its_field() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    for (field, value) in [("leaseSeconds", json!(9)), ("onLeaseLost", json!("maybe"))] {
        let mut bad = job("true");
        bad["properties"][field] = value;
        let (status, refused) = yard.call("PUT", &job_path("bad"), Some(bad)).await;
        assert_eq!(status, 400, "{refused:#}");
        assert!(refused.to_string().contains(field), "{refused:#}");
    }
    let mut both = job("true");
    both["properties"]["onLeaseLost"] = json!("keep");
    both["properties"]["leaseSeconds"] = json!(60);
    let (status, refused) = yard.call("PUT", &job_path("both"), Some(both)).await;
    assert_eq!(status, 400, "{refused:#}");
    yard.stop().await.unwrap();
}
