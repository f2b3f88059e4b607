//! `trainyard down`: stops what `up` started, and says what becomes of jobs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::up;
use crate::client::{Client, LIST_LIMIT};
use crate::config::{self, Target};
use crate::jobref::JobRef;
use crate::output::{self, Format, cell};
use crate::statelock::{self, Keeper};
use crate::{exit, follow, talk};

/// States of jobs that are not over.
const OPEN: [&str; 3] = ["queued", "running", "terminating"];
/// How long the process gets to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Stop what `up` started.
///
/// Refuses while jobs wait or run, unless a flag says what to do about them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard down
  trainyard down --wait      first let all jobs end
  trainyard down --cancel    first cancel all jobs
  trainyard down --force     now; running tasks go on, and the next `up` takes them over")]
pub(crate) struct Down {
    /// Wait until all jobs have ended.
    #[arg(long, group = "how")]
    wait: bool,
    /// Cancel all jobs and wait until they have ended.
    #[arg(long, group = "how")]
    cancel: bool,
    /// At once: running tasks go on, waiting jobs stay in the queue, for the next `up`.
    #[arg(long, group = "how")]
    force: bool,
    /// The state directory that `up` was given; that of the last `up` unless named.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl Down {
    pub(crate) fn run(self, format: Format) -> anyhow::Result<u8> {
        let last = if self.state_dir.is_none() { config::last_state_dir()? } else { None };
        let state_dir = up::state_dir(self.state_dir.as_deref().or(last.as_deref()))?;
        let Some(keeper) = statelock::keeper(&state_dir)? else {
            talk::note(&format!("nothing runs with the state directory {}", state_dir.display()));
            return Ok(exit::OK);
        };
        if !self.force {
            super::client_runtime()?.block_on(self.settle_jobs(&state_dir, &keeper))?;
        }
        statelock::stop(&state_dir, &keeper, PATIENCE)?;
        talk::note(if self.force { "stopped; tasks that run go on" } else { "stopped" });
        if format != Format::Table {
            output::print(format, &json!({"pid": keeper.pid, "stateDir": state_dir}), |_| String::new())?;
        }
        Ok(exit::OK)
    }

    async fn settle_jobs(&self, state_dir: &Path, keeper: &Keeper) -> anyhow::Result<()> {
        let token = config::keep_token(state_dir)?;
        let client = Client::new(Target { coordinator: keeper.coordinator.clone(), token: Some(token) })?;
        loop {
            let jobs = client.list(&OPEN, None, LIST_LIMIT).await;
            let jobs = jobs.context("asking for open jobs; --force stops without asking")?;
            if jobs.is_empty() {
                return Ok(());
            }
            // Others may be handed in meanwhile.
            self.settle(&client, &jobs).await?;
        }
    }

    async fn settle(&self, client: &Client, jobs: &[Value]) -> anyhow::Result<()> {
        if !self.wait && !self.cancel {
            let lines: Vec<String> = jobs
                .iter()
                .map(|job| format!("\n  {} {}", cell(&job["name"]), cell(&job["executionState"])))
                .collect();
            let (open, are) = (output::count(jobs.len(), "job"), if jobs.len() == 1 { "is" } else { "are" });
            bail!("{open} {are} open:{}\nchoose --wait, --cancel or --force", lines.concat());
        }
        let jobs: Vec<JobRef> = jobs.iter().filter_map(|job| JobRef::parse(job["id"].as_str()?)).collect();
        if self.cancel {
            for job in &jobs {
                client.terminate(job).await.with_context(|| format!("cancelling {}", job.job))?;
            }
        }
        talk::note(&format!("waiting for {} to end", output::count(jobs.len(), "job")));
        for job in &jobs {
            let ended = follow::until_ended(client, job, |_| {}).await?;
            talk::note(&follow::epitaph(&ended));
        }
        Ok(())
    }
}
