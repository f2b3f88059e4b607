//! GPUs from NVML to the task and back: with a library that answers for NVML out of a file.

use std::fs;

use serde_json::{Value, json};
use trainyard_tests::{Rest, Sandbox, Up, custom, fake_nvml, until, with};

const UUIDS: [&str; 2] =
    ["GPU-00000000-aaaa-bbbb-cccc-000000000000", "GPU-11111111-aaaa-bbbb-cccc-111111111111"];

fn gpu(index: usize, more: &Value) -> Value {
    let gpu = json!({
        "uuid": UUIDS[index], "name": "Tesla T0", "pci_bus_id": format!("0000:0{index}:00.0"),
        "compute_capability": "7.5", "memory": 16_000_000_000_u64, "memory_used": 5_000_000_000_u64,
        "utilisation": 40 + index, "power": 61, "temperature": 50 + index, "sm_clock": 1500, "memory_clock": 5000,
    });
    with(gpu, more)
}

fn set(sandbox: &Sandbox, gpus: &[Value]) {
    let all = json!({ "driver_version": "550.54.15", "cuda_version": 12040, "gpus": gpus });
    fs::write(sandbox.path("gpus.new"), all.to_string()).expect("a file");
    fs::rename(sandbox.path("gpus.new"), sandbox.path("gpus.json")).expect("in its place");
}

/// `up` with one node and these GPUs.
fn up(sandbox: &Sandbox, gpus: &[Value]) -> Option<Up> {
    let library = fake_nvml()?.to_str().expect("a UTF-8 path");
    set(sandbox, gpus);
    let file = sandbox.text("gpus.json");
    Some(Up::start_with(
        sandbox,
        1,
        &[],
        &[("TRAINYARD_NVML_LIBRARY", library), ("TRAINYARD_FAKE_NVML", &file)],
    ))
}

fn samples(rest: &Rest) -> Vec<Value> {
    rest.get("/api/v1/nodes/node-0/metrics")["samples"].as_array().cloned().unwrap_or_default()
}

fn value_of(samples: &[Value], name: &str, labels: &Value) -> Option<f64> {
    samples.iter().find(|it| it["name"] == name && it["labels"] == *labels)?["value"].as_f64()
}

#[test]
fn a_job_gets_gpus_by_uuid_and_its_numbers_come_back_by_task() {
    let sandbox = Sandbox::new();
    let Some(up) = up(&sandbox, &[gpu(0, &json!({})), gpu(1, &json!({}))]) else { return };
    let rest = up.rest(&sandbox);
    let node = until("the GPUs are known", || {
        let node = rest.get("/api/v1/nodes/node-0");
        (node["inventory"]["gpus"].as_array()?.len() == 2).then_some(node)
    });
    let inventory = &node["inventory"];
    assert_eq!(inventory["gpus"][0]["uuid"], UUIDS[0]);
    assert_eq!(inventory["gpus"][1]["uuid"], UUIDS[1]);
    assert_eq!(inventory["gpus"][0]["computeCapability"], "7.5", "{inventory:#}");
    assert_eq!(inventory["driverVersion"], "550.54.15");
    assert!(sandbox.run(["node", "list"]).expect(0).stdout.contains('2'));

    let audit = sandbox.text("audit");
    let line = format!(
        "echo $CUDA_VISIBLE_DEVICES $AZ_BATCHAI_NUM_GPUS > {audit}/seen; until test -e {audit}/go; do sleep 0.02; done"
    );
    let file = sandbox.job("job", with(custom(&line), &json!({ "resources": { "gpusPerNode": 1 } })));
    drop(sandbox.run(["job", "submit", &file, "-n", "one"]).expect(0));
    let job = rest.until_running("one");
    let task = &job["properties"]["trainyard"]["tasks"][0];
    assert_eq!(task["gpus"], json!([UUIDS[0]]));
    until("the task has looked", || {
        (sandbox.read("audit/seen") == format!("{} 1\n", UUIDS[0])).then_some(())
    });
    let used = rest.get("/api/v1/nodes/node-0")["inventory"]["gpus"][0]["usedBy"].clone();
    assert_eq!(used, "one/master");

    let pid = task["pid"].as_u64().expect("a pid");
    let processes =
        json!({ "processes": [{ "pid": pid, "memory": 4_000_000_000_u64 }, { "pid": 1, "memory": 7 }] });
    set(&sandbox, &[gpu(0, &processes), gpu(1, &json!({}))]);
    let ours = &job["properties"]["trainyard"];
    let attempt = format!("{}.{}.0", ours["jobId"], ours["gang"]);
    let name = "gpu_process_memory_used_bytes";
    let samples = until("the process is told with its task", || {
        let samples = samples(&rest);
        let labels = json!({ "gpu": UUIDS[0], "pid": pid.to_string(), "task": attempt });
        value_of(&samples, name, &labels).filter(|bytes| *bytes == 4e9).map(|_| samples)
    });
    let of = |index: usize| json!({ "gpu": UUIDS[index] });
    assert_eq!(value_of(&samples, "gpu_utilization_ratio", &of(1)), Some(0.41));
    assert_eq!(value_of(&samples, "gpu_memory_used_bytes", &of(0)), Some(5e9));
    assert_eq!(value_of(&samples, "gpu_temperature_celsius", &of(1)), Some(51.0));
    assert_eq!(value_of(&samples, "gpu_power_watts", &of(0)), Some(61.0));
    let stranger = samples
        .iter()
        .find(|it| it["name"] == name && it["labels"]["pid"] == "1")
        .expect("the other process");
    assert!(stranger["labels"]["task"].is_null(), "{stranger}");
    assert!(value_of(&samples, "task_memory_resident_bytes", &json!({ "task": attempt })).is_some());
    fs::write(sandbox.path("audit/go"), "").expect("a file");
    drop(sandbox.run(["job", "wait", "one"]).expect(0));
}

#[test]
fn a_lost_gpu_takes_no_work_and_explain_says_so() {
    let sandbox = Sandbox::new();
    let Some(up) = up(&sandbox, &[gpu(0, &json!({})), gpu(1, &json!({}))]) else { return };
    let rest = up.rest(&sandbox);
    until("both are known", || {
        (rest.get("/api/v1/nodes/node-0")["inventory"]["gpus"].as_array()?.len() == 2).then_some(())
    });
    set(&sandbox, &[gpu(0, &json!({})), gpu(1, &json!({ "lost": true }))]);
    until("the fault is known", || {
        let node = rest.get("/api/v1/nodes/node-0");
        let gpus = node["inventory"]["gpus"].as_array()?;
        gpus.iter().any(|gpu| gpu["fault"].as_str().is_some_and(|fault| !fault.is_empty())).then_some(())
    });
    let both = sandbox.job("both", with(custom("true"), &json!({ "resources": { "gpusPerNode": 2 } })));
    drop(sandbox.run(["job", "submit", &both, "-n", "both"]).expect(0));
    let explained = until("it waits for GPUs", || {
        let explained = rest.get(&Rest::extra_path("both", "explain"));
        (explained["reason"]["evidence"]["rejected"][0]["reason"] == "tooFewGpus").then_some(explained)
    });
    let text = explained["text"].as_str().expect("words");
    assert!(text.contains("node-0: 1 healthy GPUs, 2 asked for"), "{text}");
    // The healthy one goes on.
    let seen = sandbox.text("audit/seen");
    let one = with(
        custom(&format!("echo $CUDA_VISIBLE_DEVICES > {seen}")),
        &json!({ "resources": { "gpusPerNode": 1 } }),
    );
    let file = sandbox.job("one", one);
    drop(sandbox.run(["job", "submit", &file, "-n", "one"]).expect(0));
    drop(sandbox.run(["job", "wait", "one"]).expect(0));
    assert_eq!(sandbox.read("audit/seen"), format!("{}\n", UUIDS[0]));
    assert_eq!(rest.job("both")["properties"]["executionState"], "queued");
}

#[test]
fn fault_40_a_gpu_that_breaks_under_a_task_costs_no_retry_and_the_next_gang_finds_the_checkpoint() {
    let sandbox = Sandbox::new();
    let Some(up) = up(&sandbox, &[gpu(0, &json!({})), gpu(1, &json!({}))]) else { return };
    let rest = up.rest(&sandbox);
    until("both are known", || {
        (rest.get("/api/v1/nodes/node-0")["inventory"]["gpus"].as_array()?.len() == 2).then_some(())
    });
    let audit = sandbox.text("audit");
    // The first gang writes a checkpoint and trains on; the second one begins with what it finds.
    let line = format!(
        "echo $TRAINYARD_GANG $CUDA_VISIBLE_DEVICES >> {audit}/gangs\n\
         if test -e $AZ_BATCHAI_OUTPUT_MODEL/step; then cp $AZ_BATCHAI_OUTPUT_MODEL/step {audit}/found; exit 0; fi\n\
         echo 41 > $AZ_BATCHAI_OUTPUT_MODEL/step; touch {audit}/written; exec sleep 1000"
    );
    let more = json!({
        "resources": { "gpusPerNode": 1 },
        "outputDirectories": [{ "id": "MODEL", "pathPrefix": sandbox.text("out"), "pathSuffix": "model" }],
    });
    let file = sandbox.job("job", with(custom(&line), &more));
    drop(sandbox.run(["job", "submit", &file, "-n", "trained"]).expect(0));
    until("there is a checkpoint", || sandbox.path("audit/written").exists().then_some(()));
    set(&sandbox, &[gpu(0, &json!({ "xid": 79 })), gpu(1, &json!({}))]);
    drop(sandbox.run(["job", "wait", "trained"]).expect(0));
    assert_eq!(sandbox.read("audit/found"), "41\n");
    let gangs = sandbox.read("audit/gangs");
    let gangs: Vec<(&str, &str)> = gangs.lines().filter_map(|line| line.split_once(' ')).collect();
    let gpus: Vec<&str> = gangs.iter().map(|(_, gpu)| *gpu).collect();
    assert_eq!(gpus, UUIDS, "each try on a GPU that works");
    assert_ne!(gangs[0].0, gangs[1].0, "another gang, which knows that it is");
    let job = rest.job("trained");
    assert!(job["properties"]["trainyard"]["retriesUsed"].is_null(), "{job:#}");
}

#[test]
fn nodes_of_one_machine_share_its_gpus_and_no_gpu_is_given_twice() {
    let sandbox = Sandbox::new();
    let Some(library) = fake_nvml() else { return };
    set(&sandbox, &[gpu(0, &json!({})), gpu(1, &json!({}))]);
    let (library, file) = (library.to_str().expect("a UTF-8 path"), sandbox.text("gpus.json"));
    let variables = [("TRAINYARD_NVML_LIBRARY", library), ("TRAINYARD_FAKE_NVML", &file)];
    let script = sandbox.script(
        "task.sh",
        &format!(
            "echo $CUDA_VISIBLE_DEVICES > {}/$TRAINYARD_TASK\ntest \"$1\" = ps && exec sleep 1000\ntrue\n",
            sandbox.text("audit")
        ),
    );
    let job = sandbox.job("job", trainyard_tests::tensorflow(&script, 2, 1, 2));
    let mut command = sandbox.command(["run", &job]);
    command.envs(variables);
    drop(trainyard_tests::Finished::of(&command.output().expect("it can be started")).expect(0));
    assert_eq!(sandbox.read("audit/worker-0"), format!("{}\n", UUIDS[0]));
    assert_eq!(sandbox.read("audit/worker-1"), format!("{}\n", UUIDS[1]));
    assert_eq!(sandbox.read("audit/ps-0"), "\n", "a parameter server sees none");
}

#[test]
fn a_node_that_fails_its_preflight_says_which_check_and_the_job_waits_for_a_fit_one() {
    let sandbox = Sandbox::new();
    let bad = gpu(1, &json!({ "ecc_uncorrected": 2 }));
    let Some(up) = up(&sandbox, &[gpu(0, &json!({})), bad]) else { return };
    let rest = up.rest(&sandbox);
    until("both are known", || {
        (rest.get("/api/v1/nodes/node-0")["inventory"]["gpus"].as_array()?.len() == 2).then_some(())
    });
    let job = with(custom("true"), &json!({ "preflight": true, "resources": { "gpusPerNode": 2 } }));
    let file = sandbox.job("job", job);
    drop(sandbox.run(["job", "submit", &file, "-n", "checked"]).expect(0));
    let why = format!("GPU {}: 2 uncorrected ECC errors", UUIDS[1]);
    until("explain says what was found", || {
        let text = sandbox.run(["job", "explain", "checked"]).expect(0).stdout;
        (text.contains("found unfit before the start") && text.contains(&why)).then_some(())
    });
    set(&sandbox, &[gpu(0, &json!({})), gpu(1, &json!({}))]);
    drop(sandbox.run(["job", "wait", "checked"]).expect(0));
    let job = rest.job("checked");
    assert!(job["properties"]["trainyard"]["retriesUsed"].is_null(), "{job:#}");
    let log = |gang: &str| {
        sandbox.run(["job", "logs", "checked", "--file", "execution.log", "--gang", gang]).expect(0).stdout
    };
    let last = job["properties"]["trainyard"]["gang"].to_string();
    let (first, last) = (log("1"), log(&last));
    assert!(first.contains(&format!("preflight: unfit: {why}")), "{first}");
    assert!(last.contains("preflight: fit: 2 GPUs healthy"), "{last}");
}
