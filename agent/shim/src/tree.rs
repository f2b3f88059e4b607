//! The processes of the attempt: which there are, and how they are signalled. By cgroup where there is one,
//! else by descent: the shim is a subreaper, so every orphan of the task becomes its child.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use trainyard_core::shim::Cgroups;

use crate::exec::path_of;
use crate::sys;

/// So many processes are signalled together; each takes a descriptor for a moment.
const BATCH: usize = 128;

/// Where to look for the attempt's processes.
pub(crate) struct Tree {
    v2: Option<PathBuf>,
    v1: Vec<PathBuf>,
    main: i32,
}

impl Tree {
    pub(crate) fn new(cgroups: &Cgroups, main: i32) -> Tree {
        let path = |bytes: &Vec<u8>| path_of(bytes).to_owned();
        Tree { v2: cgroups.v2.as_ref().map(path), v1: cgroups.v1.iter().map(path).collect(), main }
    }

    /// SIGTERM to the task's process group and to everything else of it.
    pub(crate) fn terminate(&self, main_is_there: bool) {
        if main_is_there {
            sys::kill(-self.main, libc::SIGTERM);
        }
        self.signal_members(libc::SIGTERM, if main_is_there { group_of(self.main) } else { None });
    }

    /// SIGKILL to everything. Callers repeat it until nothing is left: without v2, forks race with it.
    pub(crate) fn kill(&self, main_is_there: bool) {
        if main_is_there {
            sys::kill(-self.main, libc::SIGKILL);
        }
        if self.v2.as_ref().is_some_and(|dir| fs::write(dir.join("cgroup.kill"), "1").is_ok()) {
            // What is left of it are processes that left the group: a task that is root can do that.
            return self.signal_members(libc::SIGKILL, None);
        }
        // Only the freezer has this file. A frozen group cannot fork away from the signals.
        self.v1.iter().for_each(|dir| drop(fs::write(dir.join("freezer.state"), "FROZEN")));
        self.signal_members(libc::SIGKILL, None);
        self.v1.iter().for_each(|dir| drop(fs::write(dir.join("freezer.state"), "THAWED")));
    }

    /// How many processes there are.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.members().len()).unwrap_or(u32::MAX)
    }

    /// Whether no cgroup of it holds a process. The caller knows whether the shim has children.
    pub(crate) fn is_empty(&self) -> bool {
        // By listing, not by `populated`: newer kernels clear that a moment after the parent has reaped.
        let mut found = BTreeSet::new();
        self.add_grouped(&mut found);
        found.is_empty()
    }

    /// How often the out-of-memory killer struck in it.
    pub(crate) fn oom_kills(&self) -> u64 {
        let v2 = self.v2.iter().map(|dir| dir.join("memory.events"));
        let v1 = self.v1.iter().map(|dir| dir.join("memory.oom_control"));
        v2.chain(v1).filter_map(|path| oom_kills(&fs::read_to_string(path).ok()?)).max().unwrap_or(0)
    }

    fn members(&self) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        self.add_grouped(&mut found);
        add_descendants(None, &mut found);
        found
    }

    fn add_grouped(&self, found: &mut BTreeSet<i32>) {
        match &self.v2 {
            Some(dir) => add_members(dir, found),
            None => self.v1.iter().for_each(|dir| add_members(dir, found)),
        }
    }

    /// Signals every member. A handle is taken first and membership checked after, so that a process that
    /// has taken over the number of one that ended in between is not hit.
    fn signal_members(&self, signal: i32, except: Option<BTreeSet<i32>>) {
        let except = except.unwrap_or_default();
        let members: Vec<i32> = self.members().difference(&except).copied().collect();
        for batch in members.chunks(BATCH) {
            let handles: Vec<(i32, OwnedFd)> =
                batch.iter().filter_map(|pid| Some((*pid, sys::pidfd(*pid).ok()?))).collect();
            let still = self.members();
            for (_, handle) in handles.iter().filter(|(pid, _)| still.contains(pid)) {
                sys::signal(handle, signal);
            }
        }
    }
}

/// The processes of a process group, so that SIGTERM reaches each process once.
fn group_of(leader: i32) -> Option<BTreeSet<i32>> {
    let mut descendants = BTreeSet::from([leader]);
    add_descendants(None, &mut descendants);
    Some(
        descendants
            .into_iter()
            .filter(|pid| stat_field(*pid, 2) == Some(leader.unsigned_abs().into()))
            .collect(),
    )
}

/// A numeric field of `/proc/PID/stat`, counted from 0 after the name in brackets: 1 parent, 2 process group,
/// 19 start time in clock ticks since boot.
pub(crate) fn stat_field(pid: i32, field: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(field)?.parse().ok()
}

/// Adds the processes of a group and of the groups below it (a task that is root may have made some).
fn add_members(dir: &Path, found: &mut BTreeSet<i32>) {
    if let Ok(text) = fs::read_to_string(dir.join("cgroup.procs")) {
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    }
    // Two links: no group below.
    if fs::metadata(dir).is_ok_and(|metadata| metadata.nlink() <= 2) {
        return;
    }
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        add_members(&entry.path(), found);
    }
}

/// Adds the children of a process (`None`: of the shim), their children, and so on.
fn add_descendants(pid: Option<i32>, found: &mut BTreeSet<i32>) {
    let tasks = pid.map_or("/proc/self/task".to_owned(), |pid| format!("/proc/{pid}/task"));
    for task in fs::read_dir(tasks).into_iter().flatten().flatten() {
        for child in children(&task.path()) {
            if found.insert(child) {
                add_descendants(Some(child), found);
            }
        }
    }
}

fn children(task: &Path) -> Vec<i32> {
    let text = fs::read_to_string(task.join("children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn oom_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}
