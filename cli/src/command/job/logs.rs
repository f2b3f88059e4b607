//! `trainyard job logs`: what tasks have printed, and what they print.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::OneJob;
use crate::client::{Client, is_not_found};
use crate::follow::{self, Lines, Log, News, Reader, Stream};
use crate::jobref::JobRef;
use crate::output::{self, Format, cell};
use crate::{exit, talk};

/// Pieces of logs on their way to stdout.
const NEWS_QUEUE: usize = 64;

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
    #[command(flatten)]
    choice: Choice,
    /// This try of the job; the last one unless given.
    #[arg(long, value_name = "N")]
    gang: Option<u64>,
    /// List the log files instead.
    #[arg(long, conflicts_with_all = ["task", "stderr", "file", "follow"])]
    list: bool,
}

/// Which streams.
#[derive(Clone, Debug, clap::Args)]
struct Choice {
    /// Only this task, as `worker-0`, `ps-0`, `master` or `preparation`; can be repeated.
    #[arg(long, value_name = "TASK")]
    task: Vec<String>,
    /// stderr instead of stdout.
    #[arg(long)]
    stderr: bool,
    /// This file of the job's log folder.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["task", "stderr"])]
    file: Option<String>,
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
            let missing = |file: &Value| {
                file["gaps"].as_array().map_or(0, |gaps| gaps.iter().map(gap_bytes).sum::<u64>())
            };
            let rows = files.map(|f| [cell(&f["file"]), cell(&f["size"]), missing(f).to_string()]);
            output::table(["FILE", "BYTES", "MISSING"], rows)
        })
    }

    /// What there is, one stream after the other.
    async fn read(&self, client: &Client, job: &JobRef) -> anyhow::Result<()> {
        let streams = match self.choice.file()? {
            Some(file) => vec![file],
            None => match plan(client, job, self.gang).await? {
                Some(plan) => self.choice.of(&follow::streams(&plan), &job.job)?,
                None => {
                    let name = &job.job;
                    bail!(
                        "{name} has not started; `trainyard job explain {name}` says why, `-f` waits for it"
                    );
                }
            },
        };
        self.print_all(client, job, &streams, self.gang, false).await
    }

    async fn follow(&self, client: &Client, job: &JobRef) -> anyhow::Result<()> {
        if let Some(file) = self.choice.file()? {
            return self.print_all(client, job, &[file], self.gang, true).await;
        }
        if let Some(gang) = self.gang {
            let plan = plan(client, job, Some(gang)).await?;
            let plan = plan.with_context(|| format!("{} has no gang {gang}", job.job))?;
            let streams = self.choice.of(&follow::streams(&plan), &job.job)?;
            return self.print_all(client, job, &streams, Some(gang), true).await;
        }
        self.follow_gangs(client, job).await
    }

    /// Follows one gang after the other until the job has ended.
    async fn follow_gangs(&self, client: &Client, job: &JobRef) -> anyhow::Result<()> {
        let (tx, mut news) = mpsc::channel(NEWS_QUEUE);
        let (choice, name) = (self.choice.clone(), job.job.clone());
        let choose = move |streams: &[Stream]| choice.of(streams, &name);
        // It ends with `news`.
        tokio::spawn(follow::job_and_logs(client.clone(), job.clone(), choose, tx));
        let mut printers: BTreeMap<String, Printer> = BTreeMap::new();
        let mut gangs = 0;
        while let Some(heard) = news.recv().await {
            match heard {
                News::Job(_) => {}
                News::Gang(gang, streams) => {
                    if gangs > 0 {
                        talk::note(&format!("--- gang {gang} ---"));
                    }
                    gangs += 1;
                    for printer in printers.values_mut() {
                        printer.finish()?;
                    }
                    let alone = streams.len() == 1;
                    printers = streams.iter().map(|s| (s.file.clone(), Printer::new(s, alone))).collect();
                }
                News::Bytes(stream, bytes) => {
                    if let Some(printer) = printers.get_mut(&stream.file) {
                        printer.print(&bytes)?;
                    }
                }
                News::EndOf(stream) => {
                    if let Some(printer) = printers.get_mut(&stream.file) {
                        printer.finish()?;
                    }
                }
                News::Over(_) => {
                    self.note_gaps(client, job, None, &|file| printers.contains_key(file)).await;
                    return Ok(());
                }
                News::Failed(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says on stderr which bytes are missing. The logs are shown already: that the list cannot be had is no error.
    async fn note_gaps(
        &self,
        client: &Client,
        job: &JobRef,
        gang: Option<u64>,
        is_shown: &dyn Fn(&str) -> bool,
    ) {
        let gang = gang.map(|gang| format!("?gang={gang}")).unwrap_or_default();
        let Ok(list) = client.get(&format!("{}/logs{gang}", job.api_path())).await else { return };
        for file in list["value"].as_array().into_iter().flatten() {
            let name = cell(&file["file"]);
            let gaps = file["gaps"].as_array().map(Vec::as_slice).unwrap_or_default();
            if gaps.is_empty() || !is_shown(&name) {
                continue;
            }
            let missing: u64 = gaps.iter().map(gap_bytes).sum();
            let ranges: Vec<String> =
                gaps.iter().take(8).map(|gap| format!("{}..{}", cell(&gap[0]), cell(&gap[1]))).collect();
            let more = if gaps.len() > 8 { format!(" and {} more", gaps.len() - 8) } else { String::new() };
            talk::note(&format!(
                "{name}: {missing} bytes are missing ({}{more}): they were dropped on the node before they could be stored",
                ranges.join(", ")
            ));
        }
    }

    async fn print_all(
        &self,
        client: &Client,
        job: &JobRef,
        streams: &[Stream],
        gang: Option<u64>,
        follow: bool,
    ) -> anyhow::Result<()> {
        let alone = streams.len() == 1;
        let all = streams.iter().map(|stream| async move {
            let log = Log { job: job.clone(), gang, file: stream.file.clone() };
            match Printer::new(stream, alone).print_all(log.open(client.clone(), follow)).await {
                // Nothing was printed yet.
                Err(e) if is_not_found(&e) && self.choice.file.is_none() => Ok(()),
                Err(e) if is_not_found(&e) => Err(e.context("`--list` shows the files there are")),
                other => other,
            }
        });
        if follow {
            futures_util::future::try_join_all(all).await?;
        } else {
            for one in all {
                one.await?;
            }
        }
        self.note_gaps(client, job, gang, &|file| streams.iter().any(|stream| stream.file == file)).await;
        Ok(())
    }
}

fn gap_bytes(gap: &Value) -> u64 {
    gap[1].as_u64().unwrap_or(0).saturating_sub(gap[0].as_u64().unwrap_or(0))
}

impl Choice {
    /// The file that was named, if one was.
    fn file(&self) -> anyhow::Result<Option<Stream>> {
        let Some(file) = &self.file else { return Ok(None) };
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if file.is_empty() || !file.bytes().all(fits) {
            bail!("`{}` is no log file; `--list` shows those there are", output::printable(file));
        }
        Ok(Some(Stream { task: file.clone(), file: file.clone(), stderr: false }))
    }

    fn of(&self, all: &[Stream], job: &str) -> anyhow::Result<Vec<Stream>> {
        for task in &self.task {
            if !all.iter().any(|stream| stream.is_of(task)) {
                let names: Vec<&str> = all.iter().filter(|s| !s.stderr).map(|s| s.task.as_str()).collect();
                bail!("{job} has no task `{}`; it has: {}", output::printable(task), names.join(", "));
            }
        }
        let wanted = |stream: &&Stream| {
            stream.stderr == self.stderr
                && if self.task.is_empty() {
                    !stream.is_preparation()
                } else {
                    self.task.iter().any(|task| stream.is_of(task))
                }
        };
        Ok(all.iter().filter(wanted).cloned().collect())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(task: &[&str], stderr: bool) -> Choice {
        Choice { task: task.iter().map(|t| (*t).to_owned()).collect(), stderr, file: None }
    }

    fn all() -> Vec<Stream> {
        let stream =
            |task: &str, file: &str, stderr| Stream { task: task.to_owned(), file: file.to_owned(), stderr };
        vec![
            stream("preparation@node-0", "stdout-job_prep.txt", false),
            stream("ps-0", "stdout-ps-0.txt", false),
            stream("ps-0", "stderr-ps-0.txt", true),
            stream("worker-0", "stdout-wk-0.txt", false),
        ]
    }

    #[test]
    fn streams_are_chosen_by_task() {
        let check = |choice: Choice, expected: &[&str]| {
            let chosen = choice.of(&all(), "j").unwrap();
            assert_eq!(chosen.iter().map(|s| s.file.as_str()).collect::<Vec<_>>(), expected);
        };
        check(choice(&[], false), &["stdout-ps-0.txt", "stdout-wk-0.txt"]);
        check(choice(&["ps-0"], true), &["stderr-ps-0.txt"]);
        check(choice(&["preparation"], false), &["stdout-job_prep.txt"]);
        let error = choice(&["worker-9"], false).of(&all(), "j").unwrap_err().to_string();
        assert!(error.contains("worker-0") && error.contains("worker-9"), "{error}");
    }

    #[test]
    fn a_file_is_a_name_and_no_path() {
        let named = |file: &str| Choice { file: Some(file.to_owned()), ..choice(&[], false) }.file();
        assert_eq!(named("execution.log").unwrap().unwrap().file, "execution.log");
        assert!(named("../x").is_err() && named("a?b").is_err() && named("").is_err());
    }
}
