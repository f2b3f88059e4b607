//! `trainyard run`: one job, no daemon: exit codes, files, and nothing left behind.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use trainyard_tests::{Daemon, Process, Sandbox, custom, until, with};

fn error(job: &Value) -> &Value {
    &job["properties"]["executionInfo"]["errors"][0]
}

#[test]
fn a_custom_job_succeeds_with_one_json_line_and_whole_files() {
    let sandbox = Sandbox::new();
    let line = "for i in {1..20000}; do echo out $i; done; for i in {1..5000}; do echo err $i >&2; done; printf 'no newline'";
    let file = sandbox.job("job", custom(line));
    let done = sandbox.run(["run", &file, "-n", "whole", "-o", "json"]).expect(0);
    let job = done.last_line_json();
    assert_eq!(done.stdout.lines().count(), 1, "stdout holds the job and nothing else: {}", done.stdout);
    assert_eq!(job["name"], "whole");
    assert_eq!(job["properties"]["executionState"], "succeeded");
    assert_eq!(job["properties"]["executionInfo"]["exitCode"], 0);
    let segment = job["properties"]["jobOutputDirectoryPathSegment"].as_str().expect("a segment");
    assert!(segment.contains("workspaces/default/experiments/default/jobs/whole/"), "{segment}");
    let logs = sandbox.logs(&job);
    let numbers = |word: &str, last: u32| (1..=last).map(|i| format!("{word} {i}\n")).collect::<String>();
    let read = |name: &str| fs::read_to_string(logs.join(name)).expect(name);
    assert_eq!(read("stdout.txt"), numbers("out", 20_000) + "no newline");
    assert_eq!(read("stderr.txt"), numbers("err", 5_000));
    assert!(read("execution.log").lines().count() >= 2, "{}", read("execution.log"));
}

#[test]
fn the_exit_code_is_the_jobs_and_a_signal_is_128_more() {
    for (line, code) in [("exit 7", 7), ("exit 255", 255), ("kill -KILL $$", 137), ("kill -TERM $$", 143)] {
        let sandbox = Sandbox::new();
        let file = sandbox.job("job", custom(line));
        let done = sandbox.run(["run", &file, "-o", "json"]).expect(code);
        let job = done.last_line_json();
        assert_eq!(job["properties"]["executionState"], "failed", "{line}");
        assert_eq!(job["properties"]["executionInfo"]["exitCode"], code, "{line}");
    }
}

#[test]
fn the_wall_clock_ends_a_job_with_124() {
    let sandbox = Sandbox::new();
    let limits = json!({ "constraints": { "maxWallClockTime": "PT1S" } });
    let file = sandbox.job("job", with(custom("sleep 1000"), &limits));
    let done = sandbox.run(["run", &file, "-o", "json"]).expect(124);
    let job = done.last_line_json();
    assert_eq!(error(&job)["code"], "MaxWallClockTimeExceeded", "{job:#}");
    assert_eq!(sandbox.processes(), []);
}

#[test]
fn a_bad_spec_is_2_and_starts_nothing() {
    let sandbox = Sandbox::new();
    let file = sandbox.job("job", with(custom("touch ran"), &json!({ "nodeCount": 0 })));
    let done = sandbox.run(["run", &file]).expect(2);
    assert!(done.stderr.contains("nodeCount"), "{}", done.stderr);
    assert!(
        fs::read_dir(sandbox.path("state")).expect("a folder").next().is_none(),
        "a state directory was made"
    );
}

#[test]
fn ctrl_c_cancels_the_job_with_130_and_leaves_no_process() {
    let sandbox = Sandbox::new();
    let pids = sandbox.text("audit/pids");
    // A child that ignores SIGHUP, and one that left the session of the task.
    let line = format!(
        "(trap '' HUP; sleep 1000) & setsid sleep 1000 & echo $$ > {pids}.new; mv {pids}.new {pids}; wait"
    );
    let file = sandbox.job("job", custom(&line));
    let mut run = Daemon::start(&sandbox, "run", sandbox.command(["run", &file, "-o", "json"]));
    let pid: i32 = until("the task runs", || sandbox.read("audit/pids").trim().parse().ok());
    let task = Process::of(pid).expect("the task runs");
    run.signal(Signal::SIGINT);
    let done = run.wait().expect(130);
    let job = done.last_line_json();
    assert_eq!(job["properties"]["executionState"], "failed");
    assert_eq!(error(&job)["code"], "JobTerminated", "{job:#}");
    assert!(!task.lives());
    assert_eq!(sandbox.processes(), [], "something is left");
}

#[test]
fn a_second_ctrl_c_kills_tasks_that_do_not_listen() {
    let sandbox = Sandbox::new();
    let line =
        format!("trap '' TERM INT HUP; touch {}; while :; do sleep 1000; done", sandbox.text("audit/ready"));
    let file = sandbox.job("job", custom(&line));
    let mut run = Daemon::start(&sandbox, "run", sandbox.command(["run", &file, "-o", "json"]));
    until("the task runs", || sandbox.path("audit/ready").exists().then_some(()));
    run.signal(Signal::SIGINT);
    until("it says that it cancels", || run.stderr().contains("cancelling").then_some(()));
    run.signal(Signal::SIGINT);
    let job = run.wait().expect(130).last_line_json();
    assert_eq!(job["properties"]["trainyard"]["tasks"][0]["signal"], 9, "{job:#}");
    assert_eq!(sandbox.processes(), []);
}

#[test]
fn a_failing_preparation_fails_the_job_before_any_task() {
    let sandbox = Sandbox::new();
    let preparation = json!({ "jobPreparation": { "commandLine": "echo no such package >&2; exit 3" } });
    let ran = sandbox.text("audit/ran");
    let file = sandbox.job("job", with(custom(&format!("touch {ran}")), &preparation));
    let done = sandbox.run(["run", &file, "-o", "json"]).expect(3);
    let job = done.last_line_json();
    assert_eq!(error(&job)["code"], "JobPreparationFailed");
    let message = error(&job)["message"].as_str().expect("a message");
    assert!(message.contains("node-0") && message.contains("no such package"), "{message}");
    assert!(!sandbox.path("audit/ran").exists());
    let said = fs::read_to_string(sandbox.logs(&job).join("stderr-job_prep.txt")).expect("its log");
    assert_eq!(said, "no such package\n");
}

#[test]
fn output_directories_are_there_before_preparation_and_task() {
    let sandbox = Sandbox::new();
    let look = "test -d \"$AZ_BATCHAI_OUTPUT_MODEL\" && test -d \"$AZ_BATCHAI_OUTPUT_EVENTS\"";
    let more = json!({
        "jobPreparation": { "commandLine": look },
        "outputDirectories": [
            { "id": "MODEL", "pathPrefix": sandbox.path("out"), "pathSuffix": "a/b" },
            { "id": "EVENTS", "pathPrefix": sandbox.path("out") },
        ],
    });
    let line = format!("{look} && echo trained > \"$AZ_BATCHAI_OUTPUT_MODEL/model\"");
    let file = sandbox.job("job", with(custom(&line), &more));
    let job = sandbox.run(["run", &file, "-o", "json"]).expect(0).last_line_json();
    let segment = job["properties"]["jobOutputDirectoryPathSegment"].as_str().expect("a segment");
    assert_eq!(sandbox.read(&format!("out/{segment}/outputs/a/b/model")), "trained\n");
}

#[test]
fn a_directory_of_the_host_is_mounted_and_the_mount_goes_with_the_job() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("data")).expect("a folder");
    fs::write(sandbox.path("data/set"), "digits").expect("a file");
    let host_paths = json!({ "mountVolumes": { "hostPaths": [
        { "path": "data", "relativeMountPath": "in" },
        { "path": "out", "relativeMountPath": "out" },
    ] }, "stdOutErrPathPrefix": "$AZ_BATCHAI_JOB_MOUNT_ROOT/out" });
    let file = sandbox.job("job", with(custom("cat $AZ_BATCHAI_JOB_MOUNT_ROOT/in/set"), &host_paths));
    let job = sandbox.run(["run", &file, "-o", "json"]).expect(0).last_line_json();
    assert_eq!(fs::read_to_string(sandbox.logs(&job).join("stdout.txt")).expect("its log"), "digits");
    assert_eq!(sandbox.read("data/set"), "digits", "the end of a job removes nothing of the host");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(&sandbox.text("state")), "{mounts}");
}

#[test]
fn the_command_line_is_bashs_alone_and_variables_are_the_tasks() {
    let sandbox = Sandbox::new();
    let more = json!({ "environmentVariables": [
        { "name": "GREETING", "value": "hello $AZ_BATCH_JOB_ID" },
        { "name": "PLAIN", "value": "$NOBODY_DEFINES_ME $5" },
    ] });
    let line = r#"i=7; echo "$i $(echo sub) ${GREETING} $PLAIN $X" '$HOME' \$; test "$$" -gt 1"#;
    let file = sandbox.job("job", with(custom(line), &more));
    let job = sandbox
        .run(["run", &file, "-n", "shell", "-e", "X=from the flag", "-o", "json"])
        .expect(0)
        .last_line_json();
    let said = fs::read_to_string(sandbox.logs(&job).join("stdout.txt")).expect("its log");
    assert_eq!(said, "7 sub hello shell $NOBODY_DEFINES_ME $5 from the flag $HOME $\n");
}
