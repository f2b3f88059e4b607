//! Plans: job and nodes in, every variable out.
//!
//! `plan/*.json` are fixtures of our own; the `.txt` beside each is its plan, and `plan/recipes/*.txt` are the
//! plans of published job files. `UPDATE_PLANS=1` writes them anew: read what changed before you commit it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use trainyard_core::id::{GangNo, NodeId};
use trainyard_core::plan::{
    GangPlan, NodeGrant, PlanError, PlanInput, PortSpace, ReservedPorts, export_lines, lint, plan,
};
use trainyard_core::spec::JobSpec;
use trainyard_core::text::Secret;
use trainyard_core::unit::{GpuUuid, Port};

mod property;
mod text;

const UUID: &str = "6f1f2a3c-0000-4000-8000-000000000001";
const SERVICE_ROOT: &str = "/mnt/batch/tasks/shared/LS_root";

/// Plans as the coordinator does, and checks what holds for every plan.
fn planned(spec: &JobSpec, grants: &[NodeGrant], reserved: &ReservedPorts) -> Result<GangPlan, PlanError> {
    let input = PlanInput {
        spec,
        subscription: "00000000-0000-0000-0000-000000000000",
        resource_group: "trainyard",
        workspace: "default",
        experiment: "digits",
        job: "brave-otter-1234",
        uuid: UUID,
        gang: GangNo(1),
    };
    let made = plan(&input, grants, reserved)?;
    assert_eq!(lint(&made, grants), Vec::<String>::new());
    assert_eq!(plan(&input, grants, reserved).as_ref(), Ok(&made), "the same input gives the same plan");
    Ok(made)
}

fn spec(properties: Value) -> JobSpec {
    serde_json::from_value(properties).expect("a job")
}

/// A custom job with these fields added or replaced.
fn custom(fields: Value) -> JobSpec {
    let mut job = json!({
        "nodeCount": 1,
        "stdOutErrPathPrefix": "/logs",
        "customToolkitSettings": { "commandLine": "true" }
    });
    for (name, value) in fields.as_object().expect("fields") {
        job[name] = value.clone();
    }
    spec(job)
}

/// A node of its own machine: 10.0.0.4, 10.0.0.5, ...
fn machine(i: usize, gpus: usize) -> NodeGrant {
    NodeGrant {
        node: NodeId(format!("vm-{i}")),
        address: format!("10.0.0.{}", i + 4),
        root: SERVICE_ROOT.to_owned(),
        gpus: gpu_list(i, gpus),
        port_space: PortSpace { boot_id: format!("boot-{i}"), network_namespace: 4_026_531_840 },
        base_environment: base_environment(),
        privileged: true,
    }
}

/// A local node: all of them on one machine, without root.
fn local(i: usize, gpus: usize) -> NodeGrant {
    NodeGrant {
        node: NodeId(format!("node-{i}")),
        address: format!("127.0.0.{}", i + 2),
        root: format!("/home/ada/.local/state/trainyard/nodes/{i}/LS_root"),
        gpus: gpu_list(i, gpus),
        port_space: PortSpace { boot_id: "boot".to_owned(), network_namespace: 4_026_531_840 },
        base_environment: base_environment(),
        privileged: false,
    }
}

fn gpu_list(node: usize, gpus: usize) -> Vec<GpuUuid> {
    (0..gpus).map(|gpu| GpuUuid(format!("GPU-{node}{gpu}"))).collect()
}

fn base_environment() -> BTreeMap<String, String> {
    [("HOME", "/home/ada"), ("LANG", "C.UTF-8"), ("PATH", "/usr/local/bin:/usr/bin:/bin")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fast/plan")
}

/// Compares with the file, which is the reviewed truth.
fn check_text(file: &Path, text: &str) {
    if std::env::var_os("UPDATE_PLANS").is_some() {
        fs::write(file, text).expect("a writable tests folder");
        return;
    }
    let expected = fs::read_to_string(file).unwrap_or_default();
    assert!(
        expected == text,
        "{} differs. UPDATE_PLANS=1 writes it; now it would be:\n{text}",
        file.display()
    );
}

#[test]
fn fixtures_give_the_plans_beside_them() {
    let mut count = 0;
    for entry in fs::read_dir(folder()).expect("the folder of fixtures").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let fixture: Value = serde_json::from_slice(&fs::read(&path).expect("a fixture")).expect("JSON");
        let gpus = fixture["gpus"].as_array().expect("`gpus`: a number per node");
        let make = match fixture["nodes"].as_str() {
            Some("machines") => machine,
            Some("local") => local,
            other => panic!("{}: nodes is {other:?}", path.display()),
        };
        let grants: Vec<NodeGrant> =
            gpus.iter().enumerate().map(|(i, n)| make(i, n.as_u64().expect("a number") as usize)).collect();
        let reserved = fixture["reserved"].as_array().into_iter().flatten();
        let reserved: BTreeSet<Port> =
            reserved.map(|port| Port(port.as_u64().expect("a port") as u16)).collect();
        let reserved = ReservedPorts::from([(grants[0].port_space.clone(), reserved)]);
        let text = match planned(&spec(fixture["job"].clone()), &grants, &reserved) {
            Ok(plan) => text::of(&plan),
            Err(error) => format!("refused: {error}\n"),
        };
        check_text(&path.with_extension("txt"), &text);
        count += 1;
    }
    assert!(count >= 8, "only {count} fixtures found");
}

/// Published job files of the toolkits that run. Their containers and Azure volumes do not run yet: those are
/// taken out here, and directories of the node put in their place.
#[test]
fn recipes_give_the_plans_written_down() {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/batchai/recipes");
    if !recipes.is_dir() {
        eprintln!("SKIPPED: no recipes at {}", recipes.display());
        return;
    }
    let mut count = 0;
    for recipe in fs::read_dir(&recipes).expect("recipes").flatten() {
        for file in fs::read_dir(recipe.path()).into_iter().flatten().flatten() {
            let job: Value =
                serde_json::from_slice(&fs::read(file.path()).expect("a job file")).expect("JSON");
            let Some(spec) = without_unbuilt(job["properties"].clone()) else { continue };
            let grants: Vec<NodeGrant> = (0..spec.node_count as usize).map(|i| machine(i, 1)).collect();
            let plan = planned(&spec, &grants, &ReservedPorts::new()).expect("a recipe can be planned");
            let (folder_name, name) = (recipe.file_name(), file.file_name());
            let name = format!("{}.{}", folder_name.display(), name.display()).replace(".json", ".txt");
            check_text(&folder().join("recipes").join(name), &text::of(&plan));
            count += 1;
        }
    }
    assert_eq!(count, 4, "recipes of TensorFlow, PyTorch and custom");
}

fn without_unbuilt(mut job: Value) -> Option<JobSpec> {
    let built = ["tensorFlowSettings", "pyTorchSettings", "customToolkitSettings"];
    if built.iter().all(|key| job.get(key).is_none()) {
        return None;
    }
    job.as_object_mut().expect("an object").remove("containerSettings");
    if let Some(volumes) = job.get_mut("mountVolumes") {
        let relative = |list: &Value| -> Vec<String> {
            let list = list.as_array().into_iter().flatten();
            list.map(|v| v["relativeMountPath"].as_str().expect("a path").to_owned()).collect()
        };
        let paths =
            [relative(&volumes["azureFileShares"]), relative(&volumes["azureBlobFileSystems"])].concat();
        let host_paths: Vec<Value> = paths
            .iter()
            .map(|path| json!({ "path": format!("/data/{path}"), "relativeMountPath": path }))
            .collect();
        *volumes = json!({ "hostPaths": host_paths });
    }
    Some(spec(job))
}

/// Observed on three nodes of Batch AI: issue 15 of its documentation repository.
#[test]
fn three_machines_get_the_observed_addresses() {
    let spec = spec(json!({
        "nodeCount": 3,
        "stdOutErrPathPrefix": "/logs",
        "tensorFlowSettings": { "pythonScriptFilePath": "/train.py" }
    }));
    let grants = [machine(0, 1), machine(1, 1), machine(2, 1)];
    let plan = planned(&spec, &grants, &ReservedPorts::new()).expect("a plan");
    let of = |name: &str| {
        let task = plan.tasks().find(|task| task.name == name).expect("a task");
        let node = plan.nodes.iter().find(|node| node.tasks.contains(task)).expect("its node");
        (node.node.0.as_str(), task.command.env.clone())
    };
    for (name, node, kind, index) in [
        ("ps-0", "vm-0", "ps", "0"),
        ("worker-0", "vm-0", "worker", "0"),
        ("worker-2", "vm-2", "worker", "2"),
    ] {
        let (on, env) = of(name);
        assert_eq!(on, node);
        assert_eq!(env["AZ_BATCHAI_PS_HOSTS"], "10.0.0.4:2222");
        assert_eq!(env["AZ_BATCHAI_WORKER_HOSTS"], "10.0.0.4:2223,10.0.0.5:2222,10.0.0.6:2222");
        assert_eq!(env["AZ_BATCHAI_TASK_INDEX"], index);
        assert_eq!(
            env["TF_CONFIG"],
            format!(
                r#"{{"cluster":{{"ps":["10.0.0.4:2222"],"worker":["10.0.0.4:2223","10.0.0.5:2222","10.0.0.6:2222"]}},"task":{{"type":"{kind}","index":{index}}},"environment":"cloud"}}"#
            )
        );
    }
}

#[test]
fn what_cannot_be_planned_names_its_field() {
    let refused = |fields: Value, expected: &str| {
        let error = planned(&custom(fields), &[local(0, 0)], &ReservedPorts::new()).expect_err("a refusal");
        assert_eq!(error.to_string(), expected);
    };
    let outputs = |prefix: &str, suffix: &str| json!({ "outputDirectories": [{ "id": "O", "pathPrefix": prefix, "pathSuffix": suffix }] });
    let volumes = |list: Value| json!({ "mountVolumes": { "hostPaths": list } });
    refused(
        json!({ "stdOutErrPathPrefix": "logs" }),
        "stdOutErrPathPrefix is `logs`: an absolute path is needed",
    );
    refused(
        json!({ "stdOutErrPathPrefix": "/a/../b" }),
        "stdOutErrPathPrefix is `/a/../b`: `..` is not allowed in it",
    );
    refused(
        json!({ "stdOutErrPathPrefix": "$NOPE/logs" }),
        "stdOutErrPathPrefix is `$NOPE/logs`: nothing defines the variable NOPE there",
    );
    refused(
        json!({ "inputDirectories": [{ "id": "D", "path": "/d$TOKEN" }], "secrets": [{ "name": "TOKEN", "value": "hunter2" }] }),
        "inputDirectories[0].path is `/d$TOKEN`: TOKEN is a secret, and would be shown; read it from the environment instead",
    );
    refused(
        json!({ "environmentVariables": [{ "name": "URL", "value": "x:$TOKEN" }], "secrets": [{ "name": "TOKEN", "value": "hunter2" }] }),
        "environmentVariables[0].value is `x:$TOKEN`: TOKEN is a secret, and would be shown; read it from the environment instead",
    );
    refused(
        outputs("$AZ_BATCHAI_OUTPUT_O", ""),
        "outputDirectories[0].pathPrefix is `$AZ_BATCHAI_OUTPUT_O`: nothing defines the variable AZ_BATCHAI_OUTPUT_O there",
    );
    refused(
        outputs("/o", "a/../../b"),
        "outputDirectories[0].pathSuffix is `a/../../b`: `..` is not allowed in it",
    );
    refused(
        outputs("/o", "/b"),
        "outputDirectories[0].pathSuffix is `/b`: a path without leading `/` is needed, of at least one name",
    );
    refused(
        volumes(json!([{ "path": "/d", "relativeMountPath": "../x" }])),
        "mountVolumes.hostPaths[0].relativeMountPath is `../x`: `..` is not allowed in it",
    );
    refused(
        volumes(
            json!([{ "path": "/d", "relativeMountPath": "a" }, { "path": "/e", "relativeMountPath": "a/b" }]),
        ),
        "mountVolumes.hostPaths[1].relativeMountPath is `a/b`: it lies on or in another volume of this job, or holds one",
    );
    refused(
        volumes(json!([{ "path": "/d", "relativeMountPath": "a", "readOnly": true }])),
        "mountVolumes.hostPaths[0].readOnly: node node-0 cannot make a directory read-only, because its agent does not run as root",
    );
    refused(
        json!({ "containerSettings": { "imageSourceRegistry": { "image": "ubuntu" } } }),
        "not built yet: containerSettings",
    );
    refused(
        json!({ "environmentVariables": [{ "name": "A", "value": "$B" }, { "name": "B", "value": "$A" }] }),
        "the variable A is needed for its own value",
    );
    refused(json!({ "nodeCount": 2 }), "the job asks for 2 nodes and got 1");
}

#[test]
fn logs_into_a_read_only_volume_are_refused() {
    let job = custom(json!({
        "stdOutErrPathPrefix": "$AZ_BATCHAI_JOB_MOUNT_ROOT/a",
        "mountVolumes": { "hostPaths": [{ "path": "/d", "relativeMountPath": "a", "readOnly": true }] }
    }));
    let error = planned(&job, &[machine(0, 0)], &ReservedPorts::new()).expect_err("a refusal");
    assert!(matches!(error, PlanError::ReadOnlyVolume { .. }), "{error}");
}

/// A variable that doubles the one before, a thousand times over.
#[test]
fn growing_variables_are_refused_before_they_fill_the_memory() {
    let doubling = |i: usize| {
        let value = if i == 0 { "x".repeat(1000) } else { format!("$V{0}$V{0}", i - 1) };
        json!({ "name": format!("V{i}"), "value": value })
    };
    let variables: Vec<Value> = (0..1000).map(doubling).collect();
    let job = custom(json!({ "environmentVariables": variables }));
    let error = planned(&job, &[local(0, 0)], &ReservedPorts::new()).expect_err("a refusal");
    assert!(matches!(error, PlanError::TooLong { .. }), "{error}");
}

#[test]
fn users_variables_win_and_see_each_other() {
    let job = spec(json!({
        "nodeCount": 2,
        "stdOutErrPathPrefix": "$BASE/logs",
        "tensorFlowSettings": { "pythonScriptFilePath": "$BASE/train.py" },
        "environmentVariables": [
            { "name": "BASE", "value": "$AZ_BATCHAI_JOB_TEMP/base" },
            { "name": "PS_HOSTS", "value": "mine" },
            { "name": "BOTH", "value": "$PS_HOSTS ${AZ_BATCHAI_PS_HOSTS} $LATER $HOME $NOBODY $5 $$" },
            { "name": "LATER", "value": "x" },
            { "name": "ME", "value": "$AZ_BATCHAI_STDOUTERR_DIR/$AZ_BATCHAI_TASK_INDEX" }
        ],
        "secrets": [{ "name": "TOKEN", "value": "hunter2" }, { "name": "WORKER_HOSTS", "value": "hidden" }]
    }));
    let plan = planned(&job, &[local(0, 0), local(1, 0)], &ReservedPorts::new()).expect("a plan");
    let worker = plan.tasks().find(|task| task.name == "worker-1").expect("a task");
    let env = &worker.command.env;
    assert_eq!(env["PS_HOSTS"], "mine");
    assert_eq!(env["BOTH"], "mine 127.0.0.2:2222 x /home/ada $NOBODY $5 $$");
    assert!(env["ME"].ends_with("/stdouterr/1"), "{}", env["ME"]);
    assert!(!env.contains_key("WORKER_HOSTS") && !env.contains_key("TOKEN"));
    assert_eq!(worker.command.secret_env["TOKEN"], Secret::new("hunter2".to_owned()));
    let shown =
        format!("{plan:?} {} {}", serde_json::to_string(&plan.nodes).expect("JSON"), export_lines(worker));
    assert!(!shown.contains("hunter2") && shown.contains("# TOKEN is a secret: not shown"), "{shown}");
    assert!(shown.contains(r#""secretEnv":["TOKEN","WORKER_HOSTS"]"#), "{shown}");
}

/// All that bash would change stays as it is typed.
#[test]
fn command_lines_are_never_edited() {
    let line = r#"for i in a 'b c'; do echo "$i" $$ $(ls *) ${X:-$AZ_BATCHAI_JOB_TEMP} \$Y `pwd` "$AZ_BATCHAI_NOT"; done;  "#;
    let job = custom(
        json!({ "customToolkitSettings": { "commandLine": line }, "jobPreparation": { "commandLine": line } }),
    );
    let plan = planned(&job, &[local(0, 0)], &ReservedPorts::new()).expect("a plan");
    assert_eq!(plan.nodes[0].tasks[0].command.argv, ["/bin/bash", "-c", line]);
    assert_eq!(plan.nodes[0].preparation.as_ref().expect("a preparation").argv, ["/bin/bash", "-c", line]);
    let job = spec(json!({
        "nodeCount": 1,
        "stdOutErrPathPrefix": "/logs",
        "pyTorchSettings": {
            "pythonScriptFilePath": "$AZ_BATCHAI_JOB_TEMP/it's here.py",
            "pythonInterpreterPath": "$HOME/py thon",
            "commandLineArgs": line
        }
    }));
    let plan = planned(&job, &[local(0, 0)], &ReservedPorts::new()).expect("a plan");
    let temp = &plan.nodes[0].job_temp;
    assert_eq!(
        plan.nodes[0].tasks[0].command.argv[2],
        format!(r"'/home/ada/py thon' '{temp}/it'\''s here.py' {line}")
    );
}
