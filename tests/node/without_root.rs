//! The same without root: no control groups and no mounts, and nothing is left all the same.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use trainyard_tests::{Finished, Process, Sandbox, custom, is_root, trainyard, with};

/// `nobody`, where this test is root.
const NOBODY: u32 = 65_534;

/// A sandbox whose programs are not root; `None`, with a line that says so, where that cannot be had.
fn sandbox() -> Option<Sandbox> {
    let sandbox = Sandbox::new();
    if !is_root() {
        return Some(sandbox);
    }
    give_away(&sandbox.path(""));
    let started = as_nobody(&sandbox, &["--version"]).output();
    if started.is_ok_and(|output| output.status.success()) {
        return Some(sandbox);
    }
    trainyard_tests::skipped(&format!("users other than root cannot start {}", trainyard().display()));
    None
}

fn give_away(folder: &Path) {
    std::os::unix::fs::chown(folder, Some(NOBODY), Some(NOBODY)).expect("root may give files away");
    for entry in fs::read_dir(folder).expect("a folder").flatten().filter(|it| it.path().is_dir()) {
        give_away(&entry.path());
    }
}

#[expect(clippy::disallowed_methods, reason = "a test may fork; what it starts is no agent yet")]
fn as_nobody(sandbox: &Sandbox, arguments: &[&str]) -> Command {
    let mut command = sandbox.command(arguments);
    command.env("HOME", sandbox.path(""));
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn run(sandbox: &Sandbox, arguments: &[&str]) -> Finished {
    Finished::of(&as_nobody(sandbox, arguments).output().expect("it can be started"))
}

#[test]
fn a_job_of_a_plain_user_ends_with_its_code_and_leaves_no_process() {
    let Some(sandbox) = sandbox() else { return };
    let audit = sandbox.text("audit");
    let line = format!(
        "id -u > {audit}/user\n\
         (setsid env -i bash -c 'cd /; exec sleep 54322 </dev/null >/dev/null 2>&1' & echo $! >> {audit}/pids)\n\
         bash -c 'trap \"\" TERM HUP INT; echo $$ >> {audit}/pids; while :; do sleep 54322; done' &\n\
         until test $(wc -l < {audit}/pids) = 2; do sleep 0.01; done; echo hello; exit 6"
    );
    let file = sandbox.job("job", custom(&line));
    let job = run(&sandbox, &["run", &file, "-o", "json"]).expect(6).last_line_json();
    assert_ne!(sandbox.read("audit/user"), "0\n");
    assert_eq!(fs::read_to_string(sandbox.logs(&job).join("stdout.txt")).expect("its log"), "hello\n");
    let pids: Vec<i32> = sandbox.read("audit/pids").lines().filter_map(|pid| pid.parse().ok()).collect();
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|pid| Process::of(*pid).is_none()), "a child outlived its job");
    assert_eq!(sandbox.processes(), []);
}

#[test]
fn a_directory_of_the_host_is_a_link_and_a_read_only_one_is_refused() {
    let Some(sandbox) = sandbox() else { return };
    fs::create_dir(sandbox.path("data")).expect("a folder");
    fs::write(sandbox.path("data/set"), "digits").expect("a file");
    let host = |read_only: bool| {
        let path = json!({ "path": "data", "relativeMountPath": "in", "readOnly": read_only });
        let line = "test -L $AZ_BATCHAI_JOB_MOUNT_ROOT/in && cat $AZ_BATCHAI_JOB_MOUNT_ROOT/in/set";
        with(custom(line), &json!({ "mountVolumes": { "hostPaths": [path] } }))
    };
    let file = sandbox.job("plain", host(false));
    let job = run(&sandbox, &["run", &file, "-o", "json"]).expect(0).last_line_json();
    assert_eq!(fs::read_to_string(sandbox.logs(&job).join("stdout.txt")).expect("its log"), "digits");
    assert_eq!(sandbox.read("data/set"), "digits");
    let file = sandbox.job("protected", host(true));
    let done = run(&sandbox, &["run", &file, "-o", "json"]).expect(1);
    let message = done.last_line_json()["properties"]["executionInfo"]["errors"][0]["message"].to_string();
    assert!(message.contains("root") && message.contains("read-only"), "{message} {}", done.stderr);
}
