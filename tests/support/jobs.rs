//! Properties of small jobs.

use serde_json::{Value, json};

/// A custom job of one node.
#[must_use]
pub fn custom(command_line: &str) -> Value {
    json!({ "nodeCount": 1, "customToolkitSettings": { "commandLine": command_line } })
}

/// A TensorFlow-form job whose script is run by bash: with this many nodes, parameter servers and workers.
#[must_use]
pub fn tensorflow(script: &str, nodes: u32, servers: u32, workers: u32) -> Value {
    json!({
        "nodeCount": nodes,
        "tensorFlowSettings": {
            "pythonScriptFilePath": script,
            "pythonInterpreterPath": "/bin/bash",
            "parameterServerCount": servers,
            "workerCount": workers,
            "masterCommandLineArgs": "worker",
            "workerCommandLineArgs": "worker",
            "parameterServerCommandLineArgs": "ps",
        },
    })
}

/// The same properties with others beside or instead of them.
///
/// # Panics
/// `more` is no object.
#[must_use]
pub fn with(mut properties: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().expect("an object of properties") {
        properties[key] = value.clone();
    }
    properties
}
