//! What clients want: jobs of several kinds, repeated submits, conflicts, cancels and deletes.

use fastrand::Rng;
use serde_json::json;
use trainyard_core::coordinator::JobKey;
use trainyard_core::spec::JobSpec;
use trainyard_core::text::Name;

/// A value that must appear nowhere but in a task's environment.
pub const CANARY: &str = "canary-7b1f";

/// The shape of a run.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Nodes.
    pub nodes: u8,
    /// GPUs of each node.
    pub gpus: u8,
    /// All nodes are on the coordinator's machine: attempts are kept, not fenced.
    pub one_machine: bool,
    /// The lease, ms.
    pub lease_ms: u64,
}

/// One request of a client.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it is first made, simulated ms.
    pub at_ms: u64,
    /// Of which job.
    pub key: JobKey,
    /// What.
    pub what: What,
}

/// Kinds of requests.
#[derive(Clone, Debug)]
pub enum What {
    /// A job is wanted.
    Submit(Box<JobSpec>),
    /// Its end is wanted.
    Cancel,
    /// It is to be gone.
    Delete,
}

/// The shape and the requests of a seed; the requests within `window_ms`.
#[must_use]
pub fn of(seed: u64, window_ms: u64) -> (Shape, Vec<Request>) {
    let mut rng = Rng::with_seed(seed ^ 0x3019);
    let shape = Shape {
        nodes: rng.u8(2..=4),
        gpus: rng.u8(0..=2),
        one_machine: rng.u8(..4) == 0,
        lease_ms: [30_000, 60_000, 120_000][rng.usize(..3)],
    };
    let mut requests = Vec::new();
    let count = (window_ms / 30_000).clamp(4, 60);
    for n in 0..count {
        let at_ms = rng.u64(..window_ms.max(2));
        let key = key(n);
        let spec = spec(&mut rng, &shape);
        let mut add = |at_ms, what| requests.push(Request { at_ms, key: key.clone(), what });
        add(at_ms, What::Submit(Box::new(spec.clone())));
        if rng.u8(..4) == 0 {
            add(at_ms + rng.u64(1..60_000), What::Submit(Box::new(spec.clone())));
        }
        if rng.u8(..8) == 0 {
            let mut other = spec;
            other.retries += 1;
            add(at_ms + rng.u64(1..60_000), What::Submit(Box::new(other)));
        }
        match rng.u8(..8) {
            0 => add(at_ms + rng.u64(1..5_000), What::Cancel),
            1 => add(at_ms + rng.u64(1..200_000), What::Cancel),
            2 => add(at_ms + rng.u64(1..200_000), What::Delete),
            _ => {}
        }
    }
    requests.sort_by_key(|request| request.at_ms);
    (shape, requests)
}

fn key(n: u64) -> JobKey {
    let name = |text: &str| Name::parse(text).expect("a name of letters and digits");
    JobKey {
        subscription: "s".to_owned(),
        resource_group: "g".to_owned(),
        workspace: name("w"),
        experiment: name("e"),
        job: name(&format!("job{n}")),
    }
}

fn spec(rng: &mut Rng, shape: &Shape) -> JobSpec {
    let nodes = rng.u8(1..=shape.nodes);
    let retries = [0, 0, 0, 1, 2][rng.usize(..5)];
    let mut spec = json!({
        "nodeCount": nodes,
        "stdOutErrPathPrefix": "/logs",
        "retries": retries,
        "secrets": [{ "name": "KEY", "value": CANARY }],
    });
    match rng.u8(..4) {
        0 => spec["tensorFlowSettings"] = json!({ "pythonScriptFilePath": "/train.py" }),
        1 => {
            let processes = if shape.gpus > 0 { nodes } else { nodes * rng.u8(1..=2) };
            spec["pyTorchSettings"] =
                json!({ "pythonScriptFilePath": "/train.py", "processCount": processes });
        }
        _ => spec["customToolkitSettings"] = json!({ "commandLine": "true" }),
    }
    if shape.gpus > 0 && rng.bool() {
        spec["resources"] = json!({ "gpusPerNode": rng.u8(1..=shape.gpus) });
    }
    if rng.u8(..4) == 0 {
        spec["jobPreparation"] = json!({ "commandLine": "prepare" });
    }
    if rng.u8(..10) == 0 {
        spec["constraints"] = json!({ "maxWallClockTime": "PT2M" });
    }
    if rng.u8(..6) == 0 {
        spec["schedulingPriority"] = json!("high");
    }
    serde_json::from_value(spec).expect("a spec of known settings")
}
