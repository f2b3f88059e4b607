//! `trainyard job list`.

use serde_json::{Value, json};

use super::ScopeFlags;
use crate::client::LIST_LIMIT;
use crate::command::Connection;
use crate::exit;
use crate::output::{self, Format, cell};

/// List jobs, the newest first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard job list
  trainyard job list --state running,queued -o json")]
pub(crate) struct List {
    /// Only jobs in these states.
    #[arg(long, value_delimiter = ',', value_enum)]
    state: Vec<State>,
    /// At most so many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=i64::from(LIST_LIMIT)))]
    limit: u32,
    #[command(flatten)]
    scope: ScopeFlags,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum State {
    Queued,
    Running,
    Terminating,
    Succeeded,
    Failed,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Running => "running",
            State::Terminating => "terminating",
            State::Succeeded => "succeeded",
            State::Failed => "failed",
        }
    }
}

impl List {
    pub(crate) async fn run(self, format: Format) -> anyhow::Result<u8> {
        let client = self.connection.client()?;
        let states: Vec<&str> = self.state.iter().map(|s| s.name()).collect();
        for name in [&self.scope.workspace, &self.scope.experiment].into_iter().flatten() {
            trainyard_core::text::Name::parse(name)?;
        }
        let mut jobs = client.list(&states, self.scope.experiment.as_deref(), self.limit).await?;
        jobs.retain(|job| fits(job, "workspace", self.scope.workspace.as_deref()));
        output::print(format, &json!(jobs), |_| table(&jobs))?;
        Ok(exit::OK)
    }
}

fn fits(job: &Value, field: &str, wanted: Option<&str>) -> bool {
    wanted.is_none_or(|wanted| job[field].as_str().is_some_and(|is| is.eq_ignore_ascii_case(wanted)))
}

fn table(jobs: &[Value]) -> String {
    let header =
        ["NAME", "JOB", "STATE", "EXIT", "TOOLKIT", "NODES", "EXPERIMENT", "CREATED", "TOOK", "REASON"];
    let now = jiff::Timestamp::now();
    let rows = jobs.iter().map(|job| {
        [
            cell(&job["name"]),
            cell(&job["jobId"]),
            cell(&job["executionState"]),
            cell(&job["exitCode"]),
            cell(&job["toolType"]),
            cell(&job["nodeCount"]),
            format!("{}/{}", cell(&job["workspace"]), cell(&job["experiment"])),
            age(&job["creationTime"], now),
            took(&job["startTime"], &job["endTime"], now),
            reason(&job["reason"]),
        ]
    });
    output::table(header, rows)
}

fn reason(reason: &Value) -> String {
    match &reason["code"] {
        Value::String(code) if code == "Succeeded" => String::new(),
        Value::Null => cell(reason),
        code => cell(code),
    }
}

/// How long ago a time is.
fn age(time: &Value, now: jiff::Timestamp) -> String {
    seconds_between(time, now).map(|s| format!("{} ago", output::span(s))).unwrap_or_default()
}

/// From start to end, or until now.
pub(super) fn took(start: &Value, end: &Value, now: jiff::Timestamp) -> String {
    let end = end.as_str().and_then(|t| t.parse().ok()).unwrap_or(now);
    seconds_between(start, end).map(output::span).unwrap_or_default()
}

fn seconds_between(time: &Value, later: jiff::Timestamp) -> Option<u64> {
    let time: jiff::Timestamp = time.as_str()?.parse().ok()?;
    // A clock that was set back gives 0, not nonsense.
    Some(u64::try_from(later.duration_since(time).as_secs()).unwrap_or(0))
}
