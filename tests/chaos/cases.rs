//! Single faults of the catalogue with real processes.

use std::sync::atomic::{AtomicBool, Ordering};

use trainyard_tests::{Fleet, Process, Rest, Sandbox, until};

use crate::evidence::{Line, Outcome};
use crate::faults::NODES;
use crate::noise::Noise;
use crate::store;
use crate::workload::{Plan, script};

/// Of the coordinator while jobs are handed in.
const COORDINATOR_KILLS: u64 = 20;
/// Of an agent while its task runs.
const AGENT_KILLS: u64 = 30;

#[test]
fn fault_01_n1_kill_9_of_the_coordinator_while_jobs_are_handed_in_loses_none_and_doubles_none() {
    let sandbox = Sandbox::new();
    let mut fleet = Fleet::start(&sandbox, &[]);
    let (audit, out) = (sandbox.path("audit"), sandbox.path("out"));
    let is_over = AtomicBool::new(false);
    let rest = fleet.rest();
    let mut noise = Noise::new(1);
    // No agent: jobs wait, so nothing but handing in meets the kills.
    let (acknowledged, again) = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let rest = rest;
            let (mut acknowledged, mut again) = (0, 0);
            while !is_over.load(Ordering::SeqCst) {
                let plan = Plan::new(&format!("job-{acknowledged}"), 1);
                let body = plan.body(&script(), &audit, &out);
                loop {
                    match rest.put(&Rest::job_path(&plan.name), &body) {
                        Some(202) => break,
                        // Committed, and only the answer was lost.
                        Some(200) => break again += 1,
                        None | Some(503) => {}
                        Some(status) => panic!("{} was refused with {status}", plan.name),
                    }
                }
                acknowledged += 1;
            }
            (acknowledged, again)
        });
        for _ in 0..COORDINATOR_KILLS {
            fleet.rest().until_healthy();
            std::thread::sleep(std::time::Duration::from_millis(noise.below(60)));
            fleet.kill_coordinator();
            fleet.start_coordinator();
        }
        is_over.store(true, Ordering::SeqCst);
        client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    eprintln!("{acknowledged} jobs were acknowledged, {again} of them when handed in again");
    let rest = fleet.rest();
    rest.until_healthy();
    for index in 0..acknowledged {
        let name = format!("job-{index}");
        assert_eq!(rest.job(&name)["properties"]["executionState"], "queued", "{name}");
        let plan = Plan::new(&name, 1);
        let put = |plan: &Plan| rest.put(&Rest::job_path(&name), &plan.body(&script(), &audit, &out));
        assert_eq!(put(&plan), Some(200), "{name}: the same job");
        assert_eq!(put(&Plan { code: 1, ..plan }), Some(409), "{name}: another job");
    }
    fleet.kill_coordinator();
    let stored = store::read(&sandbox.path("state/coordinator/coordinator"), 0).expect("the database");
    assert_eq!(stored.damage, Vec::<String>::new());
    let submitted = stored.journal.iter().filter(|(_, entry)| entry.kind == "jobSubmitted");
    let mut names: Vec<&String> = submitted.map(|(name, _)| name).collect();
    names.sort();
    names.dedup();
    let all = stored.journal.iter().filter(|(_, entry)| entry.kind == "jobSubmitted").count();
    assert_eq!((names.len(), all), (acknowledged, acknowledged), "each once, and no other");
}

#[test]
fn fault_04_n5_n6_agent_kill_9_in_a_tight_loop_changes_no_process_and_starts_nothing_again() {
    let sandbox = Sandbox::new();
    let mut fleet = Fleet::start(&sandbox, &["--heartbeat-s", "1"]);
    NODES.iter().for_each(|node| fleet.start_agent(node));
    fleet.until_connected(&NODES);
    let rest = fleet.rest();
    let plan = Plan { until: Some(sandbox.text("audit/go")), ..Plan::new("held", 3) };
    let body = plan.body(&script(), &sandbox.path("audit"), &sandbox.path("out"));
    assert_eq!(rest.put(&Rest::job_path("held"), &body), Some(202));
    let running = rest.until_running("held");
    let tasks = &running["properties"]["trainyard"]["tasks"];
    let processes: Vec<Process> = tasks
        .as_array()
        .expect("tasks")
        .iter()
        .filter_map(|task| Process::of(i32::try_from(task["pid"].as_i64()?).ok()?))
        .collect();
    assert_eq!(processes.len(), 3);
    let mut noise = Noise::new(4);
    for round in 0..AGENT_KILLS {
        let node = *noise.of(&NODES);
        fleet.kill_agent(node);
        fleet.start_agent(node);
        // Some live long enough to adopt, some do not.
        if round.is_multiple_of(5) {
            fleet.until_connected(&NODES);
        } else {
            std::thread::sleep(std::time::Duration::from_millis(noise.below(80)));
        }
        for process in &processes {
            let now = Process::of(process.pid).expect("the task lives");
            assert_eq!(
                (now.start_ticks, &now.cgroups),
                (process.start_ticks, &process.cgroups),
                "round {round}"
            );
        }
    }
    fleet.until_connected(&NODES);
    until("the agents tell the same tasks", || {
        (&rest.job("held")["properties"]["trainyard"]["tasks"] == tasks).then_some(())
    });
    std::fs::write(sandbox.path("audit/go"), "").expect("a file");
    let ended = Outcome::of(&rest.until_ended("held"));
    assert_eq!((ended.code, ended.reason.as_str()), (Some(0), "Succeeded"));
    let lines = Line::of_job(&sandbox.path("audit"), "held");
    let starts: Vec<&Line> = lines.iter().filter(|line| matches!(line, Line::Start { .. })).collect();
    let ends = lines.iter().filter(|line| matches!(line, Line::End { code: 0, .. })).count();
    assert_eq!((starts.len(), ends), (3, 3), "{lines:#?}");
    for rank in 0..3 {
        for (which, expected) in [plan.stream(1, rank, 0), plan.stream(1, rank, 1)].iter().enumerate() {
            let file = plan.file(rank, which);
            assert!(rest.whole_log("held", &file) == *expected, "{file} differs");
        }
    }
}
