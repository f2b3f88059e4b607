//! What a real bash makes of planned command lines and of `job env` lines.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use trainyard_core::id::{GangNo, NodeId};
use trainyard_core::plan::{NodeGrant, PlanInput, PortSpace, ReservedPorts, TaskPlan, export_lines, plan};

/// The only task of this job, on a node whose root is the folder.
fn task(root: &Path, path: &str, mut job: Value) -> TaskPlan {
    job["nodeCount"] = json!(1);
    job["stdOutErrPathPrefix"] = json!("/logs");
    let spec = serde_json::from_value(job).expect("a job");
    let input = PlanInput {
        spec: &spec,
        subscription: "s",
        resource_group: "g",
        workspace: "w",
        experiment: "e",
        job: "j",
        uuid: "u",
        gang: GangNo(1),
    };
    let grant = NodeGrant {
        node: NodeId("node-0".to_owned()),
        address: "127.0.0.2".to_owned(),
        root: root.to_str().expect("a UTF-8 path").to_owned(),
        gpus: Vec::new(),
        port_space: PortSpace { boot_id: "b".to_owned(), network_namespace: 1 },
        base_environment: BTreeMap::from([("PATH".to_owned(), path.to_owned())]),
        privileged: false,
    };
    let mut plan = plan(&input, &[grant], &ReservedPorts::new()).expect("a plan");
    plan.nodes.remove(0).tasks.remove(0)
}

fn run(task: &TaskPlan) -> Output {
    let command = &task.command;
    std::fs::create_dir_all(&command.cwd).expect("a job folder");
    Command::new(&command.argv[0])
        .args(&command.argv[1..])
        .env_clear()
        .envs(&command.env)
        .current_dir(&command.cwd)
        .output()
        .expect("bash")
}

/// Standard output, after checking that nothing went wrong.
fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// An executable that prints what it is and its arguments, a line each.
fn program(path: &Path, name: &str) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    let script = format!("#!/bin/bash\necho {name}\nprintf '<%s>\\n' \"$@\"\n");
    std::fs::write(path, script).expect("a program");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
}

#[test]
fn bash_sees_the_users_line_and_the_tasks_environment() {
    let root = tempfile::tempdir().expect("a folder");
    let line = r#"touch b.txt a.txt; for i in 1 '2 $i'; do echo "$i"; done; echo *.txt $(echo sub) "$TRAINYARD_TASK" '$HOME' \$X; test $$ -gt 1"#;
    let task =
        task(root.path(), "/usr/bin:/bin", json!({ "customToolkitSettings": { "commandLine": line } }));
    assert_eq!(text(&run(&task)), "1\n2 $i\na.txt b.txt sub master $HOME $X\n");
}

#[test]
fn scripts_get_the_interpreter_that_is_there() {
    let root = tempfile::tempdir().expect("a folder");
    let (both, old) = (root.path().join("both"), root.path().join("old"));
    program(&both.join("python3"), "three");
    program(&both.join("python"), "two");
    program(&old.join("python"), "two");
    let job = |script: &str| json!({ "pyTorchSettings": { "pythonScriptFilePath": script, "commandLineArgs": "--rank $RANK \"a b\"" } });
    for (path, name) in [(&both, "three"), (&old, "two")] {
        let task =
            task(root.path(), path.to_str().expect("UTF-8"), job("$AZ_BATCHAI_JOB_TEMP/it's $(no).py"));
        let script = format!("{}/it's $(no).py", task.command.cwd);
        assert_eq!(text(&run(&task)), format!("{name}\n<{script}>\n<--rank>\n<0>\n<a b>\n"));
    }
    let none = run(&task(root.path(), "/nowhere", job("/x.py")));
    assert_eq!(none.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&none.stderr).contains("python3"), "{none:?}");
}

#[test]
fn export_lines_give_the_environment_back() {
    let root = tempfile::tempdir().expect("a folder");
    let value = "it's \"$X\" `y` \\ \n second $(line) *";
    let job = json!({
        "customToolkitSettings": { "commandLine": "echo\nrm -rf important" },
        "environmentVariables": [{ "name": "ODD", "value": value }, { "name": "no-shell-name", "value": "1" }],
        "secrets": [{ "name": "TOKEN", "value": "hunter2" }]
    });
    let task = task(root.path(), "/usr/bin:/bin", job);
    std::fs::create_dir_all(&task.command.cwd).expect("a job folder");
    let lines = export_lines(&task);
    assert!(!lines.contains("hunter2"), "{lines}");
    let script = format!("{lines}\nprintf '%s|%s|%s' \"$ODD\" \"$PWD\" \"$AZ_BATCHAI_JOB_TEMP\"");
    let output = Command::new("/bin/bash").args(["-c", &script]).env_clear().output().expect("bash");
    let cwd = &task.command.cwd;
    assert_eq!(text(&output), format!("{value}|{cwd}|{cwd}"));
}
