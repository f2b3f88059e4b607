//! Following a job: its state by events, its logs by bytes; both through restarts of the coordinator.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::client::{Client, Heard, back_off, is_not_found, is_unreachable};
use crate::jobref::JobRef;
use crate::output::{cell, printable};
use crate::{exit, talk};

/// Waits until the job has ended, and gives its last state; `on_change` sees every state on the way.
pub(crate) async fn until_ended(
    client: &Client,
    job: &JobRef,
    mut on_change: impl FnMut(&Value),
) -> anyhow::Result<Value> {
    until(client, job, |now| {
        on_change(now);
        exit::of_job(now).is_some()
    })
    .await
}

/// Waits until the job's resource is as wanted, or the job has ended, and gives the resource.
///
/// A coordinator that does not answer is waited for: that says nothing about the job.
pub(crate) async fn until(
    client: &Client,
    job: &JobRef,
    mut wanted: impl FnMut(&Value) -> bool,
) -> anyhow::Result<Value> {
    let first = client.job(job).await?;
    if wanted(&first) || exit::of_job(&first).is_some() {
        return Ok(first);
    }
    let mut heard = client.events(first["properties"]["trainyard"]["jobId"].as_u64());
    let mut told = false;
    while let Some(news) = heard.recv().await {
        match news {
            Heard::Lost(why) => {
                if !std::mem::replace(&mut told, true) {
                    talk::note(&format!("waiting for the coordinator: {why}"));
                }
                continue;
            }
            Heard::Refused(error) => return Err(error),
            Heard::Connected => told = false,
            Heard::Event => {}
        }
        // One look serves for all that has been heard so far.
        while let Ok(more) = heard.try_recv() {
            if let Heard::Refused(error) = more {
                return Err(error);
            }
        }
        match client.job(job).await {
            Ok(now) if wanted(&now) || exit::of_job(&now).is_some() => return Ok(now),
            Ok(_) => {}
            Err(e) if is_unreachable(&e) => {}
            Err(e) if is_not_found(&e) => bail!("the job {} was deleted", job.job),
            Err(e) => return Err(e),
        }
    }
    bail!("the stream of events ended")
}

/// One line about an ended job: `quiet-otter-1234 failed with exit code 3: ...`.
pub(crate) fn epitaph(job: &Value) -> String {
    let properties = &job["properties"];
    let mut text = format!("{} {}", cell(&job["name"]), cell(&properties["executionState"]));
    if let Some(code) = properties["executionInfo"]["exitCode"].as_i64() {
        text.push_str(&format!(" with exit code {code}"));
    }
    if let Some(error) = properties["executionInfo"]["errors"].get(0) {
        let message = cell(&error["message"]);
        text.push_str(&format!(": {}", message.trim_end()));
    }
    text
}

/// A stream of a task, as the plan names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    /// The task: `worker-0`, or `preparation` (with its node where there are several).
    pub(crate) task: String,
    /// The file: `stdout-wk-0.txt`.
    pub(crate) file: String,
    /// Whether it is stderr.
    pub(crate) stderr: bool,
}

impl Stream {
    /// Whether it is of a job preparation, not of a task.
    pub(crate) fn is_preparation(&self) -> bool {
        self.is_of(PREPARATION)
    }

    /// Whether a user means it by this name; `preparation` means those of all nodes.
    pub(crate) fn is_of(&self, wanted: &str) -> bool {
        self.task == wanted || self.task.split_once('@').is_some_and(|(name, _)| name == wanted)
    }
}

/// How people name the job preparation.
const PREPARATION: &str = "preparation";

/// The streams of a plan: preparations first, then tasks by rank.
pub(crate) fn streams(plan: &Value) -> Vec<Stream> {
    let nodes = plan["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut streams = Vec::new();
    for node in nodes.iter().filter(|node| node["preparation"].is_object()) {
        let task = match nodes.len() {
            1 => PREPARATION.to_owned(),
            _ => format!("{PREPARATION}@{}", cell(&node["node"])),
        };
        push(&mut streams, &task, &node["preparation"]);
    }
    let mut tasks: Vec<&Value> = nodes.iter().filter_map(|node| node["tasks"].as_array()).flatten().collect();
    tasks.sort_by_key(|task| task["rank"].as_u64());
    for task in tasks {
        push(&mut streams, &cell(&task["name"]), &task["command"]);
    }
    streams
}

fn push(streams: &mut Vec<Stream>, task: &str, command: &Value) {
    for (key, stderr) in [("stdout", false), ("stderr", true)] {
        if let Some(file) = command[key].as_str() {
            streams.push(Stream { task: task.to_owned(), file: file.to_owned(), stderr });
        }
    }
}

/// Which log to read.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// Of this job.
    pub(crate) job: JobRef,
    /// Of this gang; the current one if none is given.
    pub(crate) gang: Option<u64>,
    /// The file.
    pub(crate) file: String,
}

impl Log {
    fn path(&self, offset: u64, follow: bool) -> String {
        let mut path = format!("{}/logs/{}?offset={offset}", self.job.api_path(), self.file);
        if let Some(gang) = self.gang {
            path.push_str(&format!("&gang={gang}"));
        }
        if follow {
            path.push_str("&follow=1");
        }
        path
    }

    /// Opens it: what there is now, or all until the stream has ended.
    pub(crate) fn open(self, client: Client, follow: bool) -> Reader {
        Reader { client, log: self, follow, received: 0, tries: 0, answer: None }
    }
}

/// What a follower of a job and its logs hears.
#[derive(Debug)]
pub(crate) enum News {
    /// The job has changed.
    Job(Box<Value>),
    /// A gang has a plan, and these streams of it are followed.
    Gang(u64, Vec<Stream>),
    /// A task has printed something.
    Bytes(Stream, Bytes),
    /// A stream has ended.
    EndOf(Stream),
    /// The job has ended, and every stream of it.
    Over(Box<Value>),
    /// Following failed.
    Failed(anyhow::Error),
}

/// Tells all news of a job, one gang after the other, with the streams that `choose` takes of each plan.
pub(crate) async fn job_and_logs<F>(client: Client, job: JobRef, choose: F, tx: mpsc::Sender<News>)
where
    F: Fn(&[Stream]) -> anyhow::Result<Vec<Stream>>,
{
    let last = match Logs::new(&client, &job, &tx).follow(choose).await {
        Ok(ended) => News::Over(Box::new(ended)),
        Err(e) => News::Failed(e),
    };
    // Without a listener nobody wants to know.
    drop(tx.send(last).await);
}

/// The streams that are followed.
struct Logs<'a> {
    client: &'a Client,
    job: &'a JobRef,
    tx: &'a mpsc::Sender<News>,
    gang: u64,
    reading: JoinSet<anyhow::Result<()>>,
    /// To let go of streams that never begin: those of tasks that were not started before their gang was over.
    waiting: Vec<(Stream, AbortHandle)>,
}

impl<'a> Logs<'a> {
    fn new(client: &'a Client, job: &'a JobRef, tx: &'a mpsc::Sender<News>) -> Logs<'a> {
        Logs { client, job, tx, gang: 0, reading: JoinSet::new(), waiting: Vec::new() }
    }

    async fn follow<F>(mut self, choose: F) -> anyhow::Result<Value>
    where
        F: Fn(&[Stream]) -> anyhow::Result<Vec<Stream>>,
    {
        let (states, mut changed) = mpsc::unbounded_channel();
        let until_ended = until_ended(self.client, self.job, |now| {
            // The receiver lives as long as this function.
            drop(states.send(now.clone()));
        });
        tokio::pin!(until_ended);
        let ended = loop {
            tokio::select! {
                biased;
                Some(now) = changed.recv() => self.on_change(now, &choose).await?,
                ended = &mut until_ended => break ended?,
                Some(read) = self.reading.join_next() => finished(read)?,
            }
        };
        while let Ok(now) = changed.try_recv() {
            self.on_change(now, &choose).await?;
        }
        self.let_go().await;
        while let Some(read) = self.reading.join_next().await {
            finished(read)?;
        }
        Ok(ended)
    }

    async fn on_change<F>(&mut self, now: Value, choose: &F) -> anyhow::Result<()>
    where
        F: Fn(&[Stream]) -> anyhow::Result<Vec<Stream>>,
    {
        let ours = &now["properties"]["trainyard"];
        let gang = ours["gang"].as_u64().unwrap_or(0);
        let tasks = ours["tasks"].as_array().into_iter().flatten();
        let started = tasks.filter(|task| !task["startTime"].is_null()).map(|task| cell(&task["name"]));
        let started: BTreeSet<String> = started.collect();
        if gang == self.gang {
            self.waiting.retain(|(stream, _)| !started.contains(&stream.task));
        }
        let is_new = gang > self.gang;
        self.tell(News::Job(Box::new(now))).await?;
        if !is_new {
            return Ok(());
        }
        self.let_go().await;
        self.gang = gang;
        let plan = match self.client.get(&format!("{}/plan?gang={gang}", self.job.api_path())).await {
            Ok(plan) => plan,
            // It ended before it was planned.
            Err(e) if is_not_found(&e) => return Ok(()),
            Err(e) => return Err(e),
        };
        let streams = choose(&streams(&plan))?;
        self.tell(News::Gang(gang, streams.clone())).await?;
        for stream in streams {
            let log = Log { job: self.job.clone(), gang: Some(gang), file: stream.file.clone() };
            // Whoever comes late finds tasks that have ended already.
            let may_never_begin = !stream.is_preparation() && !started.contains(&stream.task);
            let read = read_stream(log.open(self.client.clone(), true), stream.clone(), self.tx.clone());
            let handle = self.reading.spawn(read);
            if may_never_begin {
                self.waiting.push((stream, handle));
            }
        }
        Ok(())
    }

    /// The gang is over: streams that have begun are read to their end, though nobody saw their tasks start.
    async fn let_go(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let list = self.client.get(&format!("{}/logs?gang={}", self.job.api_path(), self.gang)).await;
        let list = list.unwrap_or(Value::Null);
        let begun = |file: &str| list["value"].as_array().into_iter().flatten().any(|it| it["file"] == file);
        for (_, handle) in self.waiting.drain(..).filter(|(stream, _)| !begun(&stream.file)) {
            handle.abort();
        }
    }

    async fn tell(&self, news: News) -> anyhow::Result<()> {
        self.tx.send(news).await.map_err(|_| anyhow::anyhow!("nobody listens"))
    }
}

fn finished(read: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Result<()> {
    match read {
        Ok(read) => read,
        Err(e) if e.is_cancelled() => Ok(()),
        Err(e) => Err(e).context("following a log"),
    }
}

async fn read_stream(mut reader: Reader, stream: Stream, tx: mpsc::Sender<News>) -> anyhow::Result<()> {
    loop {
        let (news, last) = match reader.next().await {
            Ok(Some(bytes)) => (News::Bytes(stream.clone(), bytes), false),
            Ok(None) => (News::EndOf(stream.clone()), true),
            // The job was deleted meanwhile.
            Err(e) if is_not_found(&e) => (News::EndOf(stream.clone()), true),
            Err(e) => return Err(e),
        };
        // Without a listener nobody wants to know.
        if tx.send(news).await.is_err() || last {
            return Ok(());
        }
    }
}

/// Reads a log from its beginning.
pub(crate) struct Reader {
    client: Client,
    log: Log,
    follow: bool,
    /// Bytes so far: the offset of the next one, but for gaps.
    received: u64,
    /// In a row, without a byte.
    tries: usize,
    answer: Option<reqwest::Response>,
}

impl Reader {
    /// The next bytes; `None` at the end. A follower outlives restarts of the coordinator.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            let Some(answer) = &mut self.answer else {
                let offset = match self.offset().await {
                    Ok(offset) => offset,
                    Err(e) if self.follow && is_unreachable(&e) => {
                        self.pause().await;
                        continue;
                    }
                    Err(e) => return Err(e),
                };
                match self.client.stream(&self.log.path(offset, self.follow)).await {
                    Ok(answer) => self.answer = Some(answer),
                    Err(e) if self.follow && is_unreachable(&e) => self.pause().await,
                    Err(e) => return Err(e),
                }
                continue;
            };
            match answer.chunk().await {
                Ok(Some(bytes)) => {
                    self.received += bytes.len() as u64;
                    self.tries = 0;
                    return Ok(Some(bytes));
                }
                Ok(None) if !self.follow || self.has_ended().await? => return Ok(None),
                Err(e) if !self.follow => {
                    return Err(e).with_context(|| format!("reading {}", self.log.file));
                }
                Ok(None) | Err(_) => {
                    self.answer = None;
                    self.pause().await;
                }
            }
        }
    }

    /// Where the next byte stands: what came passed over the gaps before it.
    async fn offset(&self) -> anyhow::Result<u64> {
        match self.received {
            0 => Ok(0),
            received => Ok(self.file().await?.map_or(received, |file| after_gaps(received, &file["gaps"]))),
        }
    }

    /// What the list of log files says of this one.
    async fn file(&self) -> anyhow::Result<Option<Value>> {
        let gang = self.log.gang.map(|gang| format!("?gang={gang}")).unwrap_or_default();
        let list = self.client.get(&format!("{}/logs{gang}", self.log.job.api_path())).await?;
        let mut files = list["value"].as_array().into_iter().flatten();
        Ok(files.find(|file| file["file"] == self.log.file.as_str()).cloned())
    }

    async fn pause(&mut self) {
        tokio::time::sleep(back_off(self.tries)).await;
        self.tries += 1;
    }

    /// Whether a stream that was closed here is at its end, or a coordinator was going down.
    async fn has_ended(&self) -> anyhow::Result<bool> {
        let file = match self.file().await {
            Ok(file) => file,
            Err(e) if is_unreachable(&e) => return Ok(false),
            Err(e) => return Err(e),
        };
        let is_whole =
            |file: &Value| file["size"].as_u64().unwrap_or(0) <= after_gaps(self.received, &file["gaps"]);
        if file.is_some_and(|file| file["end"] == true && is_whole(&file)) {
            return Ok(true);
        }
        // A stream whose end never came is let go some time after its gang is over.
        match self.client.job(&self.log.job).await {
            Ok(job) => {
                let gang = job["properties"]["trainyard"]["gang"].as_u64();
                Ok(exit::of_job(&job).is_some() || self.log.gang.is_some_and(|ours| gang != Some(ours)))
            }
            Err(e) if is_unreachable(&e) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// The offset behind so many bytes that are there, and behind the gaps (`[[from, to], ...]`, in order) up to it.
fn after_gaps(received: u64, gaps: &Value) -> u64 {
    let mut offset = received;
    for gap in gaps.as_array().into_iter().flatten() {
        let (from, to) = (gap[0].as_u64().unwrap_or(u64::MAX), gap[1].as_u64().unwrap_or(0));
        if from <= offset {
            offset += to.saturating_sub(from);
        }
    }
    offset
}

/// Cuts bytes into lines, for output that several tasks share.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    part: Vec<u8>,
}

/// A line longer than this is cut: something that prints no newline must not fill our memory.
const LINE_BYTES: usize = 64 * 1024;

impl Lines {
    /// Gives the lines that these bytes complete, without their newline.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                lines.push(std::mem::take(&mut self.part));
            } else {
                self.part.push(*byte);
                if self.part.len() >= LINE_BYTES {
                    lines.push(std::mem::take(&mut self.part));
                }
            }
        }
        lines
    }

    /// What stands after the last newline.
    pub(crate) fn rest(&mut self) -> Option<Vec<u8>> {
        let part = std::mem::take(&mut self.part);
        (!part.is_empty()).then_some(part)
    }

    /// What a terminal would show of the unfinished line: progress bars overwrite theirs by `\r`.
    pub(crate) fn shown_part(&self) -> Option<String> {
        (!self.part.is_empty()).then(|| shown(&self.part))
    }
}

/// What a terminal would show of a line, without its control characters.
pub(crate) fn shown(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let last = line.rsplit(|b| *b == b'\r').next().unwrap_or(line);
    printable(&String::from_utf8_lossy(last))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reader_that_comes_back_goes_on_behind_the_gaps_that_it_passed_over() {
        let gaps = json!([[10, 30], [40, 50]]);
        // 10 bytes came, then 20 are missing, then 10 came, then 10 are missing.
        let offsets = [0, 9, 10, 19, 20, 21].map(|received| after_gaps(received, &gaps));
        assert_eq!(offsets, [0, 9, 30, 39, 50, 51]);
        assert_eq!(after_gaps(7, &Value::Null), 7);
    }

    #[test]
    fn streams_follow_the_ranks() {
        let command =
            |out: &str| json!({"stdout": format!("stdout-{out}.txt"), "stderr": format!("stderr-{out}.txt")});
        let plan = json!({"gang": 1, "nodes": [
            {"node": "node-0", "preparation": command("job_prep"), "tasks": [
                {"name": "worker-0", "rank": 1, "command": command("wk-0")},
                {"name": "ps-0", "rank": 0, "command": command("ps-0")}]},
            {"node": "node-1", "preparation": null, "tasks": []}]});
        let found: Vec<_> = streams(&plan).into_iter().map(|s| (s.task, s.file)).collect();
        let expected = [
            ("preparation@node-0", "stdout-job_prep.txt"),
            ("preparation@node-0", "stderr-job_prep.txt"),
            ("ps-0", "stdout-ps-0.txt"),
            ("ps-0", "stderr-ps-0.txt"),
            ("worker-0", "stdout-wk-0.txt"),
            ("worker-0", "stderr-wk-0.txt"),
        ];
        assert_eq!(found, expected.map(|(task, file)| (task.to_owned(), file.to_owned())));
        assert_eq!(streams(&json!(null)), []);
    }

    #[test]
    fn lines_are_whole_however_the_bytes_are_cut() {
        let text = b"one\n\ntwo\r\n\xff\xfe\nrest";
        for size in [1, 2, 5, text.len()] {
            let mut lines = Lines::default();
            let whole: Vec<_> = text.chunks(size).flat_map(|chunk| lines.push(chunk)).collect();
            assert_eq!(whole, [&b"one"[..], b"", b"two\r", b"\xff\xfe"], "cut into {size}");
            assert_eq!(lines.rest().as_deref(), Some(&b"rest"[..]));
            assert_eq!(lines.rest(), None);
        }
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(&vec![b'x'; LINE_BYTES + 1]).len(), 1);
        assert_eq!(lines.rest().map(|rest| rest.len()), Some(1));
    }

    #[test]
    fn of_a_progress_bar_the_last_state_is_shown() {
        assert_eq!(shown(b" 10%\r 20%\r\x1b[32m 30%"), " 30%");
        assert_eq!(shown(b"done\r"), "done");
    }
}
