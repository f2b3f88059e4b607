//! Every kind of bad input: which path is refused, and what the message says.

use super::*;

/// Reads the document as a file and compares the errors: all of them, in their order, by path and a part
/// of their text.
fn check(document: &str, expected: &[(&str, &str)]) {
    check_with(document, &Options::default(), expected);
}

fn check_with(document: &str, options: &Options, expected: &[(&str, &str)]) {
    let refusal = refused(document, options);
    let paths: Vec<&str> = refusal.errors.iter().map(|error| error.path.as_str()).collect();
    let expected_paths: Vec<&str> = expected.iter().map(|(path, _)| *path).collect();
    assert_eq!(paths, expected_paths, "{document}\n{refusal}");
    for (error, (_, part)) in refusal.errors.iter().zip(expected) {
        assert!(error.to_string().contains(part), "{document}\nexpected: {part}\nfound: {error}");
    }
}

fn job(rest: &str) -> String {
    format!("{SMALLEST}{CUSTOM}{rest}\n")
}

fn tensorflow(node_count: u32, counts: &str, rest: &str) -> String {
    format!(
        "nodeCount: {node_count}\nstdOutErrPathPrefix: /logs\n\
         tensorFlowSettings: {{pythonScriptFilePath: /train.py{counts}}}\n{rest}\n"
    )
}

#[test]
fn the_text_itself() {
    check("", &[("document", "empty")]);
    check("[1, 2]", &[("document", "a list where a job is expected")]);
    check("{\"nodeCount\": 1,\n  \"x\" 2}", &[("line 2, column 7", "not JSON: expected `:`")]);
    check("nodeCount: 1\n  x: [", &[("line 2, column 4", "not YAML")]);
    check("nodeCount: 1\nnodeCount: 2\n", &[("line 2, column 1", "`nodeCount` stands twice")]);
    check("{\"properties\": [1]}", &[("properties", "a list does not belong here")]);
    check("{\"properties\": null}", &[("properties", "null does not belong here")]);
    let large = format!("{}{}", job(""), "#".repeat(100 * 1024 * 1024));
    check(&large, &[("document", "allowed: up to 1048576 bytes")]);
}

#[test]
fn the_toolkit() {
    let all = "cntkSettings, pyTorchSettings, tensorFlowSettings";
    check(SMALLEST, &[("toolkit", all)]);
    let settings = "jaxSettings: {pythonScriptFilePath: /a.py}";
    check(&format!("{SMALLEST}{settings}"), &[("jaxSettings", "unknown toolkit; allowed: cntkSettings")]);
    let settings = "tensorflowSettings: {pythonScriptFilePath: /a.py}";
    check(&format!("{SMALLEST}{settings}"), &[("tensorflowSettings", "did you mean `tensorFlowSettings`?")]);
    let settings = "torchSetings: {pythonScriptFilePath: /a.py}";
    check(&format!("{SMALLEST}{settings}"), &[("toolkit", "missing")]);
    check(
        &job("pyTorchSettings: {pythonScriptFilePath: /a.py}"),
        &[("pyTorchSettings", "2 toolkits: pyTorchSettings, customToolkitSettings; allowed: exactly one")],
    );
    check(&format!("{SMALLEST}customToolkitSettings: null"), &[("toolkit", "missing")]);
    check(
        &format!("{SMALLEST}customToolkitSettings: {{}}"),
        &[("customToolkitSettings.commandLine", "missing")],
    );
    check(
        &format!("{SMALLEST}customToolkitSettings: {{commandLine: ''}}"),
        &[("customToolkitSettings.commandLine", "empty")],
    );
    check(
        &format!("{SMALLEST}customToolkitSettings: true"),
        &[(
            "customToolkitSettings",
            "true or false does not belong here; allowed: an object with commandLine",
        )],
    );
    check(
        &format!("{SMALLEST}pyTorchSettings: {{pythonScriptFilePath: /a, communicationBackend: smoke}}"),
        &[(
            "pyTorchSettings.communicationBackend",
            "\"smoke\": none of the values that it can have; allowed: TCP, Gloo",
        )],
    );
}

#[test]
fn two_files_where_one_belongs() {
    let caffe = |fields: &str| format!("{SMALLEST}caffeSettings: {{{fields}}}");
    check(&caffe(""), &[("caffeSettings", "exactly one of configFilePath and pythonScriptFilePath")]);
    check(&caffe("configFilePath: /a, pythonScriptFilePath: /b"), &[("caffeSettings", "both are given")]);
    check(
        &caffe("configFilePath: /a, pythonInterpreterPath: /b"),
        &[("caffeSettings.pythonInterpreterPath", "only with pythonScriptFilePath")],
    );
    let cntk = |fields: &str| format!("{SMALLEST}cntkSettings: {{{fields}}}");
    check(&cntk("languageType: python"), &[("cntkSettings", "none is given")]);
    check(
        &cntk("languageType: python, configFilePath: /a"),
        &[("cntkSettings.languageType", "\"Python\": does not fit the file that is given")],
    );
}

#[test]
fn numbers() {
    let custom = format!("stdOutErrPathPrefix: /logs\n{CUSTOM}");
    let allowed = "allowed: a whole number from 1 to 1000";
    check(
        &custom,
        &[("nodeCount", "nodeCount: missing; allowed: a whole number from 1 to 1000; cure: add `nodeCount`")],
    );
    check(&format!("nodecount: 2\n{custom}"), &[("nodeCount", "`nodecount` is not read: write `nodeCount`")]);
    check(&format!("nodeCount: 0\n{custom}"), &[("nodeCount", "nodeCount = 0: out of range")]);
    check(&format!("nodeCount: 1001\n{custom}"), &[("nodeCount", allowed)]);
    check(&format!("nodeCount: two\n{custom}"), &[("nodeCount", "nodeCount = \"two\": no whole number")]);
    check(&format!("nodeCount: 1.5\n{custom}"), &[("nodeCount", "nodeCount = 1.5: no whole number")]);
    check(&format!("nodeCount: -1\n{custom}"), &[("nodeCount", allowed)]);
    check(&format!("nodeCount: '-1'\n{custom}"), &[("nodeCount", allowed)]);
    check(&format!("nodeCount: [2]\n{custom}"), &[("nodeCount", "a list does not belong here")]);
    check(&format!("nodeCount: 99999999999999999999\n{custom}"), &[("nodeCount", allowed)]);
    check(&job("retries: 101"), &[("retries", "a whole number from 0 to 100")]);
    check(&job("resources: {gpusPerNode: many}"), &[("resources.gpusPerNode", "no whole number")]);
}

#[test]
fn more_tasks_than_nodes_hold() {
    let gpus = "resources: {gpusPerNode: 2}";
    check(
        &tensorflow(2, ", workerCount: 5", gpus),
        &[(
            "tensorFlowSettings.workerCount",
            "tensorFlowSettings.workerCount = 5: more workers than GPUs; \
         allowed: 1 to 4 (nodeCount 2 x resources.gpusPerNode 2); cure: lower it, or raise",
        )],
    );
    check(&tensorflow(2, ", workerCount: 0", ""), &[("tensorFlowSettings.workerCount", "from 1 to 10000")]);
    check(
        &tensorflow(2, ", parameterServerCount: '3'", ""),
        &[(
            "tensorFlowSettings.parameterServerCount",
            "tensorFlowSettings.parameterServerCount = 3: more parameter servers than nodes; allowed: 0 to 2",
        )],
    );
    // What nodeCount is wrong for is not reported a second time.
    check(
        "nodeCount: x\nstdOutErrPathPrefix: /l\nresources: {gpusPerNode: 1}\n\
         tensorFlowSettings: {pythonScriptFilePath: /t, workerCount: 9, parameterServerCount: 9}",
        &[("nodeCount", "no whole number")],
    );
    taken(&tensorflow(2, ", workerCount: 4", gpus), &Options::default());
    taken(&tensorflow(2, ", workerCount: 5", "resources: {gpusPerNode: 0}"), &Options::default());
    taken(&tensorflow(2, ", workerCount: 5", ""), &Options::default());
}

#[test]
fn ids_and_names() {
    for id in ["a b", "a.b", "ä", "a/b", &"x".repeat(65)] {
        let list = format!("inputDirectories: [{{id: '{id}', path: /a}}]");
        check(&job(&list), &[("inputDirectories[0].id", "")]);
    }
    check(
        &job("inputDirectories: [{id: A, path: /a}, {id: B, path: /a}, {id: A, path: /b}]"),
        &[("inputDirectories[2].id", "\"A\": the same id as inputDirectories[0]")],
    );
    check(
        &job("outputDirectories: [{id: A, pathPrefix: /a}, {id: A, pathPrefix: /a}]"),
        &[("outputDirectories[1].id", "the same id as outputDirectories[0]")],
    );
    check(
        &job("outputDirectories: [{id: stdouterr, pathPrefix: /a}]"),
        &[("outputDirectories[0].id", "log directory")],
    );
    for name in ["1A", "A-B", "A B", "A=B", "É"] {
        let list = format!("environmentVariables: [{{name: '{name}', value: x}}]");
        check(&job(&list), &[("environmentVariables[0].name", "not a name of a variable; allowed: letters")]);
    }
    check(
        &job("environmentVariables: [{name: AZ_BATCHAI_TASK_INDEX, value: 1}]"),
        &[("environmentVariables[0].name", "set by the service")],
    );
    check(
        &job(
            "environmentVariables: [{name: A, value: x}, {name: A, value: y}]\nsecrets: [{name: A, value: z}]",
        ),
        &[
            ("environmentVariables[1].name", "the same name as environmentVariables[0]"),
            ("secrets[0].name", "the same name as environmentVariables[0]"),
        ],
    );
    check(
        &job("environmentVariables: {A: x}"),
        &[(
            "environmentVariables",
            "an object does not belong here; allowed: a list of objects with name, value",
        )],
    );
    check(
        &job("environmentVariables: [{name: A, value: 1.10}]"),
        &[("environmentVariables[0].value", "a number where text belongs; cure: write it in quotes")],
    );
    check(
        &job("environmentVariables: [{name: A}, null]"),
        &[
            ("environmentVariables[0].value", "missing"),
            ("environmentVariables[1]", "null does not belong here"),
        ],
    );
}

#[test]
fn durations() {
    for text in [
        "7",
        "7 days",
        "1d",
        "P",
        "PT",
        "P1Y",
        "P1M",
        "-P1D",
        "P0D",
        "PT1.5",
        "7.00:00:00",
        "P99999999D",
        "P4000D",
    ] {
        let document = job(&format!("constraints: {{maxWallClockTime: '{text}'}}"));
        check(&document, &[("constraints.maxWallClockTime", "allowed: ")]);
    }
}

#[test]
fn paths() {
    check(
        &job("inputDirectories: [{id: A, path: $NOPE/a}]"),
        &[(
            "inputDirectories[0].path",
            "inputDirectories[0].path = \"$NOPE/a\": nothing defines the variable `NOPE`; allowed: AZ_BATCHAI_JOB_MOUNT_ROOT,",
        )],
    );
    check(
        &job("outputDirectories: [{id: A, pathPrefix: '${AZ_BATCHAI_JOB_MOUNT_ROT}/a'}]"),
        &[("outputDirectories[0].pathPrefix", "did you mean `AZ_BATCHAI_JOB_MOUNT_ROOT`?")],
    );
    check(
        &job("inputDirectories: [{id: A, path: $AZ_BATCHAI_TASK_INDEX/x}]"),
        &[("inputDirectories[0].path", "`AZ_BATCHAI_TASK_INDEX` differs between")],
    );
    check(
        &job(
            "environmentVariables: [{name: I, value: i$AZ_BATCHAI_TASK_INDEX}]\ninputDirectories: [{id: A, path: /$I}]",
        ),
        &[(
            "inputDirectories[0].path",
            "`I` differs between the processes of a job, and this is one directory (it needs",
        )],
    );
    check(
        &job(
            "environmentVariables: [{name: OUT, value: $AZ_BATCHAI_OUTPUT_A}]\noutputDirectories: [{id: A, pathPrefix: $OUT/x}]",
        ),
        &[("outputDirectories[0].pathPrefix", "`AZ_BATCHAI_OUTPUT_A` is needed for its own value")],
    );
    check(
        &job("inputDirectories: [{id: A, path: $AZ_BATCHAI_INPUT_A/x}]"),
        &[("inputDirectories[0].path", "`AZ_BATCHAI_INPUT_A` is needed for its own value")],
    );
    check(
        &job("environmentVariables: [{name: A, value: $B}, {name: B, value: $A}, {name: C, value: $C}]"),
        &[("environmentVariables[0].value", "`A` is needed for its own value")],
    );
    check(
        &job("secrets: [{name: KEY, value: x}]\ninputDirectories: [{id: A, path: /a/$KEY}]"),
        &[("inputDirectories[0].path", "`KEY` is a secret")],
    );
    check(
        &job("secrets: [{name: KEY, value: x}]\nenvironmentVariables: [{name: A, value: a$KEY}]"),
        &[("environmentVariables[0].value", "`KEY` is a secret")],
    );
    check(
        &format!("nodeCount: 1\nstdOutErrPathPrefix: logs\n{CUSTOM}"),
        &[("stdOutErrPathPrefix", "\"logs\": not an absolute path")],
    );
    check(
        &format!("nodeCount: 1\nstdOutErrPathPrefix: $AZ_BATCHAI_STDOUTERR_DIR\n{CUSTOM}"),
        &[("stdOutErrPathPrefix", "`AZ_BATCHAI_STDOUTERR_DIR` is needed for its own value")],
    );
    check(
        &format!("nodeCount: 1\nstdOutErrPathPrefix: /logs/../etc\n{CUSTOM}"),
        &[("stdOutErrPathPrefix", "`..`")],
    );
    check(
        &tensorflow(1, "$A", ""),
        &[("tensorFlowSettings.pythonScriptFilePath", "nothing defines the variable `A`")],
    );
    for suffix in ["/abs", "..", "a/../../b", "."] {
        let list = format!("outputDirectories: [{{id: A, pathPrefix: /a, pathSuffix: '{suffix}'}}]");
        check(&job(&list), &[("outputDirectories[0].pathSuffix", "allowed: a path below another")]);
    }
    let long = format!("inputDirectories: [{{id: A, path: /{}}}]", "x".repeat(4095));
    check(&job(&long), &[("inputDirectories[0].path", "4096 bytes are too many; allowed: up to 4095")]);
    check(
        &job("inputDirectories: [{id: A, path: \"/a\\nb\"}]"),
        &[("inputDirectories[0].path", "a control character")],
    );
    check(
        &job("inputDirectories: [{id: A, path: \"/a\\0b\"}]"),
        &[("inputDirectories[0].path", "a NUL byte")],
    );
    check(
        "{\"nodeCount\":1,\"stdOutErrPathPrefix\":\"/l\",\"customToolkitSettings\":{\"commandLine\":\"a\\u0000\"}}",
        &[("customToolkitSettings.commandLine", "a NUL byte")],
    );
    let long = format!("{SMALLEST}customToolkitSettings: {{commandLine: '{}'}}", "x".repeat(130_000));
    check(&long, &[("customToolkitSettings.commandLine", "130000 bytes are too many")]);
}

#[test]
fn volumes() {
    let hosts = |paths: &[&str]| {
        let items = paths.iter().map(|path| format!("{{path: /d, relativeMountPath: '{path}'}}"));
        job(&format!("mountVolumes: {{hostPaths: [{}]}}", items.collect::<Vec<_>>().join(", ")))
    };
    let at = |index: usize| format!("mountVolumes.hostPaths[{index}].relativeMountPath");
    for path in ["..", "a/..", "../a", "a/../b", "/a", ".", "./."] {
        check(&hosts(&[path]), &[(&at(0), "allowed: a path below another, as `data/train`")]);
    }
    check(&hosts(&[""]), &[(&at(0), "empty")]);
    for pair in [["a", "./a/"], ["a", "a/b"], ["a/b", "a"]] {
        check(&hosts(&pair), &[(&at(1), "the folder of mountVolumes.hostPaths[0]")]);
    }
    taken(&hosts(&["a", "ab", "b/c", "b/d"]), &Options::default());
    check(
        &job("mountVolumes:\n  azureFileShares: [{azureFileUrl: x, relativeMountPath: a}]\n  \
             unmanagedFileSystems: [{mountCommand: x, relativeMountPath: a}]"),
        &[("mountVolumes.unmanagedFileSystems[0].relativeMountPath", "mountVolumes.azureFileShares[0]")],
    );
    check(
        &job("mountVolumes: {hostPaths: [{path: ~/data, relativeMountPath: a, readOnly: maybe}]}"),
        &[
            ("mountVolumes.hostPaths[0].readOnly", "text does not belong here; allowed: true or false"),
            ("mountVolumes.hostPaths[0].path", "not an absolute path"),
        ],
    );
    check(
        &job("mountVolumes: {azureFileShares: [{azureFileUrl: x, relativeMountPath: a, fileMode: rwx}]}"),
        &[("mountVolumes.azureFileShares[0].fileMode", "octal")],
    );
    let many = vec!["{path: /d, relativeMountPath: a}"; 101].join(", ");
    check(
        &job(&format!("mountVolumes: {{hostPaths: [{many}]}}")),
        &[("mountVolumes.hostPaths", "allowed: up to 100")],
    );
}

#[test]
fn one_of_a_value_and_a_reference() {
    let reference = "{sourceVault: {id: v}, secretUrl: u}";
    check(&job("secrets: [{name: A}]"), &[("secrets[0]", "exactly one of value and valueSecretReference")]);
    check(
        &job(&format!("secrets: [{{name: A, value: x, valueSecretReference: {reference}}}]")),
        &[("secrets[0]", "both are given")],
    );
    let share = |credentials: &str| {
        let share = format!("{{azureFileUrl: x, relativeMountPath: a, credentials: {credentials}}}");
        job(&format!("mountVolumes: {{azureFileShares: [{share}]}}"))
    };
    check(
        &share(&format!("{{accountKey: x, accountKeySecretReference: {reference}}}")),
        &[("mountVolumes.azureFileShares[0].credentials", "both are given")],
    );
    check(&share("hunter2"), &[("mountVolumes.azureFileShares[0].credentials", "text does not belong here")]);
    taken(&share("{}"), &Options::default());
    let registry = |fields: &str| {
        job(&format!(
            "containerSettings: {{imageSourceRegistry: {{image: a, credentials: {{username: u{fields}}}}}}}"
        ))
    };
    check(&registry(""), &[("containerSettings.imageSourceRegistry.credentials", "none is given")]);
    taken(&registry(", password: x"), &Options::default());
    check(
        &job("containerSettings: {imageSourceRegistry: {image: a}, shmSize: big}"),
        &[("containerSettings.shmSize", "as `16g`")],
    );
}

#[test]
fn a_request_has_everything() {
    let rest = options(Source::RestBody);
    let cluster = "cluster: {id: /subscriptions/0}\n";
    check_with(&job(""), &rest, &[("cluster", "missing")]);
    let share = "mountVolumes: {azureFileShares: [{azureFileUrl: 'https://<AZURE_BATCHAI_STORAGE_ACCOUNT>.x/y', \
                 relativeMountPath: a}]}";
    let at = |field: &str| format!("mountVolumes.azureFileShares[0].{field}");
    check_with(
        &job(&format!("{cluster}{share}")),
        &rest,
        &[
            (&at("credentials"), "none is given"),
            (&at("accountName"), "missing"),
            (&at("azureFileUrl"), "placeholder"),
        ],
    );
    taken(&job(share), &Options::default());
    let key = share.replace(
        "relativeMountPath: a",
        "relativeMountPath: a, credentials: {accountKey: <AZURE_BATCHAI_STORAGE_KEY>}",
    );
    taken(&job(&key), &Options::default());
    assert_eq!(refused(&job(&format!("{cluster}{key}")), &rest).errors[0].path, at("credentials.accountKey"));
}

#[test]
fn everything_at_once() {
    check(
        "nodeCount: none\n\
         inputDirectories: [{id: A, path: a}, {id: A, path: $X}]\n\
         environmentVariables: [{name: 1, value: x}]\n\
         constraints: {maxWallClockTime: soon}\n\
         schedulingPriority: urgent\n",
        &[
            ("toolkit", "missing"),
            (
                "schedulingPriority",
                "\"urgent\": none of the values that it can have; allowed: low, normal, high",
            ),
            ("nodeCount", "no whole number"),
            ("stdOutErrPathPrefix", "missing"),
            ("inputDirectories[1].id", "the same id"),
            ("inputDirectories[0].path", "not an absolute path"),
            ("inputDirectories[1].path", "nothing defines the variable `X`"),
            ("environmentVariables[0].name", "not a name of a variable"),
            ("constraints.maxWallClockTime", "\"soon\": not an ISO 8601 duration"),
        ],
    );
}

#[test]
fn unknown_keys_with_strict() {
    let strict = Options { strict: true, ..Options::default() };
    check_with(
        &job("retry: 1"),
        &strict,
        &[("retry", "unknown key, not read; cure: did you mean `retries`?")],
    );
    check_with(&job("toolType: custom"), &strict, &[("toolType", "not read: read-only")]);
    check_with(
        "properties: {nodeCount: 1}\nnodeCount: 1",
        &strict,
        &[
            ("toolkit", "missing"),
            ("nodeCount", "stands beside `properties`"),
            ("stdOutErrPathPrefix", "missing"),
        ],
    );
    taken(&job("$schema: x"), &strict);
}

#[test]
fn overrides() {
    let with = |change: Result<Override, SpecError>| Options {
        overrides: vec![change.expect("a change")],
        ..Options::default()
    };
    for text in ["nodeCount", "=4", ""] {
        assert!(Override::set(text).is_err() && Override::environment(text).is_err(), "{text:?}");
    }
    for (change, path, part) in [
        ("nodeCont=4", "nodeCont", "unknown field; allowed: schedulingPriority,"),
        ("nodeCont=4", "nodeCont", "did you mean `nodeCount`?"),
        ("nodeCount=four", "nodeCount", "\"four\": no whole number"),
        ("nodeCount.x=4", "nodeCount", "has no fields"),
        ("nodeCount[0]=4", "nodeCount", "is no list"),
        ("resources.gpus=4", "resources.gpus", "allowed: gpusPerNode"),
        (
            "environmentVariables[1].value=4",
            "environmentVariables[1]",
            "the list has 0 items; allowed: [0] to [0]",
        ),
        ("environmentVariables[x].value=4", "environmentVariables[x].value", "not a path of fields"),
        ("environmentVariables[0.value=4", "environmentVariables[0.value", "not a path of fields"),
        ("a..b=4", "a..b", "not a path of fields"),
        ("inputDirectories=x", "inputDirectories", "not JSON"),
        ("pyTorchSettings.pythonScriptFilePath=/x", "pyTorchSettings", "2 toolkits"),
    ] {
        check_with(&job(""), &with(Override::set(change)), &[(path, part)]);
    }
    check_with(
        &job(""),
        &with(Override::environment("A-B=1")),
        &[("environmentVariables[0].name", "\"A-B\"")],
    );
    check_with(
        &job("secrets: [{name: A, value: x}]"),
        &with(Override::environment("A=1")),
        &[("secrets[0].name", "the same name as environmentVariables[0]")],
    );
}
