//! What `/proc` and the cgroups say about processes, and how they are signalled without hitting a stranger:
//! a handle first, then a second look whether the number still means the same process.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::sys;

/// So many processes are signalled together; each takes a descriptor for a moment.
const BATCH: usize = 128;

/// A numeric field of `/proc/PID/stat`, counted from 0 after the name in brackets.
fn stat_field(pid: u32, field: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(field)?.parse().ok()
}

/// When a process started, in clock ticks since boot: with its number this names it until a reboot.
pub(super) fn start_time_ticks(pid: u32) -> Option<u64> {
    stat_field(pid, 19)
}

/// The session that a process belongs to.
fn session(pid: u32) -> Option<u32> {
    stat_field(pid, 3)?.try_into().ok()
}

/// Whether a process runs (a zombie does not).
pub(super) fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Whether a process is a shim.
pub(super) fn is_shim(pid: u32) -> bool {
    // The kernel cuts names at 15 bytes.
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with("trainyard-shim"))
}

/// Adds the processes of a cgroup and of the groups below it.
pub(super) fn add_group_members(dir: &Path, found: &mut BTreeSet<u32>) {
    if let Ok(text) = fs::read_to_string(dir.join("cgroup.procs")) {
        found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid > 0));
    }
    // Two links: no group below.
    if fs::metadata(dir).is_ok_and(|metadata| metadata.nlink() <= 2) {
        return;
    }
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        add_group_members(&entry.path(), found);
    }
}

/// Adds the children of a process, their children, and so on.
pub(super) fn add_descendants(pid: u32, found: &mut BTreeSet<u32>) {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for task in tasks {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in text.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            if found.insert(child) {
                add_descendants(child, found);
            }
        }
    }
}

/// Adds the running processes of a session.
pub(super) fn add_session_members(leader: u32, found: &mut BTreeSet<u32>) {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    found.extend(pids.filter(|pid| session(*pid) == Some(leader) && is_running(*pid)));
}

/// Signals all processes that `members` lists, and lists again once there is a handle.
pub(super) fn signal_all(members: impl Fn() -> BTreeSet<u32>, signal: i32) {
    let listed: Vec<u32> = members().into_iter().collect();
    for batch in listed.chunks(BATCH) {
        let handle = |pid: &u32| Some((*pid, sys::pidfd_open(*pid).ok()?));
        let handles: Vec<(u32, OwnedFd)> = batch.iter().filter_map(handle).collect();
        let still = members();
        for (pid, handle) in handles.iter().filter(|(pid, _)| still.contains(pid)) {
            if let Err(error) = sys::pidfd_signal(handle, signal) {
                tracing::warn!(pid, signal, %error, "cannot signal a process of an attempt");
            }
        }
    }
}

/// A handle of one of the processes that `members` lists, of `main` if it is among them.
pub(super) fn any_handle(
    main: Option<u32>,
    members: impl Fn() -> BTreeSet<u32>,
) -> io::Result<Option<OwnedFd>> {
    loop {
        let listed = members();
        let main = main.filter(|pid| listed.contains(pid) && is_running(*pid));
        let Some(pid) = main.or(listed.first().copied()) else { return Ok(None) };
        match sys::pidfd_open(pid) {
            Ok(handle) if members().contains(&pid) => return Ok(Some(handle)),
            Ok(_) => {}
            // It has just ended; the next listing has it no more.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => return Err(error),
        }
    }
}
