//! An operator's verbs on nodes, by the command line against a real `up`.

use std::fs;

use serde_json::{Value, json};
use trainyard_tests::{Daemon, Sandbox, Up, custom, until};

fn explained(sandbox: &Sandbox, job: &str) -> String {
    sandbox.run(["job", "explain", job]).expect(0).stdout
}

#[test]
fn a_drain_waits_for_what_runs_and_a_resume_gives_work_again() {
    let sandbox = Sandbox::new();
    let up = Up::start(&sandbox, 1);
    let rest = up.rest(&sandbox);
    let audit = sandbox.text("audit");
    let line = format!("until test -e {audit}/go; do sleep 0.02; done");
    let file = sandbox.job("job", custom(&line));
    drop(sandbox.run(["job", "submit", &file, "-n", "first"]).expect(0));
    drop(rest.until_running("first"));
    let waits = sandbox.command(["node", "drain", "node-0", "--reason", "new disk", "--wait"]);
    let mut waits = Daemon::start(&sandbox, "drain", waits);
    until("it is draining", || {
        let list = sandbox.run(["node", "list"]).expect(0).stdout;
        list.contains("draining (new disk)").then_some(())
    });
    drop(sandbox.run(["job", "submit", &file, "-n", "second"]).expect(0));
    until("the second one says why it waits", || {
        let text = explained(&sandbox, "second");
        (text.contains("node-0") && text.contains("(new disk)")).then_some(())
    });
    assert!(!waits.has_ended(), "the node still runs the first job");
    fs::write(sandbox.path("audit/go"), "").expect("a file");
    drop(waits.wait().expect(0));
    drop(sandbox.run(["job", "wait", "first"]).expect(0));
    let node = sandbox.run(["node", "show", "node-0", "-o", "json"]).expect(0).json();
    assert_eq!((&node["state"], &node["job"]), (&json!("drained"), &Value::Null), "{node:#}");
    assert_eq!(rest.job("second")["properties"]["executionState"], "queued");
    drop(sandbox.run(["node", "resume", "node-0"]).expect(0));
    drop(sandbox.run(["job", "wait", "second"]).expect(0));
}

#[test]
fn declare_lost_asks_first_and_refuses_a_node_that_is_there() {
    let sandbox = Sandbox::new();
    let up = Up::start(&sandbox, 1);
    let unasked = sandbox.run(["node", "declare-lost", "node-0"]).expect(2);
    assert!(unasked.stderr.contains("--yes"), "{}", unasked.stderr);
    let there = sandbox.run(["node", "declare-lost", "node-0", "--yes"]).expect(1);
    assert!(there.stderr.contains("is connected"), "{}", there.stderr);
    let node = up.rest(&sandbox).get("/api/v1/nodes/node-0");
    assert_eq!((&node["state"], &node["drain"]), (&json!("idle"), &Value::Null), "{node:#}");
    drop(sandbox.run(["node", "drain", "nobody"]).expect(1));
}
