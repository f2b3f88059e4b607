//! Any command, run by `bash -c` on the first node of the job.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::Gang;
use crate::plan::role::{Program, Seat, Seating, Sees};
use crate::plan::task::Role;

/// Settings of this toolkit. Source: docs/compat.md, "Toolkits".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "customToolkitSettings")]
pub struct Settings {
    /// The command, with all shell syntax.
    #[schemars(length(min = 1))]
    pub command_line: String,
}

/// One task on the first node; the others are prepared for it to reach.
pub(crate) fn seat<'a>(settings: &'a Settings, gang: &Gang<'_>) -> Seating<'a> {
    let program = Program::Line { field: "customToolkitSettings.commandLine", text: &settings.command_line };
    let seat = Seat {
        node: 0,
        role: Role::Master,
        index: 0,
        name: "master".to_owned(),
        file_suffix: String::new(),
        gpus: gang.grants[0].gpus.clone(),
        sees: Sees::Own,
        env: Vec::new(),
        program,
    };
    Seating { seats: vec![seat], env: Vec::new(), notes: Vec::new() }
}
