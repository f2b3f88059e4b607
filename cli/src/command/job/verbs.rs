//! `trainyard job explain|cancel|delete`: verbs of one request.

use anyhow::Context as _;
use reqwest::Method;
use serde_json::{Value, json};

use super::{OneJob, ScopeFlags};
use crate::client::{API_VERSION, Client};
use crate::command::Connection;
use crate::jobref::JobRef;
use crate::output::{self, Format, cell};
use crate::{exit, talk};

/// Say why a job waits, or why it ended.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard job explain quiet-otter")]
pub(crate) struct Explain {
    #[command(flatten)]
    job: OneJob,
}

impl Explain {
    pub(crate) async fn run(self, format: Format) -> anyhow::Result<u8> {
        let (client, job) = self.job.find().await?;
        let answer = client.get(&format!("{}/explain", job.api_path())).await?;
        output::print(format, &answer, explain_text)?;
        Ok(exit::OK)
    }
}

fn explain_text(answer: &Value) -> String {
    let mut text = format!("{}: {}\n", cell(&answer["executionState"]), cell(&answer["text"]).trim_end());
    for node in answer["nodes"].as_array().into_iter().flatten() {
        text.push_str(&format!("  {}: {}\n", cell(&node["node"]), cell(&node["reason"])));
    }
    text
}

/// End jobs: their tasks get SIGTERM, and SIGKILL if they take too long.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard job cancel quiet-otter
  trainyard job cancel quiet-otter brisk-loom && trainyard job wait quiet-otter")]
pub(crate) struct Cancel {
    #[command(flatten)]
    jobs: SomeJobs,
}

impl Cancel {
    pub(crate) async fn run(self, format: Format) -> anyhow::Result<u8> {
        let mut results = Vec::new();
        let client = self.jobs.connection.client()?;
        for text in &self.jobs.jobs {
            let job = self.jobs.find(&client, text).await?;
            client.terminate(&job).await.with_context(|| format!("cancelling {}", job.job))?;
            let now = client.job(&job).await?;
            let state = cell(&now["properties"]["executionState"]);
            talk::note(&format!("{}: {state}", job.job));
            results.push(json!({"id": job.arm_id(), "name": job.job, "executionState": state}));
        }
        print_results(format, &results)?;
        Ok(exit::OK)
    }
}

/// Forget jobs, with their logs; those that run are ended first. Output directories stay.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard job delete quiet-otter")]
pub(crate) struct Delete {
    #[command(flatten)]
    jobs: SomeJobs,
}

impl Delete {
    pub(crate) async fn run(self, format: Format) -> anyhow::Result<u8> {
        let mut results = Vec::new();
        let client = self.jobs.connection.client()?;
        for text in &self.jobs.jobs {
            let job = self.jobs.find(&client, text).await?;
            let path = format!("{}?api-version={API_VERSION}", job.arm_id());
            client
                .json(Method::DELETE, &path, None)
                .await
                .with_context(|| format!("deleting {}", job.job))?;
            talk::note(&format!("{}: deleted", job.job));
            results.push(json!({"id": job.arm_id(), "name": job.job}));
        }
        print_results(format, &results)?;
        Ok(exit::OK)
    }
}

#[derive(Debug, clap::Args)]
struct SomeJobs {
    /// The jobs: names, unique beginnings of names, numbers or ARM ids.
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<String>,
    #[command(flatten)]
    scope: ScopeFlags,
    #[command(flatten)]
    connection: Connection,
}

impl SomeJobs {
    async fn find(&self, client: &Client, text: &str) -> anyhow::Result<JobRef> {
        client.find(text, &self.scope.scope()).await
    }
}

/// For programs only: people were told on stderr.
fn print_results(format: Format, results: &[Value]) -> anyhow::Result<()> {
    match format {
        Format::Table => Ok(()),
        Format::Json | Format::Yaml => output::print(format, &json!(results), |_| String::new()),
    }
}
