//! `trainyard job show`, and the tables of a job that other verbs print too.

use serde_json::Value;

use super::OneJob;
use super::list::took;
use crate::exit;
use crate::output::{self, Format, cell};

/// Show a job and its tasks.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard job show quiet-otter
  trainyard job show 7 -o json | jq .properties.executionInfo.exitCode")]
pub(crate) struct Show {
    #[command(flatten)]
    job: OneJob,
}

impl Show {
    pub(crate) async fn run(self, format: Format) -> anyhow::Result<u8> {
        let (client, job) = self.job.find().await?;
        output::print(format, &client.job(&job).await?, job_table)?;
        Ok(exit::OK)
    }
}

/// The form for people.
pub(crate) fn job_table(job: &Value) -> String {
    let properties = &job["properties"];
    let info = &properties["executionInfo"];
    let ours = &properties["trainyard"];
    let errors = info["errors"].as_array().into_iter().flatten();
    let errors: Vec<String> =
        errors.map(|e| format!("{}: {}", cell(&e["code"]), cell(&e["message"]))).collect();
    let mut text = output::fields(&[
        ("name", cell(&job["name"])),
        ("job", cell(&ours["jobId"])),
        ("id", cell(&job["id"])),
        ("state", cell(&properties["executionState"])),
        ("exit code", cell(&info["exitCode"])),
        ("reason", cell(&ours["reason"]["code"])),
        ("errors", errors.join("\n")),
        ("toolkit", cell(&properties["toolType"])),
        ("nodes", cell(&properties["nodeCount"])),
        ("priority", cell(&properties["schedulingPriority"])),
        ("gang", cell(&ours["gang"])),
        ("created", cell(&properties["creationTime"])),
        ("started", cell(&info["startTime"])),
        ("ended", cell(&info["endTime"])),
        ("took", took(&info["startTime"], &info["endTime"], jiff::Timestamp::now())),
        ("std prefix", cell(&properties["stdOutErrPathPrefix"])),
        ("segment", cell(&properties["jobOutputDirectoryPathSegment"])),
    ]);
    let tasks = tasks_table(&ours["tasks"]);
    if !tasks.is_empty() {
        text.push('\n');
        text.push_str(&tasks);
    }
    text
}

/// One line per task; empty if there are none.
fn tasks_table(tasks: &Value) -> String {
    let tasks = tasks.as_array().map(Vec::as_slice).unwrap_or_default();
    if tasks.is_empty() {
        return String::new();
    }
    let rows = tasks.iter().map(|task| {
        [
            cell(&task["name"]),
            cell(&task["rank"]),
            cell(&task["node"]),
            state(task),
            cell(&task["pid"]),
            exit_cell(task),
            gpus(&task["gpus"]),
        ]
    });
    output::table(["TASK", "RANK", "NODE", "STATE", "PID", "EXIT", "GPUS"], rows)
}

/// `unknown since ...`: its node is not heard of, and nobody knows whether it still runs.
fn state(task: &Value) -> String {
    match &task["unknownSince"] {
        Value::Null => cell(&task["state"]),
        since => format!("{} since {}", cell(&task["state"]), cell(since)),
    }
}

fn exit_cell(task: &Value) -> String {
    match (&task["exitCode"], &task["signal"]) {
        (_, signal) if !signal.is_null() => format!("signal {}", cell(signal)),
        (code, _) => cell(code),
    }
}

fn gpus(gpus: &Value) -> String {
    match gpus.as_array().map(Vec::len) {
        None | Some(0) => String::new(),
        Some(n) => n.to_string(),
    }
}
