//! `trainyard job env`: a task's environment, to run its command by hand.

use anyhow::{Context as _, bail};
use serde_json::Value;
use trainyard_core::plan::{TaskPlan, export_lines};

use super::OneJob;
use crate::exit;
use crate::output::{self, Format};

/// Print the environment of a task as `export` lines. Secrets are left out.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard job env quiet-otter worker-0
  eval \"$(trainyard job env quiet-otter worker-0)\"   # then run the task's command by hand")]
pub(crate) struct Env {
    #[command(flatten)]
    job: OneJob,
    /// The task, as `worker-0`; may be left out where there is only one.
    task: Option<String>,
}

impl Env {
    pub(crate) async fn run(self, format: Format) -> anyhow::Result<u8> {
        let (client, job) = self.job.find().await?;
        let plan = client.get(&format!("{}/plan", job.api_path())).await?;
        let task = choose(&tasks(&plan)?, self.task.as_deref(), &job.job)?;
        let env = serde_json::to_value(&task.command.env).context("writing JSON")?;
        output::print(format, &env, |_| export_lines(&task))?;
        Ok(exit::OK)
    }
}

fn tasks(plan: &Value) -> anyhow::Result<Vec<TaskPlan>> {
    let nodes = plan["nodes"].as_array().into_iter().flatten();
    let tasks = nodes.flat_map(|node| node["tasks"].as_array().into_iter().flatten());
    tasks.map(|task| serde_json::from_value(task.clone()).context("reading the plan")).collect()
}

fn choose(tasks: &[TaskPlan], wanted: Option<&str>, job: &str) -> anyhow::Result<TaskPlan> {
    let names = || tasks.iter().map(|task| task.name.as_str()).collect::<Vec<_>>().join(", ");
    match (wanted, tasks) {
        (_, []) => bail!("{job} has no tasks yet; `trainyard job explain {job}` says why"),
        (None, [task]) => Ok(task.clone()),
        (None, _) => bail!("{job} has several tasks: {}", names()),
        (Some(wanted), _) => {
            let found = tasks.iter().find(|task| task.name == wanted).cloned();
            found.with_context(|| format!("{job} has no task `{wanted}`; it has: {}", names()))
        }
    }
}
