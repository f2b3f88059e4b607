//! Partitions of real networks: one direction alone, and longer than the lease, for both policies.

use std::fs;

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use trainyard_tests::{Fleet, Process, Rest, Sandbox, custom, until, with};

use crate::network::{ADDRESSES, COORDINATOR, NODES, Network, networks, tools_are_missing};

/// Does this in the coordinator's network, with a network for each node beside it.
fn apart(work: impl FnOnce(&Sandbox, &Network, &[Network]) + Send) {
    if tools_are_missing() {
        return;
    }
    let sandbox = Sandbox::new();
    let (middle, nodes) = networks(&sandbox);
    // A namespace belongs to a thread: this one's children and connections are the coordinator's.
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let namespace = fs::File::open(middle.path()).expect("the namespace");
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter it");
            work(&sandbox, &middle, &nodes);
        });
        if let Err(panic) = inside.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn fleet<'a>(sandbox: &'a Sandbox, nodes: &[Network], lease_s: &str) -> Fleet<'a> {
    let settings = ["--insecure-listen", "--heartbeat-s", "1", "--keep-local", "false", "--lease-s", lease_s];
    let mut fleet = Fleet::start_at(sandbox, &format!("{COORDINATOR}:8470"), &settings);
    for ((name, address), network) in NODES.iter().zip(ADDRESSES).zip(nodes) {
        let command = network.inside(&fleet.agent_command(name, address));
        fleet.start_agent_as(name, command);
    }
    fleet.until_connected(&NODES);
    fleet
}

/// A job that notes its gang, then waits for a file of its name.
fn waiting_job(sandbox: &Sandbox, fleet: &Fleet<'_>, name: &str, more: &Value) -> Process {
    let audit = sandbox.text("audit");
    let line = format!(
        "echo $TRAINYARD_GANG >> {audit}/{name}.gangs; until test -e {audit}/{name}.go; do sleep 0.02; done"
    );
    let file = sandbox.job(name, with(custom(&line), more));
    drop(fleet.run(&["job", "submit", &file, "-n", name]).expect(0));
    task_of(&fleet.rest().until_running(name))
}

fn task_of(job: &Value) -> Process {
    let pid = job["properties"]["trainyard"]["tasks"][0]["pid"].as_i64().expect("a pid");
    Process::of(i32::try_from(pid).expect("small")).expect("it runs")
}

fn task_state(rest: &Rest, job: &str) -> Value {
    rest.job(job)["properties"]["trainyard"]["tasks"][0]["state"].clone()
}

#[test]
fn fault_13_a_cut_of_one_direction_is_noticed_on_both_sides_and_changes_nothing() {
    apart(|sandbox, middle, nodes| {
        let fleet = fleet(sandbox, nodes, "600");
        let rest = fleet.rest();
        let task = waiting_job(sandbox, &fleet, "half", &json!({}));
        let root = fleet.root("n1");
        let agent_is_connected = || {
            let status = sandbox.run(["agent", "status", "-o", "json", "--root", &root]).expect(0).json();
            status["connected"] == true
        };
        // What goes down to the node is lost; then what comes up from it.
        for (side, address) in [(middle, ADDRESSES[0]), (&nodes[0], COORDINATOR)] {
            side.ip(&format!("route add blackhole {address}/32"));
            until("the coordinator knows it", || {
                (rest.get("/api/v1/nodes/n1")["state"] == "unknown").then_some(())
            });
            until("the agent knows it", || (!agent_is_connected()).then_some(()));
            assert_eq!(task_state(&rest, "half"), "unknown");
            assert_eq!(rest.job("half")["properties"]["executionState"], "running");
            let shown = fleet.run(&["job", "show", "half"]).expect(0).stdout;
            assert!(shown.contains("unknown since "), "{shown}");
            assert!(task.lives(), "the cut ended the task");
            side.ip(&format!("route del blackhole {address}/32"));
            fleet.until_connected(&NODES);
            assert_eq!(task_of(&rest.until_running("half")).start_ticks, task.start_ticks);
        }
        fs::write(sandbox.path("audit/half.go"), "").expect("a file");
        drop(fleet.run(&["job", "wait", "half"]).expect(0));
        assert_eq!(sandbox.read("audit/half.gangs"), "1\n");
    });
}

#[test]
fn fault_12_a_cut_longer_than_the_lease_ends_fenced_tasks_on_their_node_and_no_kept_ones() {
    apart(|sandbox, middle, nodes| {
        let fleet = fleet(sandbox, nodes, "10");
        let rest = fleet.rest();
        let fenced = waiting_job(sandbox, &fleet, "fenced", &json!({}));
        let kept = waiting_job(sandbox, &fleet, "kept", &json!({ "onLeaseLost": "keep" }));
        let node_of = |job: &str| rest.job(job)["properties"]["trainyard"]["tasks"][0]["node"].clone();
        assert_eq!((node_of("fenced"), node_of("kept")), (json!("n1"), json!("n2")));
        for node in ["n1", "n2"] {
            middle.ip(&format!("link set {node} down"));
        }
        until("the fenced task is ended on its node, which hears nobody", || (!fenced.lives()).then_some(()));
        let again = rest.until_job("fenced", "it runs elsewhere", |job| {
            let task = &job["properties"]["trainyard"]["tasks"][0];
            task["node"] == "n3" && task["state"] == "running"
        });
        assert_eq!(again["properties"]["trainyard"]["gang"], 2);
        assert!(again["properties"]["trainyard"]["retriesUsed"].is_null(), "{again:#}");
        assert!(kept.lives(), "the kept one goes on");
        assert_eq!(task_state(&rest, "kept"), "unknown");
        assert_eq!(rest.job("kept")["properties"]["trainyard"]["gang"], 1);
        for node in ["n1", "n2"] {
            middle.ip(&format!("link set {node} up"));
        }
        fleet.until_connected(&NODES);
        assert_eq!(task_of(&rest.until_running("kept")).start_ticks, kept.start_ticks);
        for job in ["fenced", "kept"] {
            fs::write(sandbox.path(&format!("audit/{job}.go")), "").expect("a file");
            drop(fleet.run(&["job", "wait", job]).expect(0));
        }
        assert_eq!(sandbox.read("audit/fenced.gangs"), "1\n2\n");
        assert_eq!(sandbox.read("audit/kept.gangs"), "1\n");
    });
}
