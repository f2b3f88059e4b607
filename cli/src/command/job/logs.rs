//! `trainyard job logs`: what tasks have printed, and what they print.

use anyhow::{Context as _, bail};
use futures_util::future;
use serde_json::{Value, json};

use super::OneJob;
use crate::client::{Client, is_not_found};
use crate::follow::{self, Lines, Log, Reader, Stream};
use crate::jobref::JobRef;
use crate::output::{self, Format, cell};
use crate::{exit, talk};

/// Print what the tasks of a job have printed.
///
/// With one task, its bytes as they are. With several, each line after the name of its task.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard job logs quiet-otter
  trainyard job logs -f quiet-otter --task worker-0 --stderr
  trainyard job logs quiet-otter --task preparation
  trainyard job logs quiet-otter --file execution.log
  trainyard job logs quiet-otter --list")]
pub(crate) struct Logs {
    #[command(flatten)]
    job: OneJob,
    /// Go on until the job has ended.
    #[arg(short, long)]
    follow: bool,
    /// Only this task, as `worker-0`, `ps-0`, `master` or `preparation`; can be repeated.
    #[arg(long, value_name = "TASK")]
    task: Vec<String>,
    /// stderr instead of stdout.
    #[arg(long)]
    stderr: bool,
    /// This file of the job's log folder.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["task", "stderr"])]
    file: Option<String>,
    /// This try of the job; the last one unless given.
    #[arg(long, value_name = "N")]
    gang: Option<u64>,
    /// List the log files instead.
    #[arg(long, conflicts_with_all = ["task", "stderr", "file", "follow"])]
    list: bool,
}

impl Logs {
    pub(crate) async fn run(self, format: Format) -> anyhow::Result<u8> {
        let (client, job) = self.job.find().await?;
        if self.list {
            self.print_list(&client, &job, format).await?;
        } else if self.follow {
            self.follow(&client, &job).await?;
        } else {
            self.read(&client, &job).await?;
        }
        Ok(exit::OK)
    }

    async fn print_list(&self, client: &Client, job: &JobRef, format: Format) -> anyhow::Result<()> {
        let gang = self.gang.map(|gang| format!("?gang={gang}")).unwrap_or_default();
        let list = client.get(&format!("{}/logs{gang}", job.api_path())).await?["value"].clone();
        output::print(format, &list, |list| {
            let files = list.as_array().into_iter().flatten();
            output::table(["FILE", "BYTES"], files.map(|f| [cell(&f["file"]), cell(&f["size"])]))
        })
    }

    async fn read(&self, client: &Client, job: &JobRef) -> anyhow::Result<()> {
        let plan = plan(client, job, self.gang).await?;
        let streams = self.choose(plan.as_ref(), &job.job)?;
        let gang = self.gang;
        let alone = streams.len() == 1;
        for stream in streams {
            let log = Log { job: job.clone(), gang, file: stream.file.clone() };
            let mut printer = Printer::new(&stream, alone);
            match printer.print_all(log.open(client.clone(), false)).await {
                // Nothing was printed yet.
                Err(e) if is_not_found(&e) && self.file.is_none() => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Follows one gang after the other until the job has ended.
    async fn follow(&self, client: &Client, job: &JobRef) -> anyhow::Result<()> {
        let mut done = 0;
        loop {
            let Some((gang, plan)) = self.next_gang(client, job, done).await? else {
                return Ok(());
            };
            if done > 0 {
                talk::note(&format!("--- gang {gang} ---"));
            }
            let streams = self.choose(Some(&plan), &job.job)?;
            let alone = streams.len() == 1;
            let all = streams.iter().map(|stream| async move {
                let log = Log { job: job.clone(), gang: Some(gang), file: stream.file.clone() };
                Printer::new(stream, alone).print_all(log.open(client.clone(), true)).await
            });
            future::try_join_all(all).await?;
            if self.gang.is_some() {
                return Ok(());
            }
            done = gang;
        }
    }

    /// The next gang after `done` and its plan; `None` when the job has ended without another.
    async fn next_gang(&self, client: &Client, job: &JobRef, done: u64) -> anyhow::Result<Option<(u64, Value)>> {
        if let Some(gang) = self.gang {
            let plan = plan(client, job, Some(gang)).await?;
            return Ok(Some((gang, plan.with_context(|| format!("{} has no gang {gang}", job.job))?)));
        }
        let state = follow::until(client, job, |now| {
            exit::of_job(now).is_some() || gang_of(now).is_some_and(|gang| gang > done)
        })
        .await?;
        match (gang_of(&state).filter(|gang| *gang > done), plan(client, job, None).await?) {
            (Some(gang), Some(plan)) => Ok(Some((plan["gang"].as_u64().unwrap_or(gang), plan))),
            _ => Ok(None),
        }
    }

    fn choose(&self, plan: Option<&Value>, job: &str) -> anyhow::Result<Vec<Stream>> {
        if let Some(file) = &self.file {
            let name_fits = !file.is_empty() && file.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b'?');
            if !name_fits {
                bail!("`{file}` is no log file; `--list` shows those there are");
            }
            return Ok(vec![Stream { task: file.clone(), file: file.clone(), stderr: false }]);
        }
        let Some(plan) = plan else {
            bail!("{job} has not started yet; `trainyard job explain {job}` says why, `-f` waits");
        };
        let all = follow::streams(plan);
        let wanted = |stream: &Stream| {
            stream.stderr == self.stderr
                && if self.task.is_empty() {
                    !stream.task.starts_with("preparation")
                } else {
                    self.task.iter().any(|task| fits(&stream.task, task))
                }
        };
        let chosen: Vec<Stream> = all.iter().filter(|s| wanted(s)).cloned().collect();
        for task in &self.task {
            if !chosen.iter().any(|stream| fits(&stream.task, task)) {
                let names: Vec<&str> = all.iter().filter(|s| !s.stderr).map(|s| s.task.as_str()).collect();
                bail!("{job} has no task `{task}`; it has: {}", names.join(", "));
            }
        }
        Ok(chosen)
    }
}

/// `preparation` means those of all nodes.
fn fits(task: &str, wanted: &str) -> bool {
    task == wanted || task.split_once('@').is_some_and(|(name, _)| name == wanted)
}

fn gang_of(job: &Value) -> Option<u64> {
    job["properties"]["trainyard"]["gang"].as_u64().filter(|gang| *gang > 0)
}

/// The plan of a gang; `None` if the job was not planned yet.
async fn plan(client: &Client, job: &JobRef, gang: Option<u64>) -> anyhow::Result<Option<Value>> {
    let gang = gang.map(|gang| format!("?gang={gang}")).unwrap_or_default();
    match client.get(&format!("{}/plan{gang}", job.api_path())).await {
        Ok(plan) if plan["nodes"] == json!([]) => Ok(None),
        Ok(plan) => Ok(Some(plan)),
        Err(e) if is_not_found(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Prints the bytes of one stream: as they are, or each line after the task's name.
struct Printer {
    prefix: Option<String>,
    lines: Lines,
}

impl Printer {
    fn new(stream: &Stream, alone: bool) -> Printer {
        Printer { prefix: (!alone).then(|| format!("{} | ", stream.task)), lines: Lines::default() }
    }

    async fn print_all(&mut self, mut log: Reader) -> anyhow::Result<()> {
        while let Some(bytes) = log.next().await? {
            self.print(&bytes)?;
        }
        self.finish()
    }

    fn print(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let Some(prefix) = &self.prefix else {
            return output::write_bytes(bytes);
        };
        let mut text = Vec::with_capacity(bytes.len() + prefix.len());
        for line in self.lines.push(bytes) {
            add_line(&mut text, prefix, &line);
        }
        output::write_bytes(&text)
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        let mut text = Vec::new();
        if let (Some(prefix), Some(rest)) = (&self.prefix, self.lines.rest()) {
            add_line(&mut text, prefix, &rest);
        }
        output::write_bytes(&text)
    }
}

fn add_line(text: &mut Vec<u8>, prefix: &str, line: &[u8]) {
    text.extend_from_slice(prefix.as_bytes());
    text.extend_from_slice(line);
    text.push(b'\n');
}
