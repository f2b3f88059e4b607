//! The parts beside the door: schema, unbuilt features, secrets, sameness, a client's settings.

use std::collections::BTreeMap;

use super::good_input::FULL;
use super::*;
use crate::text::Secret;
use crate::toolkit::Toolkit;

#[test]
fn unbuilt_features_are_listed() {
    let spec = taken(FULL, &Options::default()).spec;
    let paths: Vec<String> = not_built(&spec).iter().map(ToString::to_string).collect();
    assert_eq!(
        paths,
        [
            "mountVolumes.azureFileShares",
            "mountVolumes.azureBlobFileSystems",
            "mountVolumes.fileServers",
            "mountVolumes.unmanagedFileSystems",
            "containerSettings",
            "secrets[1].valueSecretReference",
        ]
    );
    let host = "mountVolumes: {hostPaths: [{path: /d, relativeMountPath: d}]}\n";
    assert_eq!(not_built(&taken(&format!("{SMALLEST}{CUSTOM}{host}"), &Options::default()).spec), []);
    for key in Toolkit::KEYS {
        let script = if key.starts_with("custom") { "commandLine: x" } else { "pythonScriptFilePath: /x" };
        let spec = taken(&format!("{SMALLEST}{key}: {{{script}}}"), &Options::default()).spec;
        let built = ["tensorFlowSettings", "customToolkitSettings", "pyTorchSettings"].contains(&key);
        assert_eq!(not_built(&spec).is_empty(), built, "{key}");
    }
}

#[test]
fn secrets_go_and_come_back() {
    let spec = taken(FULL, &Options::default()).spec;
    let secrets = secrets_of(&spec);
    let expected = [
        ("/containerSettings/imageSourceRegistry/credentials/password", "SECRET-1"),
        ("/mountVolumes/azureFileShares/0/credentials/accountKey", "SECRET-0"),
        ("/secrets/0/value", "SECRET-2"),
    ];
    let found: Vec<(&str, &str)> =
        secrets.iter().map(|(at, secret)| (at.as_str(), secret.expose())).collect();
    assert_eq!(found, expected);
    let public = serde_json::to_string(&spec).expect("JSON");
    assert_eq!(from_stored(&public, secrets).expect("it was stored"), spec);
    let stray = BTreeMap::from([("/secrets/7/value".to_owned(), Secret::new("x".to_owned()))]);
    let error = from_stored(&public, stray).expect_err("no such place");
    assert!(error.to_string().contains("/secrets/7/value"), "{error}");
    from_stored("{}", BTreeMap::new()).expect_err("no spec");
}

#[test]
fn defaults_do_not_make_another_job() {
    let job = |rest: &str| {
        let text = format!("nodeCount: 2\nstdOutErrPathPrefix: /l\n{rest}");
        taken(&text, &Options::default()).spec
    };
    let base = "tensorFlowSettings: {pythonScriptFilePath: /t";
    let plain = job(&format!("{base}}}"));
    for same in [
        ", workerCount: 2}",
        ", parameterServerCount: 1}\nresources: {}\nmountVolumes: {hostPaths: []}",
        "}\nschedulingPriority: Normal\nconstraints: {maxWallClockTime: PT168H}\nretries: 0",
    ] {
        assert!(plain.asks_the_same_as(&job(&format!("{base}{same}"))), "{same}");
    }
    for other in [
        ", workerCount: 3}",
        ", parameterServerCount: 0}",
        "}\nretries: 1",
        "}\nsecrets: [{name: A, value: x}]",
    ] {
        assert!(!plain.asks_the_same_as(&job(&format!("{base}{other}"))), "{other}");
    }
    let secret = |value: &str| job(&format!("{base}}}\nsecrets: [{{name: A, value: {value}}}]"));
    assert!(!secret("x").asks_the_same_as(&secret("y")));
    let backend = |name: &str| {
        job(&format!("pyTorchSettings: {{pythonScriptFilePath: /t, communicationBackend: {name}}}"))
    };
    assert!(backend("gloo").asks_the_same_as(&backend("GLOO")));
}

#[test]
fn a_client_fills_in_what_a_file_leaves_out() {
    let document = format!(
        "{SMALLEST}{CUSTOM}mountVolumes:\n  azureFileShares:\n  \
         - {{azureFileUrl: 'https://<AZURE_BATCHAI_STORAGE_ACCOUNT>.file.core.windows.net/s', relativeMountPath: a}}\n  \
         - {{accountName: own, azureFileUrl: x, credentials: {{accountKey: kept}}, relativeMountPath: b}}\n  \
         azureBlobFileSystems:\n  \
         - {{accountName: <AZURE_BATCHAI_STORAGE_ACCOUNT>, containerName: c, relativeMountPath: c,\n     \
            credentials: {{accountKey: <AZURE_BATCHAI_STORAGE_KEY>}}}}\n"
    );
    let mut spec = taken(&document, &Options::default()).spec;
    let settings = ClientSettings {
        cluster: Some("/subscriptions/0/c".to_owned()),
        account_name: Some("acc".to_owned()),
        account_key: Some(Secret::new("filled".to_owned())),
    };
    settings.fill_in(&mut spec);
    let body = request_body(&spec).to_string();
    let read = taken(&body, &options(Source::RestBody));
    assert_eq!(read.spec, spec);
    let volumes = spec.mount_volumes.expect("volumes");
    assert_eq!(volumes.azure_file_shares[0].azure_file_url, "https://acc.file.core.windows.net/s");
    let keys = secrets_of(&read.spec);
    assert_eq!(keys.values().map(Secret::expose).collect::<Vec<_>>(), ["filled", "filled", "kept"]);
    assert_eq!(volumes.azure_file_shares[1].account_name.as_deref(), Some("own"));
}

#[test]
fn the_schema_has_every_field_in_both_forms() {
    let schema = schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert!(schema.get("title").is_some() && schema.get("$id").is_none());
    let job = &schema["$defs"]["JobSpec"];
    for field in shape::job().fields() {
        assert!(!job["properties"][&field.name].is_null(), "{}", field.name);
        assert!(!job["properties"][&field.name]["description"].is_null(), "{} is not described", field.name);
    }
    assert_eq!(job["required"], serde_json::json!(["nodeCount", "stdOutErrPathPrefix"]));
    assert_eq!(job["oneOf"].as_array().map(Vec::len), Some(9));
    assert_eq!(job["properties"]["nodeCount"]["maximum"], 1000);
    assert_eq!(schema["anyOf"][0]["properties"]["properties"]["$ref"], "#/$defs/JobSpec");
    let text = schema.to_string();
    assert!(!text.contains("x-choices") && !text.contains("\"properties\":null"));
    // Every reference leads somewhere.
    for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(schema.pointer(reference).is_some(), "{reference}");
    }
}
