//! `trainyard node drain|resume|declare-lost`: an operator takes machines out of service and back.

use std::io::{IsTerminal as _, Write as _};

use anyhow::Context as _;
use reqwest::Method;
use serde_json::{Value, json};

use super::path_segment;
use crate::client::{Client, Heard, is_unreachable};
use crate::command::Connection;
use crate::exit::{self, Coded};
use crate::output::{self, Format, cell};
use crate::talk;

/// Let a node finish what it runs, and give it nothing new, until it is resumed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard node drain node-0 --reason 'new disk' --wait
  trainyard node drain node-0 && trainyard job list --state running")]
pub(crate) struct Drain {
    /// The node's name.
    node: String,
    /// Why: shown with the node, and to jobs that wait for it.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Come back when it runs nothing any more.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Drain {
    pub(crate) async fn run(self, format: Format) -> anyhow::Result<u8> {
        let client = self.connection.client()?;
        let mut node = post(&client, &self.node, "drain", &json!({ "reason": self.reason })).await?;
        talk::note(&format!("{}: {}", self.node, state(&node)));
        if self.wait {
            node = until_empty(&client, &self.node).await?;
        }
        print(format, &node)
    }
}

/// Follows the events of the coordinator until the node has no job.
async fn until_empty(client: &Client, name: &str) -> anyhow::Result<Value> {
    let path = format!("/api/v1/nodes/{}", path_segment(name)?);
    let mut heard = client.events(None);
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
        match client.get(&path).await {
            Ok(node) if node["job"].is_null() => {
                talk::note(&format!("{name}: runs nothing any more"));
                return Ok(node);
            }
            Ok(_) => {}
            Err(error) if is_unreachable(&error) => {}
            Err(error) => return Err(error),
        }
    }
    anyhow::bail!("the stream of events ended")
}

/// Give a drained node work again; also one that the coordinator itself took out of service.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard node resume node-0")]
pub(crate) struct Resume {
    /// The node's name.
    node: String,
    #[command(flatten)]
    connection: Connection,
}

impl Resume {
    pub(crate) async fn run(self, format: Format) -> anyhow::Result<u8> {
        let node = post(&self.connection.client()?, &self.node, "resume", &json!({})).await?;
        talk::note(&format!("{}: {}", self.node, state(&node)));
        print(format, &node)
    }
}

/// Say that a machine is gone for good: its job ends there as lost, and is tried again elsewhere.
///
/// Only if no process of the job can still run on it: else the job would run twice.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard node declare-lost node-7
  trainyard node declare-lost node-7 --yes")]
pub(crate) struct DeclareLost {
    /// The node's name.
    node: String,
    /// Do not ask.
    #[arg(long, short = 'y')]
    yes: bool,
    /// Although it is connected.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    connection: Connection,
}

impl DeclareLost {
    pub(crate) async fn run(self, format: Format) -> anyhow::Result<u8> {
        let client = self.connection.client()?;
        if !self.yes {
            let node = client.get(&format!("/api/v1/nodes/{}", path_segment(&self.node)?)).await?;
            confirm(&self.node, &node)?;
        }
        let node = post(&client, &self.node, "declareLost", &json!({ "force": self.force })).await?;
        talk::note(&format!("{}: {}", self.node, state(&node)));
        print(format, &node)
    }
}

fn confirm(name: &str, node: &Value) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        let message = format!("nobody can be asked whether {name} is gone: add --yes if it is");
        return Err(Coded::bad_input(message).into());
    }
    let job = match &node["job"]["name"] {
        Value::Null => String::new(),
        job => format!(" with job {}", cell(job)),
    };
    let mut err = std::io::stderr().lock();
    write!(
        err,
        "{name} is {}{job}. Is the machine gone, so that nothing of it runs any more? [y/N] ",
        state(node)
    )?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("reading the answer")?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => anyhow::bail!("nothing was done"),
    }
}

async fn post(client: &Client, node: &str, verb: &str, body: &Value) -> anyhow::Result<Value> {
    let path = format!("/api/v1/nodes/{}/{verb}", path_segment(node)?);
    client.json(Method::POST, &path, Some(body)).await
}

/// `draining (new disk)`, `unknown since ...`.
pub(super) fn state(node: &Value) -> String {
    let mut text = match &node["unknownSince"] {
        Value::Null if node["problem"].is_string() => {
            format!("{}: {}", cell(&node["state"]), cell(&node["problem"]))
        }
        Value::Null => cell(&node["state"]),
        since => format!("{} since {}", cell(&node["state"]), cell(since)),
    };
    let drain = &node["drain"];
    if !drain.is_null() {
        // An unknown node is drained too.
        if !node["unknownSince"].is_null() {
            text.push_str(", drained");
        }
        let reason = cell(&drain["reason"]);
        if !reason.is_empty() {
            text.push_str(&format!(" ({reason})"));
        }
    }
    text
}

/// For programs only: people were told on stderr.
fn print(format: Format, node: &Value) -> anyhow::Result<u8> {
    match format {
        Format::Table => {}
        Format::Json | Format::Yaml => output::print(format, node, |_| String::new())?,
    }
    Ok(exit::OK)
}
