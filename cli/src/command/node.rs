//! `trainyard node`: what the nodes are, do and measure; `verbs` takes them out of service and back.

mod verbs;

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Connection;
use crate::client::{Client, is_not_found};
use crate::output::{self, Format, bytes, cell};
use crate::{exit, load};

/// Look at nodes, and take them out of service and back.
#[derive(Debug, Args)]
pub(crate) struct Node {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List(List),
    Show(Show),
    Top(Top),
    Drain(verbs::Drain),
    Resume(verbs::Resume),
    DeclareLost(verbs::DeclareLost),
}

impl Node {
    pub(crate) fn run(self, format: Format) -> anyhow::Result<u8> {
        super::client_runtime()?.block_on(async {
            match self.verb {
                Verb::List(verb) => verb.run(format).await,
                Verb::Show(verb) => verb.run(format).await,
                Verb::Top(verb) => verb.run(format).await,
                Verb::Drain(verb) => verb.run(format).await,
                Verb::Resume(verb) => verb.run(format).await,
                Verb::DeclareLost(verb) => verb.run(format).await,
            }
        })
    }
}

/// List the nodes, with what each does.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trainyard node list
  trainyard node list -o json | jq '.[].inventory.gpus[].name'")]
struct List {
    #[command(flatten)]
    connection: Connection,
}

impl List {
    async fn run(self, format: Format) -> anyhow::Result<u8> {
        let nodes = nodes(&self.connection.client()?).await?;
        output::print(format, &json!(nodes), |_| list_table(&nodes))?;
        Ok(exit::OK)
    }
}

pub(crate) async fn nodes(client: &Client) -> anyhow::Result<Vec<Value>> {
    let answer = client.get("/api/v1/nodes").await?;
    Ok(answer["value"].as_array().cloned().unwrap_or_default())
}

/// One line about what these nodes cannot do here; `None` if nothing is missing.
pub(crate) fn what_is_missing(nodes: &[Value]) -> Option<String> {
    let all = nodes.iter().filter_map(|node| node["inventory"]["limitations"].as_array()).flatten();
    let mut missing: Vec<String> = all.map(cell).filter(|text| !text.is_empty()).collect();
    missing.sort_unstable();
    missing.dedup();
    (!missing.is_empty()).then(|| format!("missing here: {}", missing.join("; ")))
}

fn list_table(nodes: &[Value]) -> String {
    let rows = nodes.iter().map(|node| {
        let inventory = &node["inventory"];
        [
            cell(&node["name"]),
            verbs::state(node),
            cell(&node["job"]["name"]),
            cell(&node["address"]),
            cell(&inventory["cpus"]),
            number(&inventory["memoryBytes"]).map(bytes).unwrap_or_default(),
            gpu_summary(inventory),
            cell(&node["version"]),
        ]
    });
    output::table(["NAME", "STATE", "JOB", "ADDRESS", "CPUS", "MEMORY", "GPUS", "VERSION"], rows)
}

/// `4 x NVIDIA H100, 1 faulty`.
fn gpu_summary(inventory: &Value) -> String {
    let mut models: BTreeMap<String, u32> = BTreeMap::new();
    let mut faulty = 0;
    for gpu in inventory["gpus"].as_array().into_iter().flatten() {
        *models.entry(cell(&gpu["name"])).or_default() += 1;
        if !cell(&gpu["fault"]).is_empty() {
            faulty += 1;
        }
    }
    let mut parts: Vec<String> = models.iter().map(|(name, n)| format!("{n} x {name}")).collect();
    if faulty > 0 {
        parts.push(format!("{faulty} faulty"));
    }
    if parts.is_empty() { "0".to_owned() } else { parts.join(", ") }
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64()
}

/// Show one node: hardware, limits, what it does.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trainyard node show node-0")]
struct Show {
    /// The node's name.
    node: String,
    #[command(flatten)]
    connection: Connection,
}

impl Show {
    async fn run(self, format: Format) -> anyhow::Result<u8> {
        let client = self.connection.client()?;
        let node = match client.get(&format!("/api/v1/nodes/{}", path_segment(&self.node)?)).await {
            Err(e) if is_not_found(&e) => {
                let known: Vec<String> = nodes(&client).await?.iter().map(|n| cell(&n["name"])).collect();
                anyhow::bail!("there is no node `{}`; there are: {}", self.node, known.join(", "));
            }
            other => other?,
        };
        output::print(format, &node, show_table)?;
        Ok(exit::OK)
    }
}

/// `operator since ...`; empty: it takes work.
fn drained_by(node: &Value) -> String {
    match &node["drain"] {
        Value::Null => String::new(),
        drain => format!("{} since {}", cell(&drain["by"]), cell(&drain["since"])),
    }
}

pub(crate) fn path_segment(name: &str) -> anyhow::Result<&str> {
    let fits = !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    anyhow::ensure!(fits, "`{}` is no node's name", output::printable(name));
    Ok(name)
}

fn show_table(node: &Value) -> String {
    let inventory = &node["inventory"];
    let lines =
        |value: &Value| value.as_array().into_iter().flatten().map(cell).collect::<Vec<_>>().join("\n");
    let mut text = output::fields(&[
        ("name", cell(&node["name"])),
        ("state", verbs::state(node)),
        ("drained by", drained_by(node)),
        ("job", cell(&node["job"]["name"])),
        ("address", cell(&node["address"])),
        ("root", cell(&node["root"])),
        ("version", cell(&node["version"])),
        ("heard", cell(&node["lastHeartbeat"])),
        ("host", cell(&inventory["hostname"])),
        ("system", format!("{} {}", cell(&inventory["os"]), cell(&inventory["kernel"])).trim().to_owned()),
        ("cpus", format!("{} x {}", cell(&inventory["cpus"]), cell(&inventory["cpuModel"]))),
        ("memory", number(&inventory["memoryBytes"]).map(bytes).unwrap_or_default()),
        ("driver", cell(&inventory["driverVersion"])),
        ("cuda", cell(&inventory["cudaVersion"])),
        ("gpu problem", cell(&inventory["gpuProblem"])),
        ("limitations", lines(&inventory["limitations"])),
    ]);
    let gpus = inventory["gpus"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !gpus.is_empty() {
        let rows = gpus.iter().map(|gpu| {
            [
                cell(&gpu["uuid"]),
                cell(&gpu["name"]),
                number(&gpu["memoryBytes"]).map(bytes).unwrap_or_default(),
                cell(&gpu["computeCapability"]),
                cell(&gpu["pciBusId"]),
                cell(&gpu["usedBy"]),
                cell(&gpu["fault"]),
            ]
        });
        text.push('\n');
        text.push_str(&output::table(
            ["GPU", "NAME", "MEMORY", "CAPABILITY", "PCI BUS", "USED BY", "FAULT"],
            rows,
        ));
    }
    text
}

/// Show load and memory of nodes and GPUs; on a terminal again and again, until Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trainyard node top
  trainyard node top node-0 --once -o json")]
struct Top {
    /// Only these nodes.
    node: Vec<String>,
    /// Once, on a terminal too.
    #[arg(long)]
    once: bool,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    #[command(flatten)]
    connection: Connection,
}

impl Top {
    async fn run(self, format: Format) -> anyhow::Result<u8> {
        let client = self.connection.client()?;
        let live = !self.once && format == Format::Table && std::io::stdout().is_terminal();
        if !live {
            let loads = load::look(&client, &self.node).await?;
            output::print(format, &json!(loads), |_| load::table(&loads))?;
            return Ok(exit::OK);
        }
        let mut ticks = tokio::time::interval(Duration::from_secs(self.interval));
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = tokio::signal::ctrl_c() => return Ok(exit::OK),
            }
            let text = match load::look(&client, &self.node).await {
                Ok(loads) => load::table(&loads),
                Err(e) if crate::client::is_unreachable(&e) => format!("{e}\n"),
                Err(e) => return Err(e),
            };
            // Home, the text with each line cleared to its end, then the rest of the screen.
            let text = text.replace('\n', "\u{1b}[K\n");
            let mut out = std::io::stdout().lock();
            write!(out, "\u{1b}[H{text}\u{1b}[J")?;
            out.flush()?;
        }
    }
}
