//! `trainyard job wait`: told by events when the job has ended; nothing is polled.

use anyhow::Context as _;

use super::OneJob;
use super::show::job_table;
use crate::output::{self, Format};
use crate::{exit, follow, talk};

/// Wait for a job to end; the exit code is the job's.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard job wait quiet-otter && echo trained

Exit codes: the job's own; 128+n after signal n; 124 when its wall-clock limit ended it; 1 when it ended
without a code; 125 when trainyard itself failed.")]
pub(crate) struct Wait {
    #[command(flatten)]
    job: OneJob,
}

impl Wait {
    pub(crate) async fn run(self, format: Format) -> anyhow::Result<u8> {
        let (client, job) = self.job.find().await?;
        let ended = follow::until_ended(&client, &job, |_| {}).await?;
        let code = exit::of_job(&ended).context("the job has not ended")?;
        match format {
            Format::Table => talk::note(&follow::epitaph(&ended)),
            Format::Json | Format::Yaml => output::print(format, &ended, job_table)?,
        }
        Ok(code)
    }
}
