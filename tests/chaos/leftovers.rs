//! What must not be left when all jobs are over.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use trainyard_tests::{Fleet, Process, Sandbox, attempt_groups, processes};

use crate::faults::NODES;

/// The last of it goes a moment after the end of the last job is told: logs are uploaded, folders removed.
const PATIENCE: Duration = Duration::from_secs(60);

/// N7: everything that is left although it must not be.
pub(crate) fn check(sandbox: &Sandbox, fleet: &Fleet<'_>, groups: &BTreeSet<PathBuf>) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = look(sandbox, fleet, groups);
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn look(sandbox: &Sandbox, fleet: &Fleet<'_>, groups: &BTreeSet<PathBuf>) -> Vec<String> {
    let mut left = Vec::new();
    let daemons = NODES.iter().filter_map(|node| fleet.agent(node)).chain(fleet.living_coordinator());
    let daemons: Vec<i32> = daemons.map(trainyard_tests::Daemon::pid).collect();
    let name = |process: &Process| format!("process {} {} ({})", process.pid, process.name, process.state);
    let others = sandbox.processes().into_iter().filter(|process| !daemons.contains(&process.pid));
    left.extend(others.map(|process| name(&process)));
    // A zombie carries no path: it is known by its parent.
    let children = processes().into_iter().filter(|process| daemons.contains(&process.parent));
    left.extend(children.map(|process| format!("child of a daemon: {}", name(&process))));
    let instances: BTreeSet<&Path> = groups.iter().filter_map(|group| group.parent()).collect();
    let groups = instances.into_iter().flat_map(attempt_groups);
    left.extend(groups.map(|group| format!("control group {}", group.display())));
    for node in NODES {
        for folder in ["run", "spool"] {
            let folder = PathBuf::from(fleet.root(node)).join(folder);
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let visible = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
            left.extend(visible.map(|entry| format!("folder {}", entry.path().display())));
        }
    }
    let own = sandbox.text("");
    for pid in daemons.iter().map(i32::to_string).chain(["self".to_owned()]) {
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        let ours = mounts.lines().filter(|line| line.contains(own.trim_end_matches('/')));
        left.extend(ours.map(|line| format!("mount of {pid}: {line}")));
    }
    left.sort();
    left.dedup();
    left.into_iter().map(|text| format!("N7: left over: {text}")).collect()
}
