//! `trainyard job plan`: which task runs where, and with what.

use serde_json::Value;

use super::OneJob;
use crate::exit;
use crate::output::{self, Format, cell};

/// Show the plan of a job: every task with its node, role, command and variables.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard job plan quiet-otter
  trainyard job plan quiet-otter -o yaml")]
pub(crate) struct Plan {
    #[command(flatten)]
    job: OneJob,
}

impl Plan {
    pub(crate) async fn run(self, format: Format) -> anyhow::Result<u8> {
        let (client, job) = self.job.find().await?;
        let plan = client.get(&format!("{}/plan", job.api_path())).await?;
        output::print(format, &plan, table)?;
        Ok(exit::OK)
    }
}

fn table(plan: &Value) -> String {
    let rows = plan["nodes"].as_array().into_iter().flatten().flat_map(|node| {
        node["tasks"].as_array().into_iter().flatten().map(|task| {
            let argv = task["command"]["argv"].as_array().map(Vec::as_slice).unwrap_or_default();
            [
                cell(&task["name"]),
                cell(&task["rank"]),
                cell(&task["role"]),
                cell(&task["index"]),
                cell(&node["node"]),
                task["gpus"].as_array().map_or(0, Vec::len).to_string(),
                argv.last().map(cell).unwrap_or_default().replace('\n', " "),
            ]
        })
    });
    output::table(["TASK", "RANK", "ROLE", "INDEX", "NODE", "GPUS", "COMMAND"], rows)
}
