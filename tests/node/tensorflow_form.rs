//! Jobs of parameter servers and workers, with bash scripts as programs: roles, variables, ends, ports.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;

use serde_json::{Value, json};
use trainyard_tests::{Sandbox, tensorflow, until, with};

/// Writes its environment into the audit folder; a server then serves for ever, a worker goes on once all
/// have written theirs.
fn recording_script(sandbox: &Sandbox, tasks: usize, then: &str) -> String {
    let audit = sandbox.text("audit");
    let text = format!(
        "env -0 > {audit}/$TRAINYARD_TASK.new; mv {audit}/$TRAINYARD_TASK.new {audit}/$TRAINYARD_TASK.env\n\
         test \"$1\" = ps && exec sleep 1000\n\
         until test $(ls {audit}/*.env | wc -l) = {tasks}; do sleep 0.02; done\n{then}\n"
    );
    sandbox.script("task.sh", &text)
}

fn environment(sandbox: &Sandbox, task: &str) -> BTreeMap<String, String> {
    let text = sandbox.read(&format!("audit/{task}.env"));
    text.split_terminator('\0')
        .filter_map(|line| line.split_once('='))
        .map(|(a, b)| (a.into(), b.into()))
        .collect()
}

fn tasks(job: &Value) -> BTreeMap<&str, &Value> {
    let tasks = job["properties"]["trainyard"]["tasks"].as_array().expect("tasks");
    tasks.iter().map(|task| (task["name"].as_str().expect("a name"), task)).collect()
}

#[test]
fn a_server_and_two_workers_see_each_other_and_the_server_is_ended() {
    let sandbox = Sandbox::new();
    let script = recording_script(&sandbox, 3, "echo trained");
    let file = sandbox.job("job", tensorflow(&script, 2, 1, 2));
    let job = sandbox.run(["run", &file, "-n", "ps", "-o", "json"]).expect(0).last_line_json();
    assert_eq!(job["properties"]["executionState"], "succeeded");
    let tasks = tasks(&job);
    assert_eq!(tasks.keys().copied().collect::<Vec<_>>(), ["ps-0", "worker-0", "worker-1"]);
    assert_eq!((&tasks["ps-0"]["node"], &tasks["ps-0"]["signal"]), (&json!("node-0"), &json!(15)), "{job:#}");
    assert_eq!((&tasks["worker-0"]["node"], &tasks["worker-0"]["exitCode"]), (&json!("node-0"), &json!(0)));
    assert_eq!((&tasks["worker-1"]["node"], &tasks["worker-1"]["exitCode"]), (&json!("node-1"), &json!(0)));

    let server = environment(&sandbox, "ps-0");
    let servers = &server["AZ_BATCHAI_PS_HOSTS"];
    let workers = &server["AZ_BATCHAI_WORKER_HOSTS"];
    let ports: Vec<u16> = [servers.as_str()].into_iter().chain(workers.split(',')).map(port).collect();
    // Another job of this machine may hold 2222: counting up is what is promised.
    assert!(ports[0] >= 2222 && ports.windows(2).all(|pair| pair[0] < pair[1]), "{ports:?}");
    assert_eq!(*servers, format!("127.0.0.2:{}", ports[0]));
    assert_eq!(*workers, format!("127.0.0.2:{},127.0.0.3:{}", ports[1], ports[2]));
    let cluster = json!({ "ps": [servers], "worker": workers.split(',').collect::<Vec<_>>() });
    for (task, role, index) in [("ps-0", "ps", 0), ("worker-0", "worker", 0), ("worker-1", "worker", 1)] {
        let seen = environment(&sandbox, task);
        for (name, value) in [
            ("AZ_BATCHAI_PS_HOSTS", servers.as_str()),
            ("PS_HOSTS", servers),
            ("AZ_BATCHAI_WORKER_HOSTS", workers),
            ("WORKER_HOSTS", workers),
            ("AZ_BATCHAI_TASK_INDEX", &index.to_string()),
            ("TASK_INDEX", &index.to_string()),
            ("AZ_BATCH_HOST_LIST", "127.0.0.2,127.0.0.3"),
            ("AZ_BATCH_NODE_LIST", "127.0.0.2;127.0.0.3"),
            ("AZ_BATCHAI_MPI_MASTER_NODE", "127.0.0.2"),
            ("AZ_BATCH_JOB_ID", "ps"),
            ("TRAINYARD_TASK", task),
        ] {
            assert_eq!(seen.get(name).map(String::as_str), Some(value), "{name} of {task}");
        }
        let config: Value = serde_json::from_str(&seen["TF_CONFIG"]).expect("TF_CONFIG is JSON");
        let expected =
            json!({ "cluster": cluster, "task": { "type": role, "index": index }, "environment": "cloud" });
        assert_eq!(config, expected, "{task}");
    }
    let logs = sandbox.logs(&job);
    for (name, text) in
        [("stdout-wk-0.txt", "trained\n"), ("stdout-wk-1.txt", "trained\n"), ("stdout-ps-0.txt", "")]
    {
        assert_eq!(fs::read_to_string(logs.join(name)).expect(name), text, "{name}");
    }
    assert_eq!(sandbox.processes(), []);
}

fn port(address: &str) -> u16 {
    address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port")
}

#[test]
fn a_failing_worker_ends_the_gang_and_is_named_with_its_last_words() {
    let sandbox = Sandbox::new();
    let then =
        "if test $TASK_INDEX = 1; then printf 'one\\ntwo\\nout of luck\\n' >&2; exit 9; fi; exec sleep 1000";
    let script = recording_script(&sandbox, 3, then);
    let file = sandbox.job("job", tensorflow(&script, 2, 1, 2));
    let job = sandbox.run(["run", &file, "-o", "json"]).expect(9).last_line_json();
    let info = &job["properties"]["executionInfo"];
    assert_eq!(info["exitCode"], 9);
    let message = info["errors"][0]["message"].as_str().expect("a message");
    for part in ["worker-1", "node-1", "code 9", "two\nout of luck"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    let tasks = tasks(&job);
    assert_eq!(tasks["worker-1"]["exitCode"], 9);
    assert_eq!((&tasks["worker-0"]["signal"], &tasks["ps-0"]["signal"]), (&json!(15), &json!(15)), "{job:#}");
    assert_eq!(sandbox.processes(), []);
}

#[test]
fn a_retry_is_a_new_gang_and_no_gang_starts_a_task_twice() {
    let sandbox = Sandbox::new();
    let audit = sandbox.text("audit");
    // Worker 0 fails the first time.
    let then = format!(
        "echo $TRAINYARD_GANG >> {audit}/gangs.$TASK_INDEX; test $TASK_INDEX != 0 || ! mkdir {audit}/failed"
    );
    let script = recording_script(&sandbox, 3, &then);
    let file = sandbox.job("job", with(tensorflow(&script, 2, 1, 2), &json!({ "retries": 1 })));
    let job = sandbox.run(["run", &file, "-o", "json"]).expect(0).last_line_json();
    assert_eq!(job["properties"]["trainyard"]["retriesUsed"], 1);
    let last = job["properties"]["trainyard"]["gang"].to_string();
    let gangs = sandbox.read("audit/gangs.0");
    let gangs: Vec<&str> = gangs.lines().collect();
    // A port that another job of this machine took costs a gang, but no task was started in it.
    assert!(gangs.len() == 2 && gangs[0] != gangs[1] && gangs[1] == last, "{gangs:?}, {last}");
}

#[test]
fn a_taken_port_is_skipped_in_a_new_plan_that_says_so() {
    let sandbox = Sandbox::new();
    // Whoever else holds it for the moment, it is taken for the job as well.
    let _listener: TcpListener = until("port 2222 is to be had", || TcpListener::bind("0.0.0.0:2222").ok());
    let script = recording_script(&sandbox, 2, "true");
    let file = sandbox.job("job", tensorflow(&script, 1, 1, 1));
    let job = sandbox.run(["run", &file, "-o", "json"]).expect(0).last_line_json();
    let seen = environment(&sandbox, "worker-0");
    assert!(port(&seen["PS_HOSTS"]) > 2222, "{}", seen["PS_HOSTS"]);
    assert!(port(&seen["WORKER_HOSTS"]) > port(&seen["PS_HOSTS"]));
    assert!(job["properties"]["trainyard"]["gang"].as_u64() >= Some(2), "{job:#}");
    assert!(job["properties"]["trainyard"]["retriesUsed"].is_null(), "it costs no retry");
    let log = fs::read_to_string(sandbox.logs(&job).join("execution.log")).expect("the log");
    assert!(log.contains("2222 is taken"), "{log}");
}

#[test]
fn a_missing_interpreter_is_127_and_named() {
    let sandbox = Sandbox::new();
    let mut properties = tensorflow("/dev/null", 1, 0, 1);
    properties["tensorFlowSettings"]["pythonInterpreterPath"] = json!("/no/such/python");
    let file = sandbox.job("job", properties);
    let job = sandbox.run(["run", &file, "-o", "json"]).expect(127).last_line_json();
    let message = job["properties"]["executionInfo"]["errors"][0]["message"].to_string();
    assert!(message.contains("/no/such/python") && message.contains("worker-0"), "{message}");
}
