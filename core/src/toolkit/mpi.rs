//! Any command under MPI. Planned by a later step: parses and validates only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of this toolkit. Source: docs/compat.md, "Toolkits".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "customMpiSettings")]
pub struct Settings {
    /// The command of each process.
    #[schemars(length(min = 1))]
    pub command_line: String,
    /// Number of processes; `nodeCount` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = crate::spec::limits::TASKS))]
    pub process_count: Option<u32>,
}
