//! REST: bad requests, parents, lists, files by signed links, logs and the event stream.

mod support;

use futures_util::StreamExt;
use serde_json::{Value, json};
use support::*;
use trainyard_proto::convert::Down;
use trainyard_proto::v1;

fn set(body: &Value, key: &str, value: Value) -> Value {
    let mut body = body.clone();
    body["properties"][key] = value;
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_bodies_are_refused_and_store_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    let good = job("true");
    let other_cluster = json!({ "id": format!("{WORKSPACE}/clusters/other") });
    let two = set(&good, "pyTorchSettings", json!({ "pythonScriptFilePath": "x.py" }));
    let bad = [
        (400, String::new()),
        (400, "{".to_owned()),
        (400, "[]".to_owned()),
        (400, "{\"properties\":{}}".to_owned()),
        (400, set(&good, "nodeCount", json!(0)).to_string()),
        (400, set(&good, "cluster", Value::Null).to_string()),
        (400, two.to_string()),
        (400, "[".repeat(100_000)),
        (404, set(&good, "cluster", other_cluster).to_string()),
        (413, format!("{{\"x\":\"{}\"}}", "x".repeat(2 << 20))),
    ];
    for (expected, body) in bad {
        let shown: String = body.chars().take(60).collect();
        let response = yard.request("PUT", &job_path("j")).body(body).send().await.unwrap();
        assert_eq!(response.status(), expected, "{shown}");
        let error: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert!(
            error["error"]["code"].is_string() && error["error"]["message"].is_string(),
            "{shown}: {error}"
        );
    }
    assert_eq!(yard.call("GET", &job_path("j"), None).await.0, 404);
    assert_eq!(yard.get("/api/v1/jobs").await, json!({ "value": [] }));
    let (status, error) = yard.call("PUT", &job_path("j%2F.."), Some(good.clone())).await;
    assert_eq!((status, error["error"]["code"].as_str()), (400, Some("InvalidResourceName")));
    let group = job_path("j").replace("/trainyard/", "/a%2Fb/");
    assert_eq!(yard.call("PUT", &group, Some(good.clone())).await.0, 400);
    for (parent, code) in
        [("workspaces/default", "WorkspaceNotFound"), ("experiments/default", "ExperimentNotFound")]
    {
        let path = job_path("j").replace(parent, &parent.replace("default", "mine"));
        let id = format!("{WORKSPACE}/clusters/default").replace(parent, &parent.replace("default", "mine"));
        let (status, error) = yard.call("PUT", &path, Some(set(&good, "cluster", json!({ "id": id })))).await;
        assert_eq!((status, error["error"]["code"].as_str()), (404, Some(code)), "{error}");
    }
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn workspaces_and_experiments_are_made_listed_and_removed_with_their_jobs() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    let group = WORKSPACE.trim_end_matches("/default");
    let at = |path: &str| format!("{group}{path}?api-version=2018-05-01");
    let (status, made) =
        yard.call("PUT", &at("/mine"), Some(json!({ "location": "here", "tags": { "a": "b" } }))).await;
    assert_eq!(status, 200);
    assert_eq!(
        (&made["type"], &made["tags"]),
        (&json!("Microsoft.BatchAI/workspaces"), &json!({ "a": "b" }))
    );
    assert_eq!(made["properties"]["provisioningState"], "succeeded");
    assert_eq!(yard.call("PUT", &at("/mine"), Some(json!({}))).await.0, 400);
    assert_eq!(yard.get(&at("/MINE")).await["id"], format!("{group}/mine"));
    assert_eq!(yard.call("GET", &at("/other"), None).await.0, 404);

    let (status, first) = yard.call("PUT", &at("/mine/experiments/e"), None).await;
    assert_eq!((status, first["type"].as_str()), (200, Some("Microsoft.BatchAI/workspaces/experiments")));
    assert_eq!(yard.call("PUT", &at("/mine/experiments/E"), None).await.1, first, "the first is given back");
    yard.call("PUT", &at("/mine/experiments/f"), None).await;
    let page = yard.get(&(at("/mine/experiments") + "&maxresults=1")).await;
    assert_eq!(page["value"].as_array().unwrap().len(), 1);
    let next = page["nextLink"].as_str().unwrap().strip_prefix(&yard.url("")).unwrap().to_owned();
    let page = yard.get(&next).await;
    assert_eq!(page["value"][0]["name"], "f");
    assert!(page.get("nextLink").is_none());

    let cluster = json!({ "id": format!("{group}/mine/clusters/DEFAULT") });
    for name in ["a", "b", "c"] {
        let body = set(&job("true"), "cluster", cluster.clone());
        assert_eq!(
            yard.call("PUT", &at(&format!("/mine/experiments/e/jobs/{name}")), Some(body)).await.0,
            202
        );
    }
    let page = yard.get(&(at("/mine/experiments/e/jobs") + "&maxresults=2")).await;
    let next = page["nextLink"].as_str().unwrap().strip_prefix(&yard.url("")).unwrap().to_owned();
    assert_eq!(yard.get(&next).await["value"][0]["name"], "c");
    assert_eq!(yard.call("GET", &(at("/mine/experiments/e/jobs") + "&maxresults=0"), None).await.0, 400);

    assert_eq!(yard.call("DELETE", &at("/mine/experiments/e"), None).await.0, 202);
    assert_eq!(yard.call("GET", &at("/mine/experiments/e"), None).await.0, 404);
    assert_eq!(yard.get("/api/v1/jobs").await, json!({ "value": [] }));
    assert_eq!(yard.call("DELETE", &at("/mine"), None).await.0, 202);
    assert_eq!(yard.call("DELETE", &at("/mine"), None).await.0, 204);
    assert_eq!(yard.call("GET", &at("/mine/experiments/f"), None).await.0, 404);
    assert_eq!(
        yard.call("PUT", &at("/default/clusters/big"), Some(json!({}))).await.1["error"]["code"],
        "NotBuilt"
    );
    assert_eq!(
        yard.call("GET", &at("/default/clusters/big"), None).await.1["error"]["code"],
        "ClusterNotFound"
    );
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_listed_and_read_in_ranges_by_signed_links() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    let mut agent = Agent::join(&yard, "node-0").await;
    yard.submit("j", &job("true")).await;
    let (gang, plan) = agent.start().await;
    let chunks = vec![
        log_chunk(gang, "stdout.txt", 0, "0123456789", false),
        log_chunk(gang, "stderr.txt", 0, "", true),
    ];
    upload(&yard, chunks).await;

    let list = |id: &str, rest: &str| {
        bare_job_path("j") + &format!("/listOutputFiles?api-version=2018-05-01&outputdirectoryid={id}{rest}")
    };
    let (status, files) = yard.call("POST", &list("stdouterr", ""), None).await;
    assert_eq!(status, 200);
    let names: Vec<&str> =
        files["value"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["stderr.txt", "stdout.txt"]);
    let stdout = &files["value"][1];
    assert_eq!((&stdout["fileType"], &stdout["properties"]["contentLength"]), (&json!("file"), &json!(10)));
    let url = stdout["downloadUrl"].as_str().unwrap().strip_prefix(&yard.url("")).unwrap().to_owned();

    let read = async |range: Option<&str>| {
        let mut request = yard.anonymous("GET", &url);
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let response = request.send().await.unwrap();
        let content_range = response.headers().get("content-range").map(|r| r.to_str().unwrap().to_owned());
        (response.status().as_u16(), content_range.unwrap_or_default(), response.text().await.unwrap())
    };
    assert_eq!(read(None).await, (200, String::new(), "0123456789".to_owned()));
    assert_eq!(read(Some("bytes=3-")).await, (206, "bytes 3-9/10".to_owned(), "3456789".to_owned()));
    assert_eq!(read(Some("bytes=-2")).await, (206, "bytes 8-9/10".to_owned(), "89".to_owned()));
    let (status, range, _) = read(Some("bytes=10-")).await;
    assert_eq!((status, range.as_str()), (416, "bytes */10"), "clients poll at the end");
    let forged = url.replace("/api/v1/files/", "/api/v1/files/x");
    assert_eq!(yard.anonymous("GET", &forged).send().await.unwrap().status(), 403);

    for (rest, expected) in
        [("&linkexpiryinminutes=1", 400), ("&directory=../..", 400), ("&directory=counters", 200)]
    {
        assert_eq!(yard.call("POST", &list("stdouterr", rest), None).await.0, expected, "{rest}");
    }
    let (status, error) = yard.call("POST", &list("NONE", ""), None).await;
    assert_eq!((status, error["error"]["code"].as_str()), (404, Some("OutputDirectoryNotFound")));

    // An output directory lies on the node: it is asked.
    let directory = plan.tasks[0].command.env["AZ_BATCHAI_OUTPUT_MODEL"].clone();
    let answer = async |agent: &mut Agent, reply: v1::FileReply| loop {
        if let Some(Down::FileRequest(request)) = agent.next().await {
            agent.send(v1::from_agent::Body::FileReply(v1::FileReply { id: request.id, ..reply })).await;
            return request;
        }
    };
    let entries = vec![
        v1::FileEntry {
            name: "model.bin".to_owned(),
            directory: false,
            size: 4,
            modified_ms: 1_700_000_000_000,
        },
        v1::FileEntry { name: "a".to_owned(), directory: true, size: 0, modified_ms: 0 },
        v1::FileEntry { name: "../evil".to_owned(), directory: false, size: 1, modified_ms: 0 },
    ];
    let path = list("MODEL", "&directory=sub");
    let (listed, asked) = tokio::join!(
        yard.call("POST", &path, None),
        answer(&mut agent, v1::FileReply { entries, ..v1::FileReply::default() })
    );
    assert_eq!((asked.directory, asked.path.as_str()), (directory, "sub"));
    let value = listed.1["value"].as_array().unwrap().clone();
    assert_eq!(value.len(), 2, "{value:?}");
    assert_eq!(value[0], json!({ "name": "a", "fileType": "directory" }));
    assert_eq!(value[1]["properties"]["lastModified"], "2023-11-14T22:13:20Z");
    let url = value[1]["downloadUrl"].as_str().unwrap().strip_prefix(&yard.url("")).unwrap().to_owned();
    let replies = async |agent: &mut Agent| {
        for data in ["", "bcd"] {
            let reply = v1::FileReply { data: data.to_owned().into(), size: 4, ..v1::FileReply::default() };
            answer(agent, reply).await;
        }
    };
    let request = yard.anonymous("GET", &url).header("range", "bytes=1-");
    let reading = async { request.send().await.unwrap().text().await.unwrap() };
    assert_eq!(tokio::join!(reading, replies(&mut agent)).0, "bcd");
    let not_found = v1::FileReply { error: "not found".to_owned(), ..v1::FileReply::default() };
    let (listed, _) = tokio::join!(yard.call("POST", &path, None), answer(&mut agent, not_found));
    assert_eq!(listed.0, 404);
    drop(agent);
    while yard.get("/api/v1/nodes/node-0").await["state"] != "unknown" {
        tokio::task::yield_now().await;
    }
    assert_eq!(yard.call("POST", &path, None).await.1["error"]["code"], "NodeNotConnected");
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_from_before_the_start_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    yard.submit("j", &job("true")).await;
    assert_eq!(yard.call("GET", &own_path("j", "logs/stdout.txt"), None).await.0, 404);
    let follow = yard.request("GET", &(own_path("j", "logs/stdout.txt") + "?follow=1")).send().await.unwrap();
    assert_eq!(follow.headers()["x-trainyard-offset"], "0");
    let mut bytes = follow.bytes_stream();
    let mut agent = Agent::join(&yard, "node-0").await;
    let (gang, _) = agent.start().await;
    upload(&yard, vec![log_chunk(gang, "stdout.txt", 0, "one\n", false)]).await;
    assert_eq!(&bytes.next().await.unwrap().unwrap()[..], b"one\n");
    let gap = v1::LogChunk { gap: 1000, ..log_chunk(gang, "stdout.txt", 4, "", false) };
    upload(&yard, vec![gap, log_chunk(gang, "stdout.txt", 1004, "\0two\n", true)]).await;
    let mut rest = Vec::new();
    while let Some(piece) = bytes.next().await {
        rest.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(rest, b"\0two\n", "binary safe, and dropped bytes are passed over");
    let files = yard.get(&own_path("j", "logs")).await;
    assert_eq!(
        files,
        json!({ "value": [{ "file": "stdout.txt", "size": 1009, "end": true, "gaps": [[4, 1004]] }] })
    );
    let tail =
        yard.request("GET", &(own_path("j", "logs/stdout.txt") + "?offset=1005")).send().await.unwrap();
    assert_eq!(tail.text().await.unwrap(), "two\n");
    assert_eq!(yard.call("GET", &own_path("j", "logs/..%2Fx"), None).await.0, 400);
    yard.stop().await.unwrap();
}

/// Reads events until one of this kind has come.
async fn events(yard: &Yard, path: &str, last_id: Option<u64>, until: &str) -> Vec<Value> {
    let mut request = yard.request("GET", path);
    if let Some(id) = last_id {
        request = request.header("last-event-id", id.to_string());
    }
    let mut stream = request.send().await.unwrap().bytes_stream();
    let mut text = String::new();
    while !text.contains(&format!("event: {until}\n")) || !text.ends_with("\n\n") {
        text.push_str(std::str::from_utf8(&stream.next().await.unwrap().unwrap()).unwrap());
    }
    text.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["kind"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_replayed_and_then_live_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    let mut agent = Agent::join(&yard, "node-0").await;
    yard.submit("first", &job("true")).await;
    let (gang, _) = agent.start().await;
    agent.finish(gang, 0).await;

    // Replay of all, then what comes while the stream is open.
    let reading = events(&yard, "/api/v1/events?after=0&job=2", None, "jobEnded");
    let second = async {
        yard.submit("second", &job("true")).await;
        let (gang, _) = agent.start().await;
        agent.finish(gang, 4).await;
    };
    let (live, ()) = tokio::join!(reading, second);
    let whole = ["jobSubmitted", "jobStarted", "taskStarted", "taskEnded", "jobEnded"];
    assert_eq!(kinds(&live), whole);
    assert_eq!(
        (&live[4]["job"], &live[4]["exitCode"], &live[4]["jobId"]),
        (&json!("second"), &json!(4), &json!(2))
    );

    let all = events(&yard, "/api/v1/events?after=0", None, "jobEnded").await;
    assert_eq!(all[0]["kind"], "nodeJoined");
    let sequence: Vec<u64> = all.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(sequence.windows(2).all(|pair| pair[0] < pair[1]), "{sequence:?}");
    let resumed = events(&yard, "/api/v1/events?job=1", Some(sequence[2]), "jobEnded").await;
    assert!(resumed.iter().all(|event| event["seq"].as_u64().unwrap() > sequence[2] && event["jobId"] == 1));
    yard.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_matched_without_case_and_versions_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let yard = Yard::start(dir.path()).await;
    yard.submit("j", &job("true")).await;
    let shouted = bare_job_path("j").to_ascii_uppercase() + "?API-VERSION=2018-05-01";
    assert_eq!(yard.get(&shouted).await["name"], "j");
    let version = yard.get("/api/v1/version").await;
    assert_eq!(version["apiVersion"], "2018-05-01");
    assert_eq!((&version["generation"], &version["commit"]), (&json!(1), &json!("abcdef0")));
    assert_eq!(yard.anonymous("GET", "/healthz").send().await.unwrap().text().await.unwrap(), "ok\n");
    let jobs = yard.get("/api/v1/jobs?state=queued,running&experiment=DEFAULT&limit=10000").await;
    assert_eq!(jobs["value"][0]["name"], "j");
    assert_eq!(yard.get("/api/v1/jobs?state=failed").await["value"], json!([]));
    assert_eq!(yard.call("GET", &own_path("j", "plan"), None).await.1["error"]["code"], "PlanNotFound");
    yard.stop().await.unwrap();
}
