//! Any command, run by `bash -c` on the first node of the job.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of this toolkit. Source: docs/compat.md, "Toolkits".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// The command, with all shell syntax.
    pub command_line: String,
}
