//! TensorFlow: parameter servers and workers, each with the addresses of all.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of this toolkit. Source: docs/compat.md, "Toolkits".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// The script; variables are expanded.
    pub python_script_file_path: String,
    /// The interpreter; `python3`, else `python`, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub python_interpreter_path: Option<String>,
    /// Arguments of worker 0, in shell syntax.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master_command_line_args: Option<String>,
    /// Arguments of the other workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_command_line_args: Option<String>,
    /// Arguments of the parameter servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter_server_command_line_args: Option<String>,
    /// Number of workers; `nodeCount` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_count: Option<u32>,
    /// Number of parameter servers; 1 unless given or the job has one node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter_server_count: Option<u32>,
}
