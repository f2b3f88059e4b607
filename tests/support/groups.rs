//! Control groups of attempts, as the kernel shows them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Process;

/// Where hierarchies are mounted, with the name that `/proc/PID/cgroup` gives them (empty: v2).
fn hierarchies() -> Vec<(String, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found = Vec::new();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(point) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
        let right: Vec<&str> = right.split(' ').collect();
        match right.first() {
            Some(&"cgroup2") => found.push((String::new(), point)),
            Some(&"cgroup") => {
                let names = right.get(2).copied().unwrap_or_default().split(',');
                found.extend(names.map(|name| (name.to_owned(), point.clone())));
            }
            Some(_) | None => {}
        }
    }
    found
}

/// The folders of the groups that a process is in and that Trainyard has made.
#[must_use]
pub fn groups_of(process: &Process) -> Vec<PathBuf> {
    let hierarchies = hierarchies();
    let mut found = Vec::new();
    for line in process.cgroups.iter().filter(|line| line.contains("/trainyard/")) {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (parts.next(), parts.next()) else { continue };
        let mounted = hierarchies.iter().filter(|(name, _)| names.split(',').any(|own| own == name));
        found.extend(
            mounted.map(|(_, point)| point.join(path.trim_start_matches('/'))).filter(|path| path.is_dir()),
        );
    }
    found.sort();
    found.dedup();
    found
}

/// The groups of attempts below a folder of an agent, as `.../trainyard/<instance>`.
#[must_use]
pub fn attempt_groups(instance: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(instance).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
