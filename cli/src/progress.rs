//! How `run` shows a job while it runs: moving lines on a terminal, plain lines elsewhere, or nothing.
//!
//! It shows only what it is told; it asks nobody.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::follow::{Lines, shown};
use crate::output::{self, cell, span};
use crate::talk;

/// What is shown, and where the tasks' own output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Lines that move, on a terminal; of each task's output the last line.
    Live,
    /// A line per change on stderr; the tasks' output on stdout and stderr.
    Plain,
    /// As `Plain`, but all of it on stderr: stdout is for one JSON document.
    PlainOnStderr,
    /// Neither changes nor output.
    Quiet,
}

/// Shows one job.
pub(crate) struct Progress {
    mode: Mode,
    started: Instant,
    seen: Seen,
    lines: BTreeMap<(String, bool), Lines>,
    live: Option<Live>,
}

/// What was shown last.
#[derive(Default)]
struct Seen {
    state: String,
    gang: u64,
    tasks: BTreeMap<String, String>,
    last_line: BTreeMap<String, String>,
    load: String,
    job: Value,
}

impl Progress {
    pub(crate) fn new(mode: Mode) -> Progress {
        let live = (mode == Mode::Live).then(Live::new);
        Progress { mode, started: Instant::now(), seen: Seen::default(), lines: BTreeMap::new(), live }
    }

    /// The job has changed.
    pub(crate) fn job(&mut self, job: &Value) {
        let changes = self.seen.changes(job);
        self.seen.job = job.clone();
        match self.mode {
            Mode::Live => self.draw(),
            Mode::Plain | Mode::PlainOnStderr => changes.iter().for_each(|change| self.say(change)),
            Mode::Quiet => {}
        }
    }

    /// A task has printed something.
    pub(crate) fn bytes(&mut self, task: &str, stderr: bool, bytes: &[u8]) -> anyhow::Result<()> {
        let lines = self.lines.entry((task.to_owned(), stderr)).or_default();
        let whole = lines.push(bytes);
        match self.mode {
            Mode::Quiet => {}
            Mode::Live => {
                let last = lines.shown_part().or_else(|| whole.last().map(|line| shown(line)));
                if let Some(last) = last.filter(|line| !line.trim().is_empty()) {
                    self.seen.last_line.insert(task.to_owned(), last.trim().to_owned());
                }
                self.draw();
            }
            Mode::Plain | Mode::PlainOnStderr => self.print(task, stderr, &whole)?,
        }
        Ok(())
    }

    /// A task's stream has ended.
    pub(crate) fn end_of(&mut self, task: &str, stderr: bool) -> anyhow::Result<()> {
        let rest = self.lines.remove(&(task.to_owned(), stderr)).and_then(|mut lines| lines.rest());
        match (self.mode, rest) {
            (Mode::Plain | Mode::PlainOnStderr, Some(rest)) => self.print(task, stderr, &[rest]),
            (Mode::Live | Mode::Quiet, _) | (_, None) => Ok(()),
        }
    }

    /// What the nodes measure, in one line.
    pub(crate) fn load(&mut self, load: String) {
        self.seen.load = load;
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self) {
        self.draw();
    }

    /// Something to tell, in every mode.
    pub(crate) fn tell(&self, text: &str) {
        match &self.live {
            Some(live) => live.above(text),
            None => talk::note(text),
        }
    }

    /// Nothing moves any more.
    pub(crate) fn finish(&mut self) {
        if let Some(live) = self.live.take() {
            live.clear();
        }
    }

    fn print(&self, task: &str, stderr: bool, lines: &[Vec<u8>]) -> anyhow::Result<()> {
        let mut text = Vec::new();
        for line in lines {
            text.extend_from_slice(task.as_bytes());
            text.extend_from_slice(b" | ");
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        if stderr || self.mode == Mode::PlainOnStderr {
            // With stderr closed there is nobody to tell.
            drop(std::io::stderr().lock().write_all(&text));
            Ok(())
        } else {
            output::write_bytes(&text)
        }
    }

    fn say(&self, change: &str) {
        let now = jiff::Timestamp::now();
        let second = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
        talk::note(&format!("{second} {change}"));
    }

    fn draw(&mut self) {
        if let Some(live) = &mut self.live {
            live.draw(&self.seen.picture(self.started.elapsed()));
        }
    }
}

impl Seen {
    /// What is new in this state of the job, one sentence each; remembers it.
    fn changes(&mut self, job: &Value) -> Vec<String> {
        let mut changes = Vec::new();
        let properties = &job["properties"];
        let name = cell(&job["name"]);
        let ours = &properties["trainyard"];
        let gang = ours["gang"].as_u64().unwrap_or(0);
        if self.gang != 0 && gang > self.gang {
            changes.push(format!("{name}: tried again, gang {gang}"));
            self.tasks.clear();
        }
        self.gang = gang;
        let state = cell(&properties["executionState"]);
        if state != self.state {
            changes.push(format!("{name}: {state}"));
            self.state = state;
        }
        for task in ours["tasks"].as_array().into_iter().flatten() {
            let what = task_state(task);
            let task_name = cell(&task["name"]);
            if self.tasks.get(&task_name) != Some(&what) {
                changes.push(format!("{task_name} on {}: {what}", cell(&task["node"])));
                self.tasks.insert(task_name, what);
            }
        }
        changes
    }

    /// The lines of a terminal.
    fn picture(&self, elapsed: Duration) -> Vec<String> {
        let job = &self.job;
        let properties = &job["properties"];
        let mut lines = vec![format!(
            "{}  {}  {}",
            cell(&job["name"]),
            cell(&properties["executionState"]),
            span(elapsed.as_secs())
        )];
        let tasks = properties["trainyard"]["tasks"].as_array().map(Vec::as_slice).unwrap_or_default();
        let width = tasks.iter().map(|task| cell(&task["name"]).len()).max().unwrap_or(0);
        for task in tasks {
            let name = cell(&task["name"]);
            let last = self.last_line.get(&name).map(String::as_str).unwrap_or_default();
            let line = format!("  {name:width$}  {}  {}  {last}", cell(&task["node"]), task_state(task));
            lines.push(line.trim_end().to_owned());
        }
        if let Some(line) =
            self.last_line.iter().find(|(task, _)| tasks.is_empty() && task.starts_with("preparation"))
        {
            lines.push(format!("  {}  {}", line.0, line.1));
        }
        if !self.load.is_empty() {
            lines.push(format!("  {}", self.load));
        }
        lines
    }
}

/// `running (pid 12)`, `ended with exit code 3`.
fn task_state(task: &Value) -> String {
    let state = cell(&task["state"]);
    match (&task["signal"], &task["exitCode"], &task["pid"]) {
        (Value::Number(signal), _, _) => format!("{state} by signal {signal}"),
        (_, Value::Number(code), _) => format!("{state} with exit code {code}"),
        (_, _, Value::Number(pid)) => format!("{state} (pid {pid})"),
        _ => state,
    }
}

/// Lines that move.
struct Live {
    all: MultiProgress,
    bars: Vec<ProgressBar>,
}

impl Live {
    fn new() -> Live {
        Live { all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()), bars: Vec::new() }
    }

    fn draw(&mut self, lines: &[String]) {
        while self.bars.len() > lines.len() {
            if let Some(bar) = self.bars.pop() {
                bar.finish_and_clear();
                self.all.remove(&bar);
            }
        }
        while self.bars.len() < lines.len() {
            // The template is a constant that parses.
            let style = ProgressStyle::with_template("{wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            self.bars.push(self.all.add(ProgressBar::new_spinner().with_style(style)));
        }
        for (bar, line) in self.bars.iter().zip(lines) {
            bar.set_message(line.clone());
        }
    }

    fn above(&self, text: &str) {
        // With stderr closed there is nobody to tell.
        drop(self.all.println(text));
    }

    fn clear(self) {
        for bar in &self.bars {
            bar.finish_and_clear();
        }
        drop(self.all.clear());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(state: &str, gang: u64, tasks: Value) -> Value {
        json!({"name": "j", "properties": {"executionState": state, "trainyard": {"gang": gang, "tasks": tasks}}})
    }

    #[test]
    fn each_change_is_told_once() {
        let mut seen = Seen::default();
        assert_eq!(seen.changes(&job("queued", 0, json!([]))), ["j: queued"]);
        let running = json!([{"name": "ps-0", "node": "node-0", "state": "running", "pid": 7}]);
        let expected = ["j: running", "ps-0 on node-0: running (pid 7)"];
        assert_eq!(seen.changes(&job("running", 1, running.clone())), expected);
        assert!(seen.changes(&job("running", 1, running.clone())).is_empty());
        let expected = ["j: tried again, gang 2", "ps-0 on node-0: running (pid 7)"];
        assert_eq!(seen.changes(&job("running", 2, running)), expected);
    }

    #[test]
    fn a_terminal_shows_each_task_with_its_last_line() {
        let mut seen = Seen::default();
        let tasks = json!([{"name": "ps-0", "node": "node-0", "state": "running", "pid": 7},
            {"name": "worker-0", "node": "node-1", "state": "ended", "exitCode": 3}]);
        seen.job = job("running", 1, tasks);
        seen.last_line.insert("worker-0".to_owned(), "step 5".to_owned());
        seen.load = "cpu 12 %".to_owned();
        let expected = [
            "j  running  1m05s",
            "  ps-0      node-0  running (pid 7)",
            "  worker-0  node-1  ended with exit code 3  step 5",
            "  cpu 12 %",
        ];
        assert_eq!(seen.picture(Duration::from_secs(65)), expected);
    }
}
