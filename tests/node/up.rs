//! `trainyard up` and the verbs that speak to it.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use trainyard_tests::{Daemon, Process, Sandbox, Up, custom, until, with};

/// A task that writes its number, and ends with this code once there is a file `go`.
fn waiting(sandbox: &Sandbox, code: u8) -> Value {
    let audit = sandbox.text("audit");
    custom(&format!(
        "echo $$ >> {audit}/pids; until test -e {audit}/go; do sleep 0.02; done; echo done; exit {code}"
    ))
}

fn go(sandbox: &Sandbox) {
    fs::write(sandbox.path("audit/go"), "").expect("a file");
}

#[test]
fn the_life_of_a_job_through_the_users_verbs() {
    let sandbox = Sandbox::new();
    let _up = Up::start(&sandbox, 2);
    let verb = |arguments: &[&str]| sandbox.run(arguments.iter().copied());

    let nodes = verb(&["node", "list", "-o", "json"]).expect(0).json();
    let names: Vec<&Value> =
        nodes.as_array().or(nodes["value"].as_array()).expect("nodes").iter().map(|n| &n["name"]).collect();
    assert_eq!(names, ["node-0", "node-1"]);

    let file = sandbox.job("job", waiting(&sandbox, 7));
    let submitted = verb(&["job", "submit", &file, "-n", "quiet-otter-1234"]).expect(0);
    assert_eq!(submitted.stdout, "quiet-otter-1234\n");
    let shown = until("it runs", || {
        let shown = verb(&["job", "show", "quiet-o", "-o", "json"]).expect(0).json();
        (shown["properties"]["trainyard"]["tasks"][0]["state"] == "running").then_some(shown)
    });
    let pid = shown["properties"]["trainyard"]["tasks"][0]["pid"].as_i64().expect("a pid");
    until("it says its number", || (sandbox.read("audit/pids").trim() == pid.to_string()).then_some(()));

    let explained = verb(&["job", "explain", "quiet"]).expect(0).stdout;
    assert!(explained.contains("Running on node-"), "{explained}");
    let environment = verb(&["job", "env", "quiet", "master"]).expect(0).stdout;
    assert!(environment.contains("export AZ_BATCH_JOB_ID='quiet-otter-1234'"), "{environment}");
    let listed = verb(&["job", "list", "-o", "json"]).expect(0).json();
    let listed = listed.as_array().or(listed["value"].as_array()).expect("jobs").clone();
    assert_eq!((listed.len(), &listed[0]["executionState"]), (1, &json!("running")), "{listed:?}");
    assert!(verb(&["job", "list"]).expect(0).stdout.contains("quiet-otter-1234"));

    let mut follower = Daemon::start(&sandbox, "follower", sandbox.command(["job", "logs", "-f", "quiet"]));
    let mut waiter = Daemon::start(&sandbox, "waiter", sandbox.command(["job", "wait", "quiet"]));
    // Both speak to the coordinator before the job ends; whoever comes late is told as well.
    go(&sandbox);
    assert_eq!(follower.wait().expect(0).stdout, "done\n");
    drop(waiter.wait().expect(7));

    // Whoever comes after the end hears all of it as well.
    assert_eq!(verb(&["job", "logs", "-f", "quiet"]).expect(0).stdout, "done\n");
    let explained = verb(&["job", "explain", "quiet"]).expect(0).stdout;
    assert!(explained.contains("master") && explained.contains("code 7"), "{explained}");
    drop(verb(&["job", "delete", "quiet"]).expect(0));
    drop(verb(&["job", "show", "quiet-otter-1234"]).expect(1));
}

#[test]
fn a_job_handed_in_twice_under_one_name_runs_once() {
    let sandbox = Sandbox::new();
    let up = Up::start(&sandbox, 1);
    let file = sandbox.job("job", custom(&format!("echo ran >> {}", sandbox.text("audit/runs"))));
    for _ in 0..2 {
        drop(sandbox.run(["job", "submit", &file, "-n", "once"]).expect(0));
        drop(sandbox.run(["job", "wait", "once"]).expect(0));
    }
    let other = sandbox.job("other", custom("true"));
    let refused = sandbox.run(["job", "submit", &other, "-n", "once"]);
    assert_ne!(refused.code, 0, "another job of that name is refused");
    assert_eq!(sandbox.read("audit/runs"), "ran\n");
    drop(up);
}

#[test]
fn a_cancelled_job_ends_its_tasks_and_those_that_wait_go_on() {
    let sandbox = Sandbox::new();
    let up = Up::start(&sandbox, 1);
    let rest = up.rest(&sandbox);
    let first = sandbox.job("first", waiting(&sandbox, 0));
    let second = sandbox.job("second", custom("echo second"));
    drop(sandbox.run(["job", "submit", &first, "-n", "first"]).expect(0));
    rest.until_running("first");
    drop(sandbox.run(["job", "submit", &second, "-n", "second"]).expect(0));
    let explained = sandbox.run(["job", "explain", "second"]).expect(0).stdout;
    assert!(explained.contains("node-0") && explained.contains("busy"), "{explained}");
    drop(sandbox.run(["job", "cancel", "first"]).expect(0));
    // Its task had SIGTERM; the job itself ended without a code.
    drop(sandbox.run(["job", "wait", "first"]).expect(1));
    drop(sandbox.run(["job", "wait", "second"]).expect(0));
    assert_eq!(rest.job("first")["properties"]["executionInfo"]["errors"][0]["code"], "JobTerminated");
}

#[test]
fn events_tell_the_life_of_a_job_in_order() {
    let sandbox = Sandbox::new();
    let up = Up::start(&sandbox, 1);
    let file = sandbox.job("job", custom("exit 4"));
    drop(sandbox.run(["job", "submit", &file, "-n", "told"]).expect(0));
    drop(sandbox.run(["job", "wait", "told"]).expect(4));
    let kinds = up.rest(&sandbox).events_until(0, |event| event["kind"] == "jobEnded");
    let mut kinds: Vec<&str> =
        kinds.iter().filter(|e| e["job"] == "told").filter_map(|e| e["kind"].as_str()).collect();
    // A port that another job of this machine took costs a gang in which nothing starts.
    while let Some(at) = kinds.windows(2).position(|pair| pair == ["jobStarted", "jobRequeued"]) {
        kinds.drain(at..at + 2);
    }
    assert_eq!(kinds, ["jobSubmitted", "jobStarted", "taskStarted", "taskEnded", "jobEnded"]);
}

#[test]
fn down_refuses_while_a_job_runs_and_cancels_when_asked() {
    let sandbox = Sandbox::new();
    let mut up = Up::start(&sandbox, 1);
    let state = sandbox.text("state/up");
    let file = sandbox.job("job", waiting(&sandbox, 0));
    drop(sandbox.run(["job", "submit", &file, "-n", "busy"]).expect(0));
    let job = up.rest(&sandbox).until_running("busy");
    let pid = job["properties"]["trainyard"]["tasks"][0]["pid"].as_i64().expect("a pid");
    let task = Process::of(i32::try_from(pid).expect("small")).expect("it runs");
    let refused = sandbox.run(["down", "--state-dir", &state]).expect(1);
    assert!(refused.stderr.contains("busy") && refused.stderr.contains("--cancel"), "{}", refused.stderr);
    assert!(task.lives() && !up.daemon().has_ended());
    drop(sandbox.run(["down", "--cancel", "--state-dir", &state]).expect(0));
    drop(up.daemon().wait().expect(0));
    assert_eq!(sandbox.processes(), [], "something is left");
}

#[test]
fn n5_a_killed_up_leaves_tasks_running_and_the_next_one_adopts_them() {
    let sandbox = Sandbox::new();
    let mut up = Up::start(&sandbox, 2);
    let mut tasks = Vec::new();
    for (name, code) in [("first", 7), ("second", 0)] {
        let file = sandbox.job(name, waiting(&sandbox, code));
        drop(sandbox.run(["job", "submit", &file, "-n", name]).expect(0));
        let job = up.rest(&sandbox).until_running(name);
        let pid = i32::try_from(job["properties"]["trainyard"]["tasks"][0]["pid"].as_i64().expect("a pid"));
        tasks.push(Process::of(pid.expect("small")).expect("it runs"));
    }
    up.daemon().kill();
    assert!(tasks.iter().all(Process::lives), "a task ended with `up`");
    let mut up = Up::start(&sandbox, 2);
    let rest = up.rest(&sandbox);
    for (name, task) in [("first", &tasks[0]), ("second", &tasks[1])] {
        let job = rest.until_running(name);
        assert_eq!(job["properties"]["trainyard"]["tasks"][0]["pid"], task.pid, "{name}");
    }
    // A polite end leaves them as well, and says so.
    up.daemon().signal(Signal::SIGTERM);
    let said = up.daemon().wait().expect(0).stderr;
    assert!(said.contains("2 tasks"), "{said}");
    assert!(tasks.iter().all(Process::lives));
    let up = Up::start(&sandbox, 2);
    go(&sandbox);
    drop(sandbox.run(["job", "wait", "first"]).expect(7));
    drop(sandbox.run(["job", "wait", "second"]).expect(0));
    assert_eq!(up.rest(&sandbox).whole_log("first", "stdout.txt"), b"done\n");
    assert_eq!(sandbox.read("audit/pids").lines().count(), 2, "a task was started twice");
}

#[test]
fn up_works_in_the_background_and_down_ends_it() {
    let sandbox = Sandbox::new();
    let state = sandbox.text("state/up");
    let up = ["up", "-d", "-o", "json", "--listen", "127.0.0.1:0", "--state-dir", &state];
    let ready = sandbox.run(up).expect(0).json();
    let pid = i32::try_from(ready["pid"].as_i64().expect("a pid")).expect("small");
    let daemon = Process::of(pid).expect("it runs");
    let again = sandbox.run(up).expect(1);
    assert!(again.stderr.contains(&pid.to_string()), "who has the folder is named: {}", again.stderr);
    let file = sandbox.job("job", custom("echo hello"));
    drop(sandbox.run(["job", "submit", &file, "-n", "hello"]).expect(0));
    drop(sandbox.run(["job", "wait", "hello"]).expect(0));
    assert_eq!(sandbox.run(["job", "logs", "hello"]).expect(0).stdout, "hello\n");
    drop(sandbox.run(["down", "--state-dir", &state]).expect(0));
    assert!(!daemon.lives());
}

#[test]
fn requests_without_the_token_are_refused_and_the_clients_file_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let sandbox = Sandbox::new();
    let up = Up::start(&sandbox, 1);
    let stranger = trainyard_tests::Rest::new(up.url(), "0123456789abcdef0123456789abcdef");
    let status = |path: &str| stranger.try_get(path).map(|(status, _)| status);
    assert_eq!(status("/healthz"), Some(200));
    assert_eq!(status("/api/v1/nodes"), Some(401));
    assert_eq!(status(&trainyard_tests::Rest::job_path("x")), Some(401));
    let mode = |below: &str| fs::metadata(sandbox.path(below)).expect(below).permissions().mode() & 0o777;
    assert_eq!(mode("config/trainyard/client.json"), 0o600);
    assert_eq!(mode("state/up/token"), 0o600);
    let token = sandbox.run(["token"]).expect(0).stdout;
    assert_eq!(token.trim(), sandbox.read("state/up/token").trim());
}

#[test]
fn the_agent_tells_what_a_task_runs_with_but_no_secret() {
    let sandbox = Sandbox::new();
    let up = Up::start(&sandbox, 1);
    let more = json!({ "secrets": [{ "name": "PASSWORD", "value": "canary-agent-verbs" }] });
    let file = sandbox.job("job", with(waiting(&sandbox, 0), &more));
    drop(sandbox.run(["job", "submit", &file, "-n", "held"]).expect(0));
    up.rest(&sandbox).until_running("held");
    let root = sandbox.text("state/up/nodes/0/LS_root");
    let ask = |arguments: &[&str]| sandbox.run(arguments.iter().copied().chain(["--root", &root]));
    let status = ask(&["agent", "status", "-o", "json"]).expect(0).json();
    assert_eq!((&status["node"], &status["connected"]), (&json!("node-0"), &json!(true)), "{status:#}");
    let environment = ask(&["agent", "env", "master"]).expect(0);
    assert!(environment.stdout.contains("export TRAINYARD_JOB='held'"), "{}", environment.stdout);
    assert!(!format!("{environment:?}").contains("canary-agent-verbs"));
    let enter =
        ["agent", "enter", "master", "--root", &root, "--", "bash", "-c", "echo $TRAINYARD_TASK $PWD"];
    let entered = sandbox.run(enter).expect(0).stdout;
    assert!(
        entered.starts_with("master ") && entered.trim_end().ends_with("/jobs/default/default/held"),
        "{entered}"
    );
    go(&sandbox);
    drop(sandbox.run(["job", "wait", "held"]).expect(0));
}

#[test]
fn down_waits_for_jobs_when_asked_and_leaves_them_when_forced() {
    let sandbox = Sandbox::new();
    let mut up = Up::start(&sandbox, 1);
    let state = sandbox.text("state/up");
    let file = sandbox.job("job", waiting(&sandbox, 0));
    drop(sandbox.run(["job", "submit", &file, "-n", "busy"]).expect(0));
    let job = up.rest(&sandbox).until_running("busy");
    let pid = job["properties"]["trainyard"]["tasks"][0]["pid"].as_i64().expect("a pid");
    let task = Process::of(i32::try_from(pid).expect("small")).expect("it runs");
    drop(sandbox.run(["down", "--force", "--state-dir", &state]).expect(0));
    drop(up.daemon().wait().expect(0));
    assert!(task.lives(), "--force ended a task");
    let mut up = Up::start(&sandbox, 1);
    let mut down =
        Daemon::start(&sandbox, "down", sandbox.command(["down", "--wait", "--state-dir", &state]));
    until("it says that it waits", || down.stderr().contains("waiting for 1 job").then_some(()));
    assert!(task.lives() && !down.has_ended() && !up.daemon().has_ended());
    go(&sandbox);
    drop(down.wait().expect(0));
    drop(up.daemon().wait().expect(0));
    assert!(!task.lives());
}
