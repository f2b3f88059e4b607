//! What holds for every plan, whatever the job and the nodes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};
use trainyard_core::plan::task::Role;
use trainyard_core::plan::{GangPlan, NodeGrant, PlanError, ReservedPorts};
use trainyard_core::unit::Port;

use super::{local, machine, planned, spec};

#[derive(Clone, Debug)]
enum Kind {
    TensorFlow { workers: usize, servers: usize },
    PyTorch { processes: usize, backend: &'static str },
    Custom,
}

#[derive(Clone, Debug)]
struct Case {
    kind: Kind,
    /// GPUs, and whether the node is local: local ones share a port space.
    nodes: Vec<(usize, bool)>,
    reserved: BTreeSet<u16>,
    prefix: &'static str,
}

fn case() -> impl Strategy<Value = Case> {
    let nodes = prop::collection::vec((0..5_usize, any::<bool>()), 1..7);
    let reserved = prop::collection::btree_set(2215..2240_u16, 0..20);
    let prefix = prop::sample::select(vec![
        "$AZ_BATCHAI_JOB_MOUNT_ROOT/a/b",
        "${AZ_BATCHAI_JOB_TEMP}/x",
        "$AZ_BATCHAI_MOUNT_ROOT",
        "$AZ_BATCHAI_JOB_TEMP_DIR//.",
        "$DIR/$AZ_BATCHAI_NUM_GPUS",
        "/",
    ]);
    (nodes, reserved, prefix).prop_flat_map(|(nodes, reserved, prefix)| {
        let servers = 0..=nodes.len();
        let kind = prop_oneof![
            (1..12_usize, servers).prop_map(|(workers, servers)| Kind::TensorFlow { workers, servers }),
            (1..12_usize, prop::sample::select(vec!["TCP", "Gloo", "mpi"]))
                .prop_map(|(processes, backend)| Kind::PyTorch { processes, backend }),
            Just(Kind::Custom),
        ];
        kind.prop_map(move |kind| Case { kind, nodes: nodes.clone(), reserved: reserved.clone(), prefix })
    })
}

impl Case {
    fn job(&self) -> Value {
        let script = "$AZ_BATCHAI_INPUT_CODE/train.py";
        let mut job = json!({
            "nodeCount": self.nodes.len(),
            "stdOutErrPathPrefix": self.prefix,
            "inputDirectories": [{ "id": "CODE", "path": "$AZ_BATCHAI_JOB_MOUNT_ROOT/a/code" }],
            "outputDirectories": [
                { "id": "MODEL", "pathPrefix": self.prefix, "pathSuffix": "model" },
                { "id": "NEXT", "pathPrefix": "$AZ_BATCHAI_INPUT_CODE" }
            ],
            "mountVolumes": { "hostPaths": [{ "path": "$HOME/data", "relativeMountPath": "a" }] },
            "environmentVariables": [{ "name": "DIR", "value": "$HOME/dir" }],
            "secrets": [{ "name": "TOKEN", "value": "hunter2" }],
            "jobPreparation": { "commandLine": "true" }
        });
        match self.kind {
            Kind::TensorFlow { workers, servers } => {
                job["tensorFlowSettings"] = json!({
                    "pythonScriptFilePath": script, "workerCount": workers, "parameterServerCount": servers
                });
            }
            Kind::PyTorch { processes, backend } => {
                job["pyTorchSettings"] = json!({
                    "pythonScriptFilePath": script, "processCount": processes, "communicationBackend": backend
                });
            }
            Kind::Custom => job["customToolkitSettings"] = json!({ "commandLine": "true" }),
        }
        job
    }

    fn grants(&self) -> Vec<NodeGrant> {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .map(|(i, (gpus, is_local))| if *is_local { local(i, *gpus) } else { machine(i, *gpus) })
            .collect()
    }

    fn reserved(&self, grants: &[NodeGrant]) -> ReservedPorts {
        let ports: BTreeSet<Port> = self.reserved.iter().copied().map(Port).collect();
        grants.iter().map(|grant| (grant.port_space.clone(), ports.clone())).collect()
    }

    /// Whether a worker would have to go without a GPU where others have one.
    fn too_many_workers(&self) -> bool {
        let Kind::TensorFlow { workers, .. } = self.kind else { return false };
        let room: usize = self.nodes.iter().map(|(gpus, _)| (*gpus).max(1)).sum();
        self.nodes.iter().any(|(gpus, _)| *gpus > 0) && workers > room
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn every_plan_is_sound(case in case()) {
        let grants = case.grants();
        let reserved = case.reserved(&grants);
        match planned(&spec(case.job()), &grants, &reserved) {
            Ok(plan) => {
                prop_assert_eq!(roles(&plan), wanted_roles(&case.kind));
                ports_are_apart(&plan, &grants, &reserved)?;
                gpus_are_apart(&plan, &grants)?;
                paths_are_expanded(&plan)?;
                addresses_are_those_of_the_nodes(&plan, &grants)?;
            }
            Err(PlanError::Count { .. }) => prop_assert!(case.too_many_workers()),
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}

fn roles(plan: &GangPlan) -> BTreeMap<Role, Vec<u32>> {
    let mut roles = BTreeMap::<Role, Vec<u32>>::new();
    for task in plan.tasks() {
        roles.entry(task.role).or_default().push(task.index);
    }
    roles
}

fn wanted_roles(kind: &Kind) -> BTreeMap<Role, Vec<u32>> {
    let count = |n: usize| (0..n as u32).collect::<Vec<u32>>();
    let mut wanted = match kind {
        Kind::TensorFlow { workers, servers } => {
            BTreeMap::from([(Role::ParameterServer, count(*servers)), (Role::Worker, count(*workers))])
        }
        Kind::PyTorch { processes, .. } => BTreeMap::from([(Role::Worker, count(*processes))]),
        Kind::Custom => BTreeMap::from([(Role::Master, vec![0])]),
    };
    wanted.retain(|_, indices| !indices.is_empty());
    wanted
}

fn ports_are_apart(
    plan: &GangPlan,
    grants: &[NodeGrant],
    reserved: &ReservedPorts,
) -> Result<(), TestCaseError> {
    let mut seen = BTreeSet::new();
    for (node, grant) in plan.nodes.iter().zip(grants) {
        for port in &node.ports {
            prop_assert!(seen.insert((&grant.port_space, port)), "{port} twice");
            prop_assert!(!reserved[&grant.port_space].contains(port), "{port} is reserved");
            prop_assert!(port.0 >= 2222);
        }
    }
    Ok(())
}

fn gpus_are_apart(plan: &GangPlan, grants: &[NodeGrant]) -> Result<(), TestCaseError> {
    let mut seen = BTreeSet::new();
    for (node, grant) in plan.nodes.iter().zip(grants) {
        let mut given = BTreeSet::new();
        for task in &node.tasks {
            for gpu in &task.gpus {
                prop_assert!(grant.gpus.contains(gpu) && seen.insert(gpu) && given.insert(gpu));
            }
            // A PyTorch process sees all that the job has on its node, and picks by LOCAL_RANK.
            let sees = if task.command.env.contains_key("LOCAL_RANK") { &grant.gpus } else { &task.gpus };
            let sees = sees.iter().map(|gpu| gpu.0.as_str()).collect::<Vec<_>>().join(",");
            match task.command.env.get("CUDA_VISIBLE_DEVICES") {
                Some(visible) => prop_assert_eq!(visible, &sees),
                None => prop_assert!(grant.gpus.is_empty()),
            }
            prop_assert!(task.role != Role::ParameterServer || task.gpus.is_empty());
        }
        let works = node.tasks.iter().any(|task| task.role != Role::ParameterServer);
        prop_assert!(!works || given.len() == grant.gpus.len(), "a GPU is left over");
    }
    Ok(())
}

fn paths_are_expanded(plan: &GangPlan) -> Result<(), TestCaseError> {
    for node in &plan.nodes {
        let commands = node.tasks.iter().map(|task| &task.command).chain(&node.preparation);
        let values = commands.clone().flat_map(|command| command.env.values());
        let all = node.directories.iter().chain(&node.mounted_directories).chain([&node.std_dir]);
        let mounts = node.host_mounts.iter().flat_map(|mount| [&mount.source, &mount.target]);
        let words = commands.flat_map(|command| &command.argv);
        for text in all.chain(mounts).chain(values).chain(words) {
            prop_assert!(!text.contains("$AZ_BATCHAI_") && !text.contains("${AZ_BATCHAI_"), "{text}");
            prop_assert!(!text.contains("hunter2"));
        }
        let made: BTreeSet<_> = node.directories.iter().chain(&node.mounted_directories).collect();
        prop_assert_eq!(made.len(), node.directories.len() + node.mounted_directories.len(), "made twice");
        prop_assert!(made.contains(&node.std_dir));
        for (name, path) in node.tasks.iter().flat_map(|task| &task.command.env) {
            prop_assert!(
                !name.starts_with("AZ_BATCHAI_OUTPUT_") || made.contains(path),
                "{path} is not made"
            );
        }
    }
    Ok(())
}

/// Each address that a task is told leads to a planned port of a node of the gang.
fn addresses_are_those_of_the_nodes(plan: &GangPlan, grants: &[NodeGrant]) -> Result<(), TestCaseError> {
    let real: BTreeSet<String> = plan
        .nodes
        .iter()
        .zip(grants)
        .flat_map(|(node, grant)| node.ports.iter().map(move |port| format!("{}:{port}", grant.address)))
        .collect();
    for task in plan.tasks() {
        let env = &task.command.env;
        let mut told: Vec<String> = vec![env["AZ_BATCH_MASTER_NODE"].clone()];
        for list in
            ["AZ_BATCHAI_PS_HOSTS", "AZ_BATCHAI_WORKER_HOSTS"].iter().filter_map(|name| env.get(*name))
        {
            told.extend(list.split(',').filter(|host| !host.is_empty()).map(str::to_owned));
        }
        if let Some(address) = env.get("MASTER_ADDR") {
            told.push(format!("{address}:{}", env["MASTER_PORT"]));
        }
        told.extend(
            env.get("AZ_BATCHAI_PYTORCH_INIT_METHOD")
                .and_then(|url| url.strip_prefix("tcp://"))
                .map(str::to_owned),
        );
        for address in told {
            prop_assert!(real.contains(&address), "{address} of {}", task.name);
        }
    }
    Ok(())
}
