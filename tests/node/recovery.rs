//! A coordinator whose database was restored, with real agents and a task that runs on.

use std::fs;

use serde_json::{Value, json};
use trainyard_tests::{Fleet, Process, Sandbox, custom, until};

#[test]
fn fault_17_a_task_that_a_restored_database_does_not_know_runs_to_its_end() {
    let sandbox = Sandbox::new();
    let mut fleet = Fleet::start(&sandbox, &["--heartbeat-s", "1"]);
    fleet.start_agent("node-a");
    fleet.until_connected(&["node-a"]);
    let (state, backup) = (fleet.state_dir(), sandbox.text("backup.db"));
    drop(sandbox.run(["coordinator", "backup", "--to", &backup, "--state-dir", &state]).expect(0));

    let audit = sandbox.text("audit");
    let line = format!(
        "echo $$ > {audit}/started; until test -e {audit}/go; do sleep 0.02; done; touch {audit}/ended"
    );
    let file = sandbox.job("lost", custom(&line));
    drop(fleet.run(&["job", "submit", &file, "-n", "lost"]).expect(0));
    let job = fleet.rest().until_running("lost");
    let pid = job["properties"]["trainyard"]["tasks"][0]["pid"].as_i64().expect("a pid");
    let task = Process::of(i32::try_from(pid).expect("small")).expect("it runs");
    fleet.kill_coordinator();
    drop(sandbox.run(["coordinator", "restore", &backup, "--state-dir", &state]).expect(0));
    fleet.start_coordinator();
    fleet.rest().until_healthy();

    // It says what the agent holds, and decides nothing.
    let recovery = || -> Value { fleet.run(&["coordinator", "recover", "-o", "json"]).expect(0).json() };
    let shown = until("the agent has said what it holds", || {
        let shown = recovery();
        (shown["nodes"].as_array().is_some_and(|nodes| !nodes.is_empty())).then_some(shown)
    });
    assert_eq!(
        shown["nodes"][0]["gangs"][0],
        json!({ "gang": "1.1", "job": null, "phase": "running", "after": "foreign" })
    );
    let file = sandbox.job("next", custom(&format!("test -e {audit}/ended")));
    let refused = fleet.run(&["job", "submit", &file, "-n", "next"]);
    assert!(refused.code != 0 && refused.stderr.contains("coordinator recover"), "{refused:?}");
    assert!(task.lives());

    let adopted = fleet.run(&["coordinator", "recover", "--adopt", "-o", "json"]).expect(0).json();
    assert_eq!((&adopted["nextJob"], &adopted["foreign"]), (&json!(1_000_001), &json!(1)));
    fleet.until_connected(&["node-a"]);
    drop(fleet.run(&["job", "submit", &file, "-n", "next"]).expect(0));
    let explained = until("it waits for the node", || {
        let text = fleet.run(&["job", "explain", "next"]).expect(0).stdout;
        text.contains("node-a").then_some(text)
    });
    assert!(task.lives(), "{explained}");
    fs::write(sandbox.path("audit/go"), "").expect("a file");
    // It succeeds only beside nobody: the other has ended by itself.
    drop(fleet.run(&["job", "wait", "next"]).expect(0));
    assert_eq!(recovery()["foreign"], json!([]));
    assert_eq!(sandbox.read("audit/started").trim(), pid.to_string(), "it was started once");
}
