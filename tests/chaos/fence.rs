//! Leases that run out: nodes as if they were other machines (`keep_local = false`), whose agents stand still.

use nix::sys::signal::Signal;
use trainyard_tests::{Fleet, Process, Rest, Sandbox, signal, until};

use crate::audit;
use crate::evidence::{Line, ShimKills};
use crate::faults::{NODES, shims};
use crate::workload::{Plan, script};

/// The shortest lease that there is: it is over for the shim after 9 s, for the coordinator after 25 s.
const SETTINGS: [&str; 8] =
    ["--heartbeat-s", "1", "--lease-s", "10", "--keep-local", "false", "--stop-grace-s", "1"];

struct Case<'s> {
    sandbox: &'s Sandbox,
    fleet: Fleet<'s>,
    rest: Rest,
}

impl<'s> Case<'s> {
    fn start(sandbox: &'s Sandbox) -> Case<'s> {
        let mut fleet = Fleet::start(sandbox, &SETTINGS);
        NODES.iter().for_each(|node| fleet.start_agent(node));
        fleet.until_connected(&NODES);
        let rest = fleet.rest();
        Case { sandbox, fleet, rest }
    }

    /// Hands in a job that runs until `go`, and gives its resource once it runs.
    fn submit(&self, name: &str, ranks: u32) -> (Plan, serde_json::Value) {
        let plan = Plan { until: Some(self.sandbox.text("audit/go")), ..Plan::new(name, ranks) };
        let body = plan.body(&script(), &self.sandbox.path("audit"), &self.sandbox.path("out"));
        assert_eq!(self.rest.put(&Rest::job_path(name), &body), Some(202));
        until("all tasks have said that they run", || {
            let starts = self.lines(name).into_iter().filter(|line| matches!(line, Line::Start { .. }));
            (starts.count() == usize::try_from(ranks).expect("small")).then_some(())
        });
        let running = self.rest.until_running(name);
        (plan, running)
    }

    fn lines(&self, name: &str) -> Vec<Line> {
        Line::of_job(&self.sandbox.path("audit"), name)
    }

    /// Waits until every task of a second gang has said that it runs.
    fn until_second_gang(&self, name: &str, ranks: u32) {
        until("the second gang runs", || {
            let second = |line: &Line| matches!(line, Line::Start { gang: 2, .. });
            let count = self.lines(name).iter().filter(|line| second(line)).count();
            (count == usize::try_from(ranks).expect("small")).then_some(())
        });
    }

    fn finish(&self, name: &str) -> serde_json::Value {
        std::fs::write(self.sandbox.path("audit/go"), "").expect("a file");
        self.rest.until_ended(name)
    }
}

fn task_on(job: &serde_json::Value, node: &str) -> Process {
    let tasks = job["properties"]["trainyard"]["tasks"].as_array().expect("tasks");
    let task = tasks.iter().find(|task| task["node"] == node).expect("a task on this node");
    let pid = task["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a pid");
    Process::of(pid).expect("it runs")
}

fn node_of(job: &serde_json::Value, rank: usize) -> &'static str {
    let node = job["properties"]["trainyard"]["tasks"][rank]["node"].as_str().expect("a node");
    NODES.into_iter().find(|it| *it == node).expect("one of ours")
}

#[test]
fn fault_08_n6_the_shim_ends_its_task_before_a_second_gang_starts_while_the_agent_stands_still() {
    let sandbox = Sandbox::new();
    let case = Case::start(&sandbox);
    let (_, running) = case.submit("gang", 2);
    let still = node_of(&running, 0);
    let (task, other) = (task_on(&running, still), task_on(&running, node_of(&running, 1)));
    let agent = case.fleet.agent(still).expect("an agent");
    agent.signal(Signal::SIGSTOP);
    until("the fence has ended the task", || (!task.lives()).then_some(()));
    assert_eq!(Process::of(agent.pid()).map(|it| it.state), Some('T'), "the agent had no part in that");
    let gang = |job: &serde_json::Value| job["properties"]["trainyard"]["gang"].clone();
    assert_eq!(gang(&case.rest.job("gang")), 1, "the shim's lease is over before the coordinator's");
    assert!(other.lives(), "the node that is heard of goes on");
    case.until_second_gang("gang", 2);
    assert!(!other.lives(), "all of the first gang has ended");
    agent.signal(Signal::SIGCONT);
    case.fleet.until_connected(&NODES);
    let ended = case.finish("gang");
    assert_eq!(ended["properties"]["executionState"], "succeeded", "{ended:#}");
    assert_eq!(gang(&ended), 2);
    let lines = case.lines("gang");
    let overlaps = lines.iter().filter(|line| matches!(line, Line::Overlap { .. })).count();
    assert_eq!(overlaps, 0, "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| matches!(line, Line::Start { .. })).count(), 4, "{lines:#?}");
}

#[test]
fn n6_the_stated_exception_shim_and_agent_both_still_past_the_lease_is_seen_and_ends() {
    let sandbox = Sandbox::new();
    let case = Case::start(&sandbox);
    let (plan, running) = case.submit("both", 1);
    let still = node_of(&running, 0);
    let task = task_on(&running, still);
    let agent = case.fleet.agent(still).expect("an agent");
    let shim = shims(&sandbox).into_iter().find(|shim| shim.node == still).expect("a shim").process;
    signal(shim.pid, Signal::SIGSTOP);
    agent.signal(Signal::SIGSTOP);
    case.until_second_gang("both", 1);
    until("the second one has seen the first", || {
        let overlap = Line::Overlap { gang: 2, rank: 0, other_gang: 1, other_rank: 0 };
        case.lines("both").contains(&overlap).then_some(())
    });
    assert!(task.lives(), "nobody could end it: the one overlap that N6 allows");
    let job = crate::evidence::Job {
        plan,
        id: 1,
        cancelled: false,
        deleted: false,
        outcome: None,
        lines: case.lines("both"),
        journal: vec![],
        streams: vec![],
    };
    let found = audit::check(&job, &ShimKills::new());
    let overlaps = found.iter().filter(|text| text.contains("started while 1.0 lived")).count();
    assert_eq!(overlaps, 1, "the auditor counts it: {found:#?}");
    signal(shim.pid, Signal::SIGCONT);
    until("the shim finds its fence behind it", || (!task.lives()).then_some(()));
    agent.signal(Signal::SIGCONT);
    case.fleet.until_connected(&NODES);
    let ended = case.finish("both");
    assert_eq!(ended["properties"]["executionState"], "succeeded", "{ended:#}");
    let starts = case.lines("both").into_iter().filter(|line| matches!(line, Line::Start { .. })).count();
    assert_eq!(starts, 2);
}
