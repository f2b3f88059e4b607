//! `trainyard coordinator recover`: what agents hold that a restored database does not know, and what an operator
//! does about it.

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::Client;
use crate::command::Connection;
use crate::exit;
use crate::output::{self, Format, cell};

/// Show what a database that went back does not know, and say what the coordinator may do.
///
/// A coordinator whose database was restored, or is older than what its agents have obeyed, starts no job and
/// takes none; what runs goes on. --adopt lets it go on from what it has: job numbers that the lost database may
/// have given are skipped, work that only agents know of runs to its end, and no job starts beside its own.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trainyard coordinator recover
  trainyard coordinator recover --adopt
  trainyard coordinator recover --adopt --without node-3    node-3 will not come back
  trainyard coordinator recover --stop 7.1                  ends work that the database does not know")]
pub(super) struct Recover {
    /// Go on from this database.
    #[arg(long)]
    adopt: bool,
    /// A node that will not come back; what it held counts as over.
    #[arg(long, value_name = "NODE", requires = "adopt")]
    without: Vec<String>,
    /// End this gang, which the database does not know.
    #[arg(long, value_name = "GANG", conflicts_with = "adopt")]
    stop: Option<String>,
    /// Where its node is not connected, that will not come back: the gang counts as over.
    #[arg(long, requires = "stop")]
    gone: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Recover {
    pub(super) fn run(self, format: Format) -> anyhow::Result<u8> {
        crate::command::client_runtime()?.block_on(async {
            let client = self.connection.client()?;
            if self.adopt {
                adopt(&client, &self.without, format).await?;
            } else if let Some(gang) = &self.stop {
                stop(&client, gang, self.gone, format).await?;
            } else {
                let shown = client.get("/api/v1/recovery").await?;
                output::print(format, &shown, table)?;
            }
            Ok(exit::OK)
        })
    }
}

async fn adopt(client: &Client, without: &[String], format: Format) -> anyhow::Result<()> {
    let body = json!({ "without": without });
    let adopted = client.json(Method::POST, "/api/v1/recovery/adopt", Some(&body)).await?;
    output::print(format, &adopted, |adopted| {
        output::fields(&[
            ("generation", cell(&adopted["generation"])),
            ("next job", cell(&adopted["nextJob"])),
            ("foreign", format!("{} gangs that the database does not know go on", cell(&adopted["foreign"]))),
        ])
    })
}

async fn stop(client: &Client, gang: &str, gone: bool, format: Format) -> anyhow::Result<()> {
    let body = json!({ "gang": gang, "gone": gone });
    let stopping = client.json(Method::POST, "/api/v1/recovery/stop", Some(&body)).await?;
    output::print(format, &stopping, |stopping| {
        output::fields(&[("gang", cell(&stopping["gang"])), ("told", cell(&stopping["nodes"]))])
    })
}

fn table(shown: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let needed = shown["needed"] == true;
    let (nodes, foreign) = (list(&shown["nodes"]), list(&shown["foreign"]));
    let mut text = if needed {
        "Nothing starts and no job is taken: the database is older than what its agents may have obeyed.\n"
            .to_owned()
    } else {
        "Nothing has to be recovered.\n".to_owned()
    };
    if needed {
        text.push_str("Go on from it with: trainyard coordinator recover --adopt\n");
    }
    let missing = cell(&shown["missingNodes"]);
    if !missing.is_empty() {
        text.push_str(&format!("Not heard of yet, so nobody knows what they hold: {missing}\n"));
    }
    let mut rows = Vec::new();
    for node in &nodes {
        let name = cell(&node["node"]);
        let gangs = list(&node["gangs"]);
        if gangs.is_empty() {
            rows.push([name.clone(), String::new(), String::new(), "nothing".to_owned(), String::new()]);
        }
        for gang in &gangs {
            rows.push(row(&name, gang, cell(&gang["phase"]), after(&gang["after"])));
        }
    }
    for gang in &foreign {
        let phase = if gang["connected"] == true { "connected" } else { "not connected" };
        rows.push(row(&cell(&gang["node"]), gang, phase.to_owned(), after(&json!("foreign"))));
    }
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&output::table(["NODE", "GANG", "JOB", "HOLDS", "AFTER --adopt"], rows));
    }
    text
}

fn row(node: &str, gang: &Value, holds: String, after: String) -> [String; 5] {
    [node.to_owned(), cell(&gang["gang"]), cell(&gang["job"]["name"]), holds, after]
}

/// What becomes of a gang.
fn after(knowledge: &Value) -> String {
    match knowledge.as_str() {
        Some("live") => "is taken over".to_owned(),
        Some("over") => "is ended: its job is over".to_owned(),
        Some("foreign") => "goes on; --stop ends it".to_owned(),
        Some(other) => output::printable(other),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_says_what_helps() {
        let gang = json!({ "gang": "7.1", "job": null, "phase": "running", "after": "foreign" });
        let shown = json!({
            "needed": true, "missingNodes": ["node-1"], "foreign": [],
            "nodes": [{ "node": "node-0", "gangs": [gang] }],
        });
        let text = table(&shown);
        assert!(text.contains("recover --adopt"), "{text}");
        assert!(text.contains("nobody knows what they hold: node-1"), "{text}");
        assert!(text.contains("node-0  7.1"), "{text}");
        assert!(text.contains("--stop ends it"), "{text}");
        assert_eq!(table(&json!({ "needed": false })), "Nothing has to be recovered.\n");
    }
}
