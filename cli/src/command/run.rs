//! `trainyard run`: a coordinator and agents in this process for one job, and nothing left of them after it.

mod state_dir;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::state_dir::StateDir;
use super::job::job_table;
use super::node::{nodes, what_is_missing};
use crate::client::Client;
use crate::config::{self, Target};
use crate::follow::{self, News, Stream};
use crate::jobfile::{JobFile, SpecFlags};
use crate::jobref::{JobRef, Scope};
use crate::output::{self, Format, cell};
use crate::progress::{Mode, Progress};
use crate::results::{self, Place};
use crate::yard::{Yard, YardConfig};
use crate::{exit, load, name, talk};

/// From the loss of this process to the end of its tasks, by their shims.
const LEASE: Duration = Duration::from_secs(30);
/// How long the tasks get to die after the second Ctrl-C.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at the load, on a terminal.
const LOAD_PERIOD: Duration = Duration::from_secs(2);
/// News on their way to the screen: a slow terminal slows the readers of logs, not the tasks.
const NEWS_QUEUE: usize = 64;

/// Run a job here and now, without any daemon.
///
/// Starts a coordinator and local nodes inside this process, runs the job, shows what it does, and ends with
/// the job's exit code. Ctrl-C cancels the job; a second one kills it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard run job.yaml
  trainyard run job.json --nodes 3 --set tensorFlowSettings.workerCount=2 -e LR=0.1
  trainyard run job.yaml -o json | tail -n 1 | jq .properties.executionInfo.exitCode

Exit codes: the job's own; 128+n after signal n; 124 when its wall-clock limit ended it; 130 when
interrupted; 2 for a bad job file; 125 when trainyard itself failed; 1 when the job ended without a code.")]
pub(crate) struct Run {
    /// The job file, JSON or YAML; `-` reads stdin.
    file: PathBuf,
    /// The job's name; one is made up unless given.
    #[arg(short, long)]
    name: Option<String>,
    /// Local nodes; as many as the job asks for unless given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    nodes: Option<u32>,
    /// A variable for the job, instead of the file's of the same name; can be repeated.
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
    #[command(flatten)]
    spec: SpecFlags,
    /// Where nodes keep their files; a new directory, removed at the end, unless given.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Keep that directory.
    #[arg(long)]
    keep: bool,
    /// Show neither progress nor what the tasks print.
    #[arg(short, long)]
    quiet: bool,
}

impl Run {
    pub(crate) fn run(self, format: Format) -> anyhow::Result<u8> {
        let job = JobFile::read(&self.file, &self.spec, &self.env)?;
        job.warn();
        let name = match &self.name {
            Some(name) => name.clone(),
            None => name::generate()?,
        };
        trainyard_core::text::Name::parse(&name)
            .map_err(|e| exit::Coded::bad_input(format!("--name: {e}")))?;
        let nodes = self.nodes.unwrap_or(job.spec.node_count);
        if nodes < job.spec.node_count {
            let need = job.spec.node_count;
            return Err(exit::Coded::bad_input(format!(
                "the job needs {need} nodes at once and --nodes gives {nodes}: leave --nodes out, or set nodeCount"
            ))
            .into());
        }
        super::start_log("warn");
        if nix::unistd::geteuid().is_root() {
            talk::warning("the job's tasks run as root, as you do");
        }
        super::daemon_runtime()?.block_on(self.run_job(&job, &name, nodes, format))
    }

    async fn run_job(&self, job: &JobFile, name: &str, nodes: u32, format: Format) -> anyhow::Result<u8> {
        let mut interrupts = Interrupts::new()?;
        let state = StateDir::make(self.state_dir.as_deref(), name)?;
        let token = config::new_token()?;
        let yard = Yard::start(YardConfig {
            state_dir: state.path.clone(),
            listen: ([127, 0, 0, 1], 0).into(),
            insecure_listen: false,
            token: token.clone(),
            nodes,
            init: false,
            lease: Some(LEASE),
        })
        .await?;
        let target = Target { coordinator: yard.url().to_owned(), token: Some(token) };
        let client = Client::new(target)?;
        let run = JobRun { client: &client, job: Scope::default().job(name) };
        let mut progress = Progress::new(self.mode(format));
        let ended = run.submit_and_follow(job, &mut progress, &mut interrupts, &yard).await;
        progress.finish();
        let ended = match ended {
            Ok(ended) => ended,
            Err(e) => {
                yard.stop().await;
                state.remove(&[], self.keep);
                return Err(e);
            }
        };
        let plan = client.get(&format!("{}/plan", run.job.api_path())).await.unwrap_or(Value::Null);
        let places = results::places(&plan);
        let explained = client.get(&format!("{}/explain", run.job.api_path())).await.unwrap_or(Value::Null);
        yard.stop().await;
        let kept = state.remove(&places, self.keep);
        self.report(format, &ended, &explained, &places, kept.as_deref())?;
        let code = exit::of_job(&ended).unwrap_or(exit::NO_CODE);
        Ok(if interrupts.seen > 0 && code != exit::OK { exit::INTERRUPTED } else { code })
    }

    fn mode(&self, format: Format) -> Mode {
        use std::io::IsTerminal as _;
        let people = format == Format::Table;
        let terminal = std::io::stderr().is_terminal() && (!people || std::io::stdout().is_terminal());
        match (self.quiet, terminal) {
            (true, _) => Mode::Quiet,
            (false, true) => Mode::Live,
            (false, false) if people => Mode::Plain,
            (false, false) => Mode::PlainOnStderr,
        }
    }

    /// The last words: state, code, reason, where things are; for programs the job as one document.
    fn report(
        &self,
        format: Format,
        ended: &Value,
        explained: &Value,
        places: &[Place],
        kept: Option<&Path>,
    ) -> anyhow::Result<()> {
        let properties = &ended["properties"];
        let mut lines = vec![
            ("job", cell(&ended["name"])),
            ("state", cell(&properties["executionState"])),
            ("exit code", cell(&properties["executionInfo"]["exitCode"])),
            ("reason", cell(&explained["text"])),
        ];
        for place in places.iter().filter(|place| place.path.is_dir()) {
            lines.push((place.what.as_str(), place.path.display().to_string()));
        }
        if let Some(kept) = kept {
            lines.push(("state dir", kept.display().to_string()));
        }
        talk::note(output::fields(&lines).trim_end());
        match format {
            Format::Table => Ok(()),
            Format::Json => output::write(&serde_json::to_string(ended).context("writing JSON")?),
            Format::Yaml => output::print(format, ended, job_table),
        }
    }
}

/// Ctrl-C, `kill` and a closed terminal; how often.
struct Interrupts {
    int: tokio::signal::unix::Signal,
    term: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
    seen: u32,
}

impl Interrupts {
    fn new() -> anyhow::Result<Interrupts> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Interrupts {
            int: listen(SignalKind::interrupt())?,
            term: listen(SignalKind::terminate())?,
            hup: listen(SignalKind::hangup())?,
            seen: 0,
        })
    }

    /// The next one; gives how many there were.
    async fn next(&mut self) -> u32 {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
            _ = self.hup.recv() => {}
        }
        self.seen += 1;
        self.seen
    }
}

/// What is heard of the nodes.
enum NodeNews {
    /// Their load, in one line.
    Load(String),
    /// What they cannot do here, in one line.
    Missing(String),
}

struct JobRun<'a> {
    client: &'a Client,
    job: JobRef,
}

impl JobRun<'_> {
    async fn submit_and_follow(
        &self,
        job: &JobFile,
        progress: &mut Progress,
        interrupts: &mut Interrupts,
        yard: &Yard,
    ) -> anyhow::Result<Value> {
        job.submit(self.client, &self.job).await?;
        let (tx, mut news) = mpsc::channel(NEWS_QUEUE);
        let (node_tx, mut node_news) = mpsc::channel(1);
        let all = |streams: &[Stream]| Ok(streams.to_vec());
        let followers = [
            tokio::spawn(follow::job_and_logs(self.client.clone(), self.job.clone(), all, tx)),
            tokio::spawn(follow_nodes(self.client.clone(), node_tx)),
        ];
        let result = self.listen(&mut news, &mut node_news, progress, interrupts, yard).await;
        followers.iter().for_each(tokio::task::JoinHandle::abort);
        result
    }

    async fn listen(
        &self,
        news: &mut mpsc::Receiver<News>,
        node_news: &mut mpsc::Receiver<NodeNews>,
        progress: &mut Progress,
        interrupts: &mut Interrupts,
        yard: &Yard,
    ) -> anyhow::Result<Value> {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut last = Value::Null;
        let mut give_up: Option<tokio::time::Instant> = None;
        loop {
            tokio::select! {
                heard = news.recv() => match heard.context("nobody follows the job")? {
                    News::Job(now) => {
                        progress.job(&now);
                        last = *now;
                        // A task may have started just before the second Ctrl-C.
                        if give_up.is_some() {
                            kill_tasks(&last);
                        }
                    }
                    News::Bytes(stream, bytes) => progress.bytes(&stream.task, stream.stderr, &bytes)?,
                    News::EndOf(stream) => progress.end_of(&stream.task, stream.stderr)?,
                    News::Gang(..) => {}
                    News::Over(ended) => return Ok(*ended),
                    News::Failed(error) => return Err(error),
                },
                Some(heard) = node_news.recv() => match heard {
                    NodeNews::Load(load) => progress.load(load),
                    NodeNews::Missing(missing) => progress.tell(&missing),
                },
                count = interrupts.next() => {
                    if count == 1 {
                        progress.tell("cancelling the job; once more kills it");
                        self.client.terminate(&self.job).await?;
                    } else {
                        kill_tasks(&last);
                        give_up.get_or_insert(tokio::time::Instant::now() + KILL_PATIENCE);
                    }
                },
                _ = second.tick() => {
                    progress.tick();
                    if give_up.is_some_and(|at| tokio::time::Instant::now() >= at) {
                        bail!("the job's tasks were killed and their end was not reported");
                    }
                },
                failure = yard.failed() => return Err(failure),
            }
        }
    }
}

/// SIGKILL to the process group of each task; its shim reports the end.
fn kill_tasks(job: &Value) {
    use nix::errno::Errno;
    use nix::sys::signal::{Signal, killpg};
    use nix::unistd::Pid;

    for task in job["properties"]["trainyard"]["tasks"].as_array().into_iter().flatten() {
        let running = task["exitCode"].is_null() && task["signal"].is_null();
        if let Some(pid) = task["pid"].as_i64().filter(|_| running).and_then(|pid| i32::try_from(pid).ok())
            && pid > 1
        {
            match killpg(Pid::from_raw(pid), Signal::SIGKILL) {
                // It may have ended by itself a moment ago.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => talk::warning(&format!("{}: not killed: {errno}", cell(&task["name"]))),
            }
        }
    }
}

/// Tells the load of the nodes again and again, and once what they cannot do here; a coordinator that does not
/// answer is no news.
async fn follow_nodes(client: Client, tx: mpsc::Sender<NodeNews>) {
    let mut ticks = tokio::time::interval(LOAD_PERIOD);
    let mut missing_told = false;
    loop {
        ticks.tick().await;
        if !missing_told
            && let Ok(nodes) = nodes(&client).await
            && let Some(missing) = what_is_missing(&nodes)
        {
            missing_told = true;
            if tx.send(NodeNews::Missing(missing)).await.is_err() {
                return;
            }
        }
        let Ok(loads) = load::look(&client, &[]).await else { continue };
        if tx.send(NodeNews::Load(load::one_line(&loads))).await.is_err() {
            return;
        }
    }
}
