//! What is taken: every field, both forms, and the changes of a command line.

use serde_json::{Value, json};

use super::*;

/// A job with every field but the toolkits, of which it has one.
pub(super) const FULL: &str = r#"
schedulingPriority: High
cluster: {id: /subscriptions/s/resourceGroups/g/providers/Microsoft.BatchAI/workspaces/w/clusters/c}
nodeCount: "3"
mountVolumes:
  azureFileShares:
  - {accountName: acc, azureFileUrl: "https://acc.file.core.windows.net/s", credentials: {accountKey: SECRET-0},
     relativeMountPath: share, fileMode: 0777, directoryMode: "0755"}
  azureBlobFileSystems:
  - {accountName: acc, containerName: box, credentials: {accountKeySecretReference: {sourceVault: {id: v}, secretUrl: u}},
     relativeMountPath: blob, mountOptions: --x}
  fileServers:
  - {fileServer: {id: f}, sourceDirectory: sub, relativeMountPath: nfs, mountOptions: rw}
  unmanagedFileSystems:
  - {mountCommand: mount -t glusterfs 10.0.0.4:/v, relativeMountPath: gluster}
  hostPaths:
  - {path: /data, relativeMountPath: data, readOnly: "true"}
containerSettings:
  imageSourceRegistry: {serverUrl: r.example, image: r.example/i, credentials: {username: u, password: SECRET-1}}
  shmSize: 16gb
tensorFlowSettings:
  pythonScriptFilePath: $AZ_BATCHAI_INPUT_SCRIPT/train.py
  pythonInterpreterPath: /usr/bin/python3
  masterCommandLineArgs: --index $AZ_BATCHAI_TASK_INDEX
  workerCommandLineArgs: --worker
  parameterServerCommandLineArgs: --ps
  workerCount: 3.0
  parameterServerCount: 1
jobPreparation: {commandLine: 'for i in 1 2; do echo $i $$; done'}
stdOutErrPathPrefix: ${BASE}/logs
inputDirectories: [{id: SCRIPT, path: $AZ_BATCHAI_JOB_MOUNT_ROOT/data}]
outputDirectories: [{id: MODEL, pathPrefix: $AZ_BATCHAI_INPUT_SCRIPT, pathSuffix: models/a}]
environmentVariables:
- {name: BASE, value: $AZ_BATCHAI_JOB_MOUNT_ROOT/share}
- {name: EPOCHS, value: 8}
- {name: PATH, value: "/opt/bin:$PATH"}
- {name: TIMELINE, value: $AZ_BATCHAI_OUTPUT_MODEL/t.json}
- {name: EMPTY, value: ""}
secrets:
- {name: TOKEN, value: SECRET-2}
- {name: VAULT, valueSecretReference: {sourceVault: {id: v}, secretUrl: u}}
constraints: {maxWallClockTime: PT36H}
resources: {gpusPerNode: 1}
retries: 2
"#;

/// The public form of [`FULL`].
fn full_public() -> Value {
    json!({
        "schedulingPriority": "high",
        "cluster": { "id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.BatchAI/workspaces/w/clusters/c" },
        "nodeCount": 3,
        "mountVolumes": {
            "azureFileShares": [{
                "accountName": "acc", "azureFileUrl": "https://acc.file.core.windows.net/s", "credentials": {},
                "relativeMountPath": "share", "fileMode": "0777", "directoryMode": "0755",
            }],
            "azureBlobFileSystems": [{
                "accountName": "acc", "containerName": "box",
                "credentials": { "accountKeySecretReference": { "sourceVault": { "id": "v" }, "secretUrl": "u" } },
                "relativeMountPath": "blob", "mountOptions": "--x",
            }],
            "fileServers": [{
                "fileServer": { "id": "f" }, "sourceDirectory": "sub", "relativeMountPath": "nfs", "mountOptions": "rw",
            }],
            "unmanagedFileSystems": [{
                "mountCommand": "mount -t glusterfs 10.0.0.4:/v", "relativeMountPath": "gluster",
            }],
            "hostPaths": [{ "path": "/data", "relativeMountPath": "data", "readOnly": true }],
        },
        "containerSettings": {
            "imageSourceRegistry": {
                "serverUrl": "r.example", "image": "r.example/i", "credentials": { "username": "u" },
            },
            "shmSize": "16gb",
        },
        "tensorFlowSettings": {
            "pythonScriptFilePath": "$AZ_BATCHAI_INPUT_SCRIPT/train.py",
            "pythonInterpreterPath": "/usr/bin/python3",
            "masterCommandLineArgs": "--index $AZ_BATCHAI_TASK_INDEX",
            "workerCommandLineArgs": "--worker",
            "parameterServerCommandLineArgs": "--ps",
            "workerCount": 3,
            "parameterServerCount": 1,
        },
        "jobPreparation": { "commandLine": "for i in 1 2; do echo $i $$; done" },
        "stdOutErrPathPrefix": "${BASE}/logs",
        "inputDirectories": [{ "id": "SCRIPT", "path": "$AZ_BATCHAI_JOB_MOUNT_ROOT/data" }],
        "outputDirectories": [{
            "id": "MODEL", "pathPrefix": "$AZ_BATCHAI_INPUT_SCRIPT", "pathSuffix": "models/a",
        }],
        "environmentVariables": [
            { "name": "BASE", "value": "$AZ_BATCHAI_JOB_MOUNT_ROOT/share" },
            { "name": "EPOCHS", "value": "8" },
            { "name": "PATH", "value": "/opt/bin:$PATH" },
            { "name": "TIMELINE", "value": "$AZ_BATCHAI_OUTPUT_MODEL/t.json" },
            { "name": "EMPTY", "value": "" },
        ],
        "secrets": [
            { "name": "TOKEN" },
            { "name": "VAULT", "valueSecretReference": { "sourceVault": { "id": "v" }, "secretUrl": "u" } },
        ],
        "constraints": { "maxWallClockTime": "PT36H" },
        "resources": { "gpusPerNode": 1 },
        "retries": 2,
    })
}

#[test]
fn every_field_is_read_in_both_sources() {
    for source in [Source::File, Source::RestBody] {
        let strict = Options { source, strict: true, ..Options::default() };
        let read = taken(FULL, &strict);
        assert_eq!(read.warnings, []);
        assert_eq!(serde_json::to_value(&read.spec).expect("JSON"), full_public());
    }
}

#[test]
fn the_public_form_shows_no_secret() {
    let spec = taken(FULL, &Options::default()).spec;
    let public = serde_json::to_string(&spec).expect("JSON");
    let debug = format!("{spec:?}");
    assert!(!public.contains("SECRET-") && !debug.contains("SECRET-"));
    let body = request_body(&spec).to_string();
    for secret in ["SECRET-0", "SECRET-1", "SECRET-2"] {
        assert!(body.contains(secret), "{secret}");
    }
    let again = taken(&body, &Options { source: Source::RestBody, strict: true, ..Options::default() }).spec;
    assert_eq!(again, spec);
}

#[test]
fn both_forms_and_nulls() {
    let bare = json!({
        "nodeCount": 1, "stdOutErrPathPrefix": "/l", "customToolkitSettings": { "commandLine": "x" },
        "cntkSettings": null, "cluster": null, "environmentVariables": null,
    });
    let wrapped = json!({ "$schema": "https://example.invalid/job.json", "properties": bare, "name": null });
    let spec = taken(&bare.to_string(), &Options::default()).spec;
    let strict = Options { strict: true, ..Options::default() };
    assert_eq!(taken(&wrapped.to_string(), &strict).spec, spec);
    assert_eq!(spec.constraints.max_wall_clock_time, jiff::SignedDuration::from_hours(168));
}

#[test]
fn unknown_keys_are_warned_of_in_files_only() {
    let document = format!(
        "{SMALLEST}{CUSTOM}nodeCnt: 2\ntoolType: custom\npriority: 0\nworkerCount: 2\n\
         outputDirectories: [{{id: A, pathPrefix: /a, type: model, createNew: true, colour: red}}]\n"
    );
    let warnings = taken(&document, &options(Source::File)).warnings;
    let shown: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    for (index, part) in [
        "nodeCnt: unknown key, not read; did you mean `nodeCount`?",
        "toolType: not read: read-only, it follows from the settings key",
        "priority: not read: of api-version 2018-03-01, now `schedulingPriority`",
        "workerCount: unknown key, not read; its place is `tensorFlowSettings.workerCount`",
        "outputDirectories[0].type: not read: of api-version 2018-03-01",
        "outputDirectories[0].createNew: not read: of api-version 2018-03-01",
        "outputDirectories[0].colour: unknown key, not read; known here: id, pathPrefix, pathSuffix",
    ]
    .iter()
    .enumerate()
    {
        assert!(shown[index].starts_with(part), "{shown:#?}");
    }
    assert_eq!(shown.len(), 7);
    let request = format!("{document}cluster: {{id: c}}\n");
    assert_eq!(taken(&request, &options(Source::RestBody)).warnings, []);
}

#[test]
fn surprises_are_warned_of() {
    let document = format!(
        "{SMALLEST}{CUSTOM}inputDirectories: [{{id: a-b, path: /a}}]\n\
         outputDirectories: [{{id: A, pathPrefix: /a, pathSuffix: $X}}]\n\
         environmentVariables: [{{name: X, value: $AZ_BATCHAI_OUTPUT_B}}]\n"
    );
    let paths: Vec<String> =
        taken(&document, &Options::default()).warnings.into_iter().map(|w| w.path).collect();
    assert_eq!(
        paths,
        ["inputDirectories[0].id", "outputDirectories[0].pathSuffix", "environmentVariables[0].value"]
    );
}

#[test]
fn a_command_line_changes_fields() {
    let set = |text: &str| Override::set(text).expect("a change");
    let environment = |text: &str| Override::environment(text).expect("a variable");
    let overrides = vec![
        set("nodeCount=4"),
        set("properties.resources.gpusPerNode=0"),
        set("tensorFlowSettings.workerCount=3"),
        set("environmentVariables[1].value=9"),
        set("inputDirectories[1]={\"id\": \"B\", \"path\": \"/b\"}"),
        set("outputDirectories=[]"),
        set("environmentVariables[3].value={not=json}"),
        environment("EPOCHS=10"),
        environment("NEW=a=b c"),
        set("constraints.maxWallClockTime=PT1H"),
    ];
    let spec = taken(FULL, &Options { overrides, ..Options::default() }).spec;
    let public = serde_json::to_value(&spec).expect("JSON");
    let mut expected = full_public();
    expected["nodeCount"] = 4.into();
    expected["resources"]["gpusPerNode"] = 0.into();
    expected["environmentVariables"][1]["value"] = "10".into();
    expected["environmentVariables"][3]["value"] = "{not=json}".into();
    let mut push = |list: &str, item: Value| expected[list].as_array_mut().expect("a list").push(item);
    push("environmentVariables", json!({ "name": "NEW", "value": "a=b c" }));
    push("inputDirectories", json!({ "id": "B", "path": "/b" }));
    expected.as_object_mut().expect("an object").shift_remove("outputDirectories");
    expected["constraints"]["maxWallClockTime"] = "PT1H".into();
    assert_eq!(public, expected);
}

#[test]
fn a_long_chain_of_variables_is_followed() {
    let link = |i: u32| format!("- {{name: V{i}, value: $V{}}}\n", i + 1);
    let chain: String = (0..999).map(link).collect();
    let document = format!("{SMALLEST}{CUSTOM}environmentVariables:\n{chain}- {{name: V999, value: /x}}\n");
    taken(&document, &Options::default());
}

#[test]
fn a_change_of_a_secret_is_not_shown() {
    let change = Override::set("secrets[0].value=hunter2").expect("a change");
    assert_eq!(format!("{change:?}"), "--set secrets[0].value=...");
}
