//! `trainyard up`: a coordinator and local nodes that stay.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::node::{nodes, what_is_missing};
use crate::client::{API_VERSION, Client, LIST_LIMIT};
use crate::config::{self, PORT, Target};
use crate::output::{self, Format};
use crate::statelock::StateLock;
use crate::yard::{Yard, YardConfig};
use crate::{exit, talk};

/// How long local nodes get to join before `up` says that it is ready.
const JOIN_PATIENCE: Duration = Duration::from_secs(15);
/// Lines of a detached process's log that are shown if it fails to start.
const LOG_TAIL_LINES: usize = 20;

/// Start a coordinator and local nodes, and keep them until Ctrl-C or `trainyard down`.
///
/// Tasks outlive it, however it ends; the next `up` with the same state directory takes them over. The token
/// that requests need is written to client.json in your configuration directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard up
  trainyard up --nodes 2 -d
  trainyard up --nodes 0 --listen 10.0.0.4:8470 --insecure-listen     for agents on other machines")]
pub(crate) struct Up {
    /// Local nodes; each gets a loopback address and its share of the GPUs.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1000))]
    nodes: u32,
    /// Where the coordinator listens, for agents and clients alike.
    #[arg(long, value_name = "ADDR:PORT", default_value_t = SocketAddr::from(([127, 0, 0, 1], PORT)))]
    listen: SocketAddr,
    /// Listen beyond loopback although nothing is encrypted: in a network that nobody else reaches.
    #[arg(long)]
    insecure_listen: bool,
    /// Where coordinator and nodes keep their state. Default: /var/lib/trainyard for root, else trainyard in
    /// your state directory.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Begin anew where the coordinator's database is lost.
    #[arg(long)]
    init: bool,
    /// Go to the background once everything is ready.
    #[arg(short, long)]
    detach: bool,
    /// Set in the process that was sent to the background.
    #[arg(long, hide = true)]
    detached: bool,
}

impl Up {
    pub(crate) fn run(self, format: Format) -> anyhow::Result<u8> {
        let state_dir = state_dir(self.state_dir.as_deref())?;
        config::make_private_dir(&state_dir)?;
        if self.detach && !self.detached {
            return self.detach(&state_dir, format);
        }
        if self.detached {
            nix::unistd::setsid().context("leaving the terminal")?;
        }
        super::start_log(if self.detached { "info" } else { "warn" });
        super::daemon_runtime()?.block_on(self.keep(&state_dir, format))
    }

    async fn keep(&self, state_dir: &Path, format: Format) -> anyhow::Result<u8> {
        let mut lock = StateLock::take(state_dir)?;
        let mut int = signal(SignalKind::interrupt()).context("listening for signals")?;
        let mut term = signal(SignalKind::terminate()).context("listening for signals")?;
        let mut hup = signal(SignalKind::hangup()).context("listening for signals")?;
        let token = config::keep_token(state_dir)?;
        let yard = Yard::start(YardConfig {
            state_dir: state_dir.to_owned(),
            listen: self.listen,
            insecure_listen: self.insecure_listen,
            token: token.clone(),
            nodes: self.nodes,
            init: self.init,
            lease: None,
        })
        .await?;
        let target = Target { coordinator: yard.url().to_owned(), token: Some(token) };
        lock.listening(&target.coordinator)?;
        let client_file = config::write_client_file(&target, state_dir)?;
        let client = Client::new(target)?;
        let ready = json!({
            "coordinator": client.coordinator(),
            "pid": std::process::id(),
            "nodes": self.nodes,
            "stateDir": state_dir,
            "clientFile": client_file,
            "notes": self.what_to_know(&client).await,
        });
        self.say_ready(format, &ready)?;
        let failure = tokio::select! {
            _ = int.recv() => None,
            _ = term.recv() => None,
            _ = hup.recv(), if !self.detached => None,
            failure = yard.failed() => Some(failure),
        };
        let running = running_tasks(&client).await;
        yard.stop().await;
        talk::note(&match running {
            Some(0) => "stopped; no task runs".to_owned(),
            Some(n) => {
                let tasks = output::count(n, "task");
                format!("stopped; {tasks} still running; the next `trainyard up` takes over")
            }
            None => "stopped; tasks that run go on".to_owned(),
        });
        failure.map_or(Ok(exit::OK), Err)
    }

    async fn what_to_know(&self, client: &Client) -> Vec<String> {
        let mut notes = Vec::new();
        if self.nodes > 0 && nix::unistd::geteuid().is_root() {
            notes.push("tasks run as root, as you do".to_owned());
        }
        match tokio::time::timeout(JOIN_PATIENCE, self.nodes_join(client)).await {
            Ok(nodes) => notes.extend(what_is_missing(&nodes)),
            Err(_) => {
                notes.push("not all nodes have joined yet; `trainyard node list` shows them".to_owned())
            }
        }
        if !self.listen.ip().is_loopback() {
            let listen = self.listen;
            notes.push(format!(
                "whoever reaches {listen} and has the token may do everything; nothing is encrypted"
            ));
        }
        notes
    }

    /// Waits until every local node has joined; gives all nodes.
    async fn nodes_join(&self, client: &Client) -> Vec<Value> {
        let mut heard = client.events(None);
        while heard.recv().await.is_some() {
            let Ok(nodes) = nodes(client).await else { continue };
            let joined = nodes.iter().filter(|node| node["state"] != "unknown").count();
            if joined >= usize::try_from(self.nodes).unwrap_or(usize::MAX) {
                return nodes;
            }
        }
        Vec::new()
    }

    /// One line how to go on; in the background a line for the process that waits.
    fn say_ready(&self, format: Format, ready: &Value) -> anyhow::Result<()> {
        if self.detached {
            output::write(&serde_json::to_string(ready).context("writing JSON")?)?;
            // The reader is gone after this line; whatever else would be printed must not fail.
            let null =
                std::fs::OpenOptions::new().write(true).open("/dev/null").context("opening /dev/null")?;
            return nix::unistd::dup2_stdout(&null).context("closing stdout");
        }
        print_ready(format, ready)
    }

    /// Starts this program again in a session of its own, and waits until it is ready or has failed.
    fn detach(&self, state_dir: &Path, format: Format) -> anyhow::Result<u8> {
        let log_path = state_dir.join("up.log");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .with_context(|| format!("opening {}", log_path.display()))?;
        let before = log.metadata().context("reading the log's size")?.len();
        let exe = std::env::current_exe().context("finding this program")?;
        let mut child = Command::new(exe)
            .arg("up")
            .args(["--nodes", &self.nodes.to_string(), "--listen", &self.listen.to_string(), "--detached"])
            .arg("--state-dir")
            .arg(state_dir)
            .args(self.insecure_listen.then_some("--insecure-listen"))
            .args(self.init.then_some("--init"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("starting this program again")?;
        let stdout = child.stdout.take().context("the pipe just asked for")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("waiting for the process in the background")?;
        if let Ok(ready) = serde_json::from_str(&line) {
            print_ready(format, &ready)?;
            return Ok(exit::OK);
        }
        let status = child.wait().context("waiting for the process in the background")?;
        let text = std::fs::read(&log_path).unwrap_or_default();
        let new = text.get(usize::try_from(before).unwrap_or(0)..).unwrap_or_default();
        let new = String::from_utf8_lossy(new);
        let lines: Vec<&str> = new.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
        bail!("it did not start ({status}); {} ends with:\n{tail}", log_path.display())
    }
}

fn print_ready(format: Format, ready: &Value) -> anyhow::Result<()> {
    for note in ready["notes"].as_array().into_iter().flatten() {
        talk::warning(&output::cell(note));
    }
    match format {
        Format::Table => {
            let text = |field: &str| output::cell(&ready[field]);
            let nodes = usize::try_from(ready["nodes"].as_u64().unwrap_or(0)).unwrap_or(usize::MAX);
            talk::note(&format!(
                "ready at {} with {}, state in {}; submit with: trainyard job submit FILE",
                text("coordinator"),
                output::count(nodes, "node"),
                text("stateDir")
            ));
        }
        Format::Json | Format::Yaml => output::print(format, ready, |_| String::new())?,
    }
    // A pipe that nobody reads any more is no reason to stop.
    drop(std::io::stdout().flush());
    Ok(())
}

/// The state directory of `up` and `down`, absolute.
pub(super) fn state_dir(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let dir = given.map_or_else(config::default_state_dir, Path::to_owned);
    let dir = std::path::absolute(&dir).with_context(|| format!("finding {}", dir.display()))?;
    anyhow::ensure!(dir.to_str().is_some(), "{} is not UTF-8", dir.display());
    Ok(dir)
}

/// Tasks that run now; `None` if nobody says.
async fn running_tasks(client: &Client) -> Option<usize> {
    let mut count = 0;
    for job in client.list(&["running", "terminating"], None, LIST_LIMIT).await.ok()? {
        let resource =
            client.get(&format!("{}?api-version={API_VERSION}", job["id"].as_str()?)).await.ok()?;
        let tasks = resource["properties"]["trainyard"]["tasks"].as_array()?.clone();
        count += tasks.iter().filter(|task| is_running(task)).count();
    }
    Some(count)
}

/// A task with a process and without an end.
fn is_running(task: &Value) -> bool {
    !task["pid"].is_null()
        && task["exitCode"].is_null()
        && task["signal"].is_null()
        && task["endTime"].is_null()
}
