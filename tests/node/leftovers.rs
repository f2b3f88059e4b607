//! After its end nothing of a job is left: no process, no zombie, no control group, no mount.

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;
use trainyard_tests::{Process, Sandbox, Up, custom, groups_of, is_root, processes, until, with};

/// Jobs one after the other.
const JOBS: usize = 12;

#[test]
fn n7_jobs_with_daemonised_children_leave_no_process_no_zombie_and_no_group() {
    let sandbox = Sandbox::new();
    let mut up = Up::start(&sandbox, 2);
    let audit = sandbox.text("audit");
    // Forked twice in a session of its own, without the job's environment, directory or files; and one that
    // ignores everything that can be ignored.
    let line = format!(
        "(setsid env -i bash -c 'cd /; exec sleep 54321 </dev/null >/dev/null 2>&1' & echo $! >> {audit}/pids)\n\
         bash -c 'trap \"\" TERM HUP INT; echo $$ >> {audit}/pids; while :; do sleep 54321; done' &\n\
         until test $(wc -l < {audit}/pids) -ge $((2 * N)); do sleep 0.01; done\n\
         cat /proc/self/cgroup > {audit}/group.$N; exit 0"
    );
    fs::write(sandbox.path("audit/pids"), "").expect("a file");
    let mut groups = BTreeSet::new();
    let mut children: Vec<Process> = Vec::new();
    for n in 1..=JOBS {
        let more = json!({ "environmentVariables": [{ "name": "N", "value": n.to_string() }] });
        let file = sandbox.job("job", with(custom(&line), &more));
        let name = format!("job-{n}");
        drop(sandbox.run(["job", "submit", &file, "-n", &name]).expect(0));
        let see = |process: &Process| groups_of(process).into_iter().collect::<BTreeSet<_>>();
        until("the job ends", || {
            for pid in sandbox.read("audit/pids").lines().filter_map(|line| line.parse().ok()) {
                if let Some(child) =
                    Process::of(pid).filter(|child| !children.iter().any(|it| it.pid == child.pid))
                {
                    groups.extend(see(&child));
                    children.push(child);
                }
            }
            let ended = up.rest(&sandbox).job(&name)["properties"]["executionState"] == "succeeded";
            ended.then_some(())
        });
        // The end of a job is told only when nothing of it is left.
        let pids = sandbox.read("audit/pids");
        let left = |process: &Process| {
            pids.lines().any(|pid| pid == process.pid.to_string()) && process.name == "sleep"
        };
        assert!(!processes().iter().any(left), "job {n} left a process");
    }
    assert_eq!(sandbox.read("audit/pids").lines().count(), 2 * JOBS);
    assert!(!children.is_empty());
    let is_there =
        |child: &Process| Process::of(child.pid).filter(|now| now.start_ticks == child.start_ticks);
    let left: Vec<Process> = children.iter().filter_map(is_there).collect();
    assert_eq!(left, [], "a child outlived its job, or nobody has collected it");
    if is_root() {
        assert!(!groups.is_empty(), "tasks of root have groups of their own");
        until("the groups are gone", || groups.iter().all(|group| !group.exists()).then_some(()));
    } else {
        trainyard_tests::skipped("control groups need root");
    }
    until("the agent has collected its shims", || {
        let daemon = up.daemon().pid();
        (!processes().iter().any(|process| process.parent == daemon)).then_some(())
    });
    for node in ["0", "1"] {
        let run = sandbox.path(&format!("state/up/nodes/{node}/LS_root/run"));
        until("run directories are gone", || {
            fs::read_dir(&run).map_or(true, |mut it| it.next().is_none()).then_some(())
        });
    }
    drop(sandbox.run(["down", "--state-dir", &sandbox.text("state/up")]).expect(0));
    drop(up.daemon().wait().expect(0));
    assert_eq!(sandbox.processes(), []);
}

#[test]
fn a_run_leaves_no_control_group_of_its_own() {
    if !is_root() {
        trainyard_tests::skipped("control groups need root");
        return;
    }
    let sandbox = Sandbox::new();
    let audit = sandbox.text("audit");
    let line = format!("echo $$ > {audit}/pid; until test -e {audit}/go; do sleep 0.01; done");
    let file = sandbox.job("job", custom(&line));
    let mut run = trainyard_tests::Daemon::start(&sandbox, "run", sandbox.command(["run", &file]));
    let pid = until("the task runs", || sandbox.read("audit/pid").trim().parse().ok());
    let groups = groups_of(&Process::of(pid).expect("it runs"));
    assert!(!groups.is_empty());
    fs::write(sandbox.path("audit/go"), "").expect("a file");
    drop(run.wait().expect(0));
    for group in groups {
        let instance = group.parent().expect("the folder of the agent");
        assert!(!group.exists() && !instance.exists(), "{} is left", instance.display());
    }
}
