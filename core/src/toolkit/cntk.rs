//! Microsoft Cognitive Toolkit, started by MPI. Planned by a later step: parses and validates only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of this toolkit. Source: docs/compat.md, "Toolkits".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "cntkSettings")]
pub struct Settings {
    /// `BrainScript` or `Python`; deduced from the path that is set unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-choices" = ["BrainScript", "Python"]))]
    pub language_type: Option<String>,
    /// The BrainScript file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub config_file_path: Option<String>,
    /// The script; variables are expanded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub python_script_file_path: Option<String>,
    /// The interpreter; `python3`, else `python`, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub python_interpreter_path: Option<String>,
    /// Arguments of the script, in shell syntax.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_line_args: Option<String>,
    /// Number of processes; `nodeCount` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = crate::spec::limits::TASKS))]
    pub process_count: Option<u32>,
}
