//! `trainyard agent status|tasks|logs|env|enter`: asked through the agent's socket, on its own node.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use trainyard_agent::local::{Answer, Client, Environment, Logs, Request, SOCKET};
use trainyard_core::plan::task::{Role, TaskPlan};

use super::DEFAULT_ROOT;
use crate::output::{self, Format, cell};
use crate::{config, exit, talk};

/// Bytes of a log file that are copied at once.
const PIECE: usize = 64 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Say how this node's agent is.
    #[command(after_help = "Examples:
  trainyard agent status
  trainyard agent status --node 0")]
    Status(Where),
    /// List the tasks that this node holds.
    #[command(after_help = "Examples:
  trainyard agent tasks -o json")]
    Tasks(Where),
    /// Print what a task has printed, from this node's disk.
    #[command(after_help = "Examples:
  trainyard agent logs worker-0
  trainyard agent logs 7.1.0 --stderr")]
    Logs {
        #[command(flatten)]
        task: OneTask,
        /// stderr instead of stdout.
        #[arg(long)]
        stderr: bool,
        /// Where the files are, instead of what is in them.
        #[arg(long)]
        path: bool,
    },
    /// Print the environment of a task as `export` lines. Secrets are left out.
    #[command(after_help = "Examples:
  eval \"$(trainyard agent env worker-0)\"")]
    Env(OneTask),
    /// Open a shell with a task's environment, in its working directory. Secrets are left out.
    #[command(after_help = "Examples:
  trainyard agent enter worker-0
  trainyard agent enter worker-0 -- nvidia-smi")]
    Enter {
        #[command(flatten)]
        task: OneTask,
        /// What to run instead of a shell.
        #[arg(last = true)]
        command: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct Where {
    /// The local node of `trainyard up`, by name or number.
    #[arg(long, value_name = "NODE", conflicts_with = "root")]
    node: Option<String>,
    /// The root folder of the agent. Default: the system's, or the only local node's.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The state directory that `up` was given, to find local nodes.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct OneTask {
    /// The task: its name, as `worker-0`, or its attempt, as `7.1.0`.
    task: String,
    #[command(flatten)]
    place: Where,
}

impl Verb {
    pub(super) fn run(self, format: Format) -> anyhow::Result<u8> {
        match self {
            Verb::Status(place) => {
                let Answer::Status(status) = place.client()?.ask(&Request::Status)? else {
                    return unfitting();
                };
                output::print(format, &json!(status), status_table)?;
            }
            Verb::Tasks(place) => {
                let Answer::Tasks(tasks) = place.client()?.ask(&Request::Tasks)? else { return unfitting() };
                output::print(format, &json!(tasks), tasks_table)?;
            }
            Verb::Logs { task, stderr, path } => {
                let question = Request::Logs { task: task.task };
                let Answer::Logs(logs) = task.place.client()?.ask(&question)? else { return unfitting() };
                print_logs(format, &logs, stderr, path)?;
            }
            Verb::Env(task) => {
                let env = task.environment()?;
                output::print(format, &json!(env.env), |_| export_lines(&env))?;
            }
            Verb::Enter { task, command } => return enter(&task.environment()?, &command),
        }
        Ok(exit::OK)
    }
}

fn unfitting() -> anyhow::Result<u8> {
    bail!("the agent answered another question than was asked")
}

impl OneTask {
    fn environment(&self) -> anyhow::Result<Environment> {
        match self.place.client()?.ask(&Request::Env { task: self.task.clone() })? {
            Answer::Env(environment) => Ok(environment),
            Answer::Status(_) | Answer::Tasks(_) | Answer::Logs(_) | Answer::Error { .. } => {
                bail!("the agent answered another question than was asked")
            }
        }
    }
}

impl Where {
    fn client(&self) -> anyhow::Result<Client> {
        let root = self.root()?;
        Client::connect(&root).with_context(|| format!("asking the agent of {}", root.display()))
    }

    /// The root that was named; else the only one on this machine with an agent.
    fn root(&self) -> anyhow::Result<PathBuf> {
        if let Some(root) = &self.root {
            return Ok(root.clone());
        }
        let state_dir = self.state_dir.clone().unwrap_or_else(config::default_state_dir);
        let nodes = state_dir.join("nodes");
        if let Some(node) = &self.node {
            let number: u32 = node.strip_prefix("node-").unwrap_or(node).parse().with_context(|| {
                format!("`{node}` is no local node: node-0, node-1, ... or 0, 1, ... is expected")
            })?;
            return Ok(nodes.join(number.to_string()).join("LS_root"));
        }
        let mut roots = local_roots(&nodes);
        let system = Path::new(DEFAULT_ROOT);
        if roots.is_empty() || system.join(SOCKET).exists() {
            roots.push(system.to_owned());
        }
        match roots.as_slice() {
            [root] => Ok(root.clone()),
            _ => bail!("there are {} agents here: choose one with --node or --root", roots.len()),
        }
    }
}

/// Roots of local nodes that have a socket, by number.
fn local_roots(nodes: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(nodes).into_iter().flatten().flatten();
    let mut numbers: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    let roots = numbers.iter().map(|number| nodes.join(number.to_string()).join("LS_root"));
    roots.filter(|root| root.join(SOCKET).exists()).collect()
}

fn status_table(status: &Value) -> String {
    let connected = match status["connected"].as_bool() {
        Some(true) => "yes".to_owned(),
        Some(false) | None => format!("no: {}", cell(&status["lastError"])),
    };
    let problems: Vec<String> = status["problems"].as_array().into_iter().flatten().map(cell).collect();
    let limitations: Vec<String> = status["limitations"].as_array().into_iter().flatten().map(cell).collect();
    let mut text = output::fields(&[
        ("node", cell(&status["node"])),
        ("version", cell(&status["version"])),
        ("root", cell(&status["root"])),
        ("coordinator", cell(&status["coordinator"])),
        ("connected", connected),
        ("last contact", time(&status["lastContactMs"])),
        ("limitations", limitations.join("\n")),
        ("takes no work", problems.join("\n")),
        ("logs", spool_line(&status["spool"])),
    ]);
    let gangs = status["gangs"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !gangs.is_empty() {
        let rows = gangs
            .iter()
            .map(|gang| ["gang", "job", "phase", "running", "stdDir"].map(|field| cell(&gang[field])));
        text.push('\n');
        text.push_str(&output::table(["GANG", "JOB", "PHASE", "RUNNING", "LOGS"], rows));
    }
    text
}

fn spool_line(spool: &Value) -> String {
    let bytes = |field: &str| output::bytes(spool[field].as_f64().unwrap_or(0.0));
    let mut line = format!(
        "{} in {} files, {} allowed per task, {} free on the disk",
        bytes("heldBytes"),
        cell(&spool["files"]),
        bytes("quotaBytes"),
        bytes("freeBytes")
    );
    if spool["gaps"].as_u64().is_some_and(|gaps| gaps > 0) {
        line = format!("{line}\n{} in {} pieces were dropped", bytes("droppedBytes"), cell(&spool["gaps"]));
    }
    match cell(&spool["problem"]) {
        problem if problem.is_empty() => line,
        problem => format!("{line}\n{problem}"),
    }
}

fn tasks_table(tasks: &Value) -> String {
    let rows = tasks.as_array().into_iter().flatten().map(|task| {
        [
            cell(&task["name"]),
            cell(&task["attempt"]),
            cell(&task["job"]),
            cell(&task["state"]),
            cell(&task["pid"]),
            time(&task["startedMs"]),
            cell(&task["exit"]),
        ]
    });
    output::table(["TASK", "ATTEMPT", "JOB", "STATE", "PID", "STARTED", "EXIT"], rows)
}

fn time(ms: &Value) -> String {
    let time = ms.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map(|time| time.to_string()).unwrap_or_default()
}

fn print_logs(format: Format, logs: &Logs, stderr: bool, path: bool) -> anyhow::Result<()> {
    let (spool, mirror) = match stderr {
        false => (&logs.stdout, &logs.mirrored_stdout),
        true => (&logs.stderr, &logs.mirrored_stderr),
    };
    if path || format != Format::Table {
        return output::print(format, &json!(logs), |_| spool.clone());
    }
    // The spool goes once the coordinator has everything; the job's own copy stays.
    let mut file = File::open(spool)
        .or_else(|_| File::open(mirror))
        .with_context(|| format!("opening {spool} or {mirror}"))?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece).context("reading the log")? {
            0 => return Ok(()),
            n => output::write_bytes(&piece[..n])?,
        }
    }
}

fn export_lines(env: &Environment) -> String {
    let secrets =
        env.secrets.iter().map(|name| (name.clone(), trainyard_core::text::Secret::new(String::new())));
    trainyard_core::plan::export_lines(&TaskPlan {
        rank: trainyard_core::id::Rank(0),
        role: Role::Master,
        index: 0,
        name: env.name.clone(),
        command: trainyard_core::plan::Command {
            argv: env.argv.clone(),
            env: env.env.clone(),
            secret_env: secrets.collect(),
            cwd: env.cwd.clone(),
            stdout: String::new(),
            stderr: String::new(),
        },
        gpus: Vec::new(),
    })
}

/// Becomes the shell: comes back only if that fails.
fn enter(env: &Environment, command: &[String]) -> anyhow::Result<u8> {
    let shell = ["bash".to_owned()];
    let (program, arguments) = match command {
        [] => (&shell[0], &shell[..0]),
        [program, arguments @ ..] => (program, arguments),
    };
    if !env.secrets.is_empty() {
        talk::note(&format!("not set, since they are secrets: {}", env.secrets.join(", ")));
    }
    let mut process = Command::new(program);
    process.args(arguments).env_clear().envs(&env.env).current_dir(&env.cwd);
    // What makes a terminal usable is the terminal's.
    for name in ["TERM", "COLORTERM"] {
        if let Some(value) = std::env::var_os(name) {
            process.env(name, value);
        }
    }
    let error = process.exec();
    Err(error).with_context(|| format!("starting {program} in {}", env.cwd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_nodes_are_found_by_number() {
        let dir = tempfile::tempdir().unwrap();
        for node in ["10", "2", "x"] {
            std::fs::create_dir_all(dir.path().join("nodes").join(node).join("LS_root")).unwrap();
        }
        for node in ["10", "2"] {
            std::fs::write(dir.path().join("nodes").join(node).join("LS_root").join(SOCKET), "").unwrap();
        }
        let found = local_roots(&dir.path().join("nodes"));
        let expected = ["2", "10"].map(|node| dir.path().join("nodes").join(node).join("LS_root"));
        assert_eq!(found, expected);
        let place =
            |node: &str| Where { node: Some(node.into()), root: None, state_dir: Some(dir.path().into()) };
        assert_eq!(place("node-2").root().unwrap(), expected[0]);
        assert_eq!(place("10").root().unwrap(), expected[1]);
        assert!(place("node-x").root().is_err());
    }
}
