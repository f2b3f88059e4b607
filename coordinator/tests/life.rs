//! The whole life of jobs over REST and gRPC, against a real server and an agent that follows a script.

mod support;

use serde_json::{Value, json};
use support::*;
use trainyard_core::id::Rank;
use trainyard_core::session::{Command, GangPhase, HeldAttempt, HeldGang};
use trainyard_core::unit::WallMs;
use trainyard_proto::convert::Down;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_lives_over_rest() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;

    let response = yard.request("PUT", &job_path("j")).body(job("true").to_string()).send().await.unwrap();
    assert_eq!(response.status(), 202);
    assert_eq!(response.headers()["retry-after"], "1");
    let poll = response.headers()["azure-asyncoperation"].to_str().unwrap().to_owned();
    assert!(poll.starts_with(&yard.url("/subscriptions/")), "{poll}");
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(response.text().await.unwrap(), "");
    let path = |url: &str| url.strip_prefix(&yard.url("")).unwrap().to_owned();
    let operation = yard.get(&path(&poll)).await;
    assert_eq!(operation["status"], "Succeeded");
    assert_eq!(operation["properties"]["resourceId"], format!("{SUBSCRIPTION}$trainyard$default$default$j"));
    assert_eq!(yard.request("GET", &path(&location)).send().await.unwrap().status(), 200);

    // It waits, and says why.
    assert_eq!(yard.state("j").await, "queued");
    let explain = yard.get(&own_path("j", "explain")).await;
    assert_eq!(explain["reason"]["code"], "NoNodes", "{explain}");
    let queued = yard.job("j").await;
    assert!(queued["properties"].get("executionInfo").is_none(), "{queued}");
    assert_eq!(queued["properties"]["trainyard"]["reason"]["code"], "NoNodes");

    // The same again is no second job; another one of that name is refused.
    assert_eq!(yard.submit("J", &job("true")).await, 200);
    let (status, error) = yard.call("PUT", &job_path("j"), Some(job("false"))).await;
    assert_eq!((status, error["error"]["code"].as_str()), (409, Some("JobAlreadyExists")));

    let mut agent = Agent::join(&yard, "node-0").await;
    let (gang, plan) = agent.start().await;
    assert_eq!(plan.tasks.len(), 1);
    assert_eq!(
        plan.tasks[0].command.secret_env.values().map(|s| s.expose().to_owned()).collect::<Vec<_>>(),
        ["canary-7f3a"]
    );
    agent.finish(gang, 0).await;

    let job = yard.job("j").await;
    let properties = &job["properties"];
    assert_eq!(properties["executionState"], "succeeded", "{job}");
    assert_eq!(properties["executionInfo"]["exitCode"], 0);
    assert!(properties["executionInfo"].get("errors").is_none());
    assert_eq!(properties["toolType"], "custom");
    assert_eq!(properties["constraints"]["maxWallClockTime"], "P7D");
    assert_eq!(properties["secrets"], json!([{ "name": "PASSWORD" }]));
    assert_eq!(properties["trainyard"]["tasks"][0]["node"], "node-0");
    let segment = properties["jobOutputDirectoryPathSegment"].as_str().unwrap();
    assert!(
        segment
            .starts_with(&format!("{SUBSCRIPTION}/trainyard/workspaces/default/experiments/default/jobs/j/"))
    );

    // A job that is over stays as it is.
    let terminate = bare_job_path("j") + "/terminate?api-version=2018-05-01";
    let response = yard.request("POST", &terminate).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("location"));
    assert_eq!(yard.state("j").await, "succeeded");

    // Nothing that can be read shows the secret.
    for path in [job_path("j"), own_path("j", "plan"), own_path("j", "explain"), "/api/v1/jobs".to_owned()] {
        let shown = yard.get(&path).await.to_string();
        assert!(!shown.contains("canary-7f3a"), "{path}");
    }

    let (status, _) = yard.call("DELETE", &job_path("j"), None).await;
    assert_eq!(status, 202);
    let (status, error) = yard.call("GET", &job_path("j"), None).await;
    assert_eq!(status, 404);
    assert_eq!(
        error,
        json!({ "error": { "code": "JobNotFound", "message": "The specified job j is not found" } })
    );
    assert_eq!(yard.call("DELETE", &job_path("j"), None).await.0, 204);
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_job_tells_which_task_failed_and_its_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    let mut agent = Agent::join(&yard, "node-0").await;
    yard.submit("j", &job("false")).await;
    let (gang, _) = agent.start().await;
    agent.finish(gang, 3).await;
    let job = yard.job("j").await;
    let info = &job["properties"]["executionInfo"];
    assert_eq!((&job["properties"]["executionState"], &info["exitCode"]), (&json!("failed"), &json!(3)));
    let error = &info["errors"][0];
    assert_eq!(error["code"], "JobFailed");
    assert!(error["message"].as_str().unwrap().contains("no such file: data.csv"), "{error}");
    let details = error["details"].as_array().unwrap();
    assert!(details.contains(&json!({ "name": "node", "value": "node-0" })), "{error}");
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_is_terminated_when_its_node_has_ended_it() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    let mut agent = Agent::join(&yard, "node-0").await;
    yard.submit("j", &job("sleep 1000")).await;
    let (gang, _) = agent.start().await;
    while yard.job("j").await["properties"]["trainyard"]["tasks"][0]["state"] != "running" {
        tokio::task::yield_now().await;
    }
    assert_eq!(yard.get("/api/v1/nodes/node-0").await["state"], "running");
    let terminate = bare_job_path("j") + "/terminate?api-version=2018-05-01";
    let response = yard.request("POST", &terminate).send().await.unwrap();
    assert_eq!(response.status(), 202);
    let poll = response.headers()["azure-asyncoperation"].to_str().unwrap().to_owned();
    let poll = poll.strip_prefix(&yard.url("")).unwrap();
    assert_eq!(yard.get(poll).await["status"], "InProgress");
    assert_eq!(yard.state("j").await, "terminating");
    loop {
        if let Command::Stop { gang: stopped, .. } = agent.command().await {
            assert_eq!(stopped, gang);
            break;
        }
    }
    agent.finish(gang, 143).await;
    assert_eq!(yard.get(poll).await["status"], "Succeeded");
    let job = yard.job("j").await;
    assert_eq!(job["properties"]["executionState"], "failed");
    assert_eq!(job["properties"]["executionInfo"]["errors"][0]["code"], "JobTerminated");
    assert!(job["properties"]["executionInfo"].get("exitCode").is_none());
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_a_running_gang() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    let mut agent = Agent::join(&yard, "node-0").await;
    assert_eq!(agent.generation, 1);
    yard.submit("j", &job("sleep 1000")).await;
    let (gang, _) = agent.start().await;
    while yard.job("j").await["properties"]["trainyard"]["tasks"][0]["state"] != "running" {
        tokio::task::yield_now().await;
    }
    yard.stop().await.unwrap();
    // N5: going down signals no task.
    while let Some(down) = agent.next().await {
        assert!(!matches!(down, Down::Command(Command::Stop { .. })), "{down:?}");
    }

    let yard = Yard::start(dir.path()).await;
    assert_eq!(yard.state("j").await, "running");
    assert_eq!(yard.get("/api/v1/nodes/node-0").await["state"], "unknown");
    let attempt =
        HeldAttempt { attempt: gang.attempt(Rank(0)), started: Some((4711, WallMs(1))), ended: None };
    let held = HeldGang { gang, phase: GangPhase::Running, prepare_failed: None, attempts: vec![attempt] };
    let mut agent = Agent::join_with(&yard, hello("node-0", vec![held])).await;
    assert_eq!(agent.generation, 2);
    agent.finish(gang, 0).await;
    assert_eq!(yard.state("j").await, "succeeded");
    // The number of the next job is not one that was given before.
    yard.submit("k", &job("true")).await;
    let ids: Vec<Value> = yard.get("/api/v1/jobs").await["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["jobId"].clone())
        .collect();
    assert_eq!(ids, [json!(2), json!(1)]);
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_coordinator_on_the_same_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    let (ready, _address) = tokio::sync::oneshot::channel();
    let error =
        trainyard_coordinator::serve(config(dir.path()), ready, std::future::pending()).await.unwrap_err();
    assert!(error.to_string().contains("another coordinator runs on"), "{error}");
    yard.stop().await.unwrap();
}
