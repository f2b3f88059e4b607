//! The agent's own socket, `<root>/agent.sock`: what one can ask on the node while the coordinator is down.
//!
//! One line of JSON each way, one question per connection. Only the owner can connect (0600). Secrets are
//! not told: their names are.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use crate::driver::Event;

/// Name of the socket in the root folder.
pub const SOCKET: &str = "agent.sock";
/// Bytes of a question.
const REQUEST_BYTES_MAX: u64 = 4096;
/// Bytes of an answer that a client takes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How long a client has for its question, and waits for the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase")]
pub enum Request {
    /// How the agent is.
    Status,
    /// What it holds.
    Tasks,
    /// The environment of a task.
    Env {
        /// Name or attempt id.
        task: String,
    },
    /// Where the logs of a task are.
    Logs {
        /// Name or attempt id.
        task: String,
    },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// To `Status`.
    Status(Status),
    /// To `Tasks`.
    Tasks(Vec<Task>),
    /// To `Env`.
    Env(Environment),
    /// To `Logs`.
    Logs(Logs),
    /// The question has no answer.
    Error {
        /// Why.
        error: String,
    },
}

/// How an agent is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Name of the node.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// `LS_root`.
    pub root: String,
    /// URL of the coordinator.
    pub coordinator: String,
    /// Whether a session is open.
    pub connected: bool,
    /// The highest generation obeyed.
    pub generation: u64,
    /// Of the session, if one is open.
    pub epoch: Option<u64>,
    /// When the coordinator last answered, wall clock.
    pub last_contact_ms: Option<i64>,
    /// Why there is no session.
    pub last_error: Option<String>,
    /// Whether it can mount and keep cgroups.
    pub privileged: bool,
    /// What it cannot do here, in words.
    pub limitations: Vec<String>,
    /// Why it takes no work, in words; empty: it does.
    pub problems: Vec<String>,
    /// Logs that wait on its disk.
    pub spool: SpoolStatus,
    /// What it holds.
    pub gangs: Vec<GangStatus>,
}

/// The logs of a node that are not stored, or not given back yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpoolStatus {
    /// Log bytes on the disk.
    pub held_bytes: u64,
    /// Log files.
    pub files: usize,
    /// What an attempt may hold.
    pub quota_bytes: u64,
    /// Dropped before they were stored, since the agent started.
    pub dropped_bytes: u64,
    /// In so many pieces.
    pub gaps: u64,
    /// Free on the disk of the spool.
    pub free_bytes: u64,
    /// Why there is no quota; empty: there is.
    pub problem: String,
}

/// A gang that a node holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GangStatus {
    /// `job.gang`
    pub gang: String,
    /// Name of the job.
    pub job: String,
    /// How far it is, in words.
    pub phase: String,
    /// Whether it is to end.
    pub stopping: bool,
    /// How many attempts run.
    pub running: usize,
    /// 0: never fenced.
    pub lease_ms: u64,
    /// Where its logs are mirrored to.
    pub std_dir: String,
}

/// A task that a node holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// `job.gang.rank`
    pub attempt: String,
    /// As `worker-0`.
    pub name: String,
    /// Name of the job.
    pub job: String,
    /// `waiting`, `launching`, `running` or `ended`.
    pub state: String,
    /// Its main process, while it runs.
    pub pid: Option<u32>,
    /// Wall clock.
    pub started_ms: Option<i64>,
    /// Wall clock.
    pub ended_ms: Option<i64>,
    /// How it ended, in words.
    pub exit: Option<String>,
    /// Lines of `/proc/PID/cgroup`, while it runs.
    pub cgroups: Vec<String>,
    /// UUIDs.
    pub gpus: Vec<String>,
}

/// What a task runs with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Environment {
    /// `job.gang.rank`
    pub attempt: String,
    /// As `worker-0`.
    pub name: String,
    /// Its command line.
    pub argv: Vec<String>,
    /// Its working directory.
    pub cwd: String,
    /// Its variables, without secrets.
    pub env: BTreeMap<String, String>,
    /// Names of its secrets, as far as this agent has them.
    pub secrets: Vec<String>,
    /// Its main process, while it runs.
    pub pid: Option<u32>,
}

/// Where the logs of a task are on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Logs {
    /// `job.gang.rank`
    pub attempt: String,
    /// As `worker-0`.
    pub name: String,
    /// In the spool.
    pub stdout: String,
    /// In the spool.
    pub stderr: String,
    /// In the job's own directory.
    pub mirrored_stdout: String,
    /// In the job's own directory.
    pub mirrored_stderr: String,
}

/// Why an agent cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// No socket, or nobody behind it.
    #[error("no agent listens on {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It did not answer.
    #[error("the agent does not answer")]
    Exchange(#[source] io::Error),
    /// It answered in words that this version does not know.
    #[error("the agent's answer cannot be read")]
    Answer(#[source] serde_json::Error),
    /// It has no answer.
    #[error("{0}")]
    Refused(String),
}

/// Asks the agent of one root folder.
#[derive(Debug)]
pub struct Client {
    root: PathBuf,
}

impl Client {
    /// Of the agent that lives in this root folder.
    ///
    /// # Errors
    /// [`LocalError::Connect`] if no agent listens there.
    pub fn connect(root: &Path) -> Result<Client, LocalError> {
        let client = Client { root: root.to_owned() };
        client.dial()?;
        Ok(client)
    }

    /// Asks one question.
    ///
    /// # Errors
    /// [`LocalError`]; an answer [`Answer::Error`] is [`LocalError::Refused`].
    pub fn ask(&self, request: &Request) -> Result<Answer, LocalError> {
        let mut stream = self.dial()?;
        let exchange = |stream: &mut UnixStream| -> io::Result<String> {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            let mut line = serde_json::to_vec(request)?;
            line.push(b'\n');
            stream.write_all(&line)?;
            let mut answer = String::new();
            BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut answer)?;
            Ok(answer)
        };
        let answer = exchange(&mut stream).map_err(LocalError::Exchange)?;
        match serde_json::from_str(&answer).map_err(LocalError::Answer)? {
            Answer::Error { error } => Err(LocalError::Refused(error)),
            answer => Ok(answer),
        }
    }

    fn dial(&self) -> Result<UnixStream, LocalError> {
        let path = self.root.join(SOCKET);
        let short = ShortPath::new(&self.root);
        let stream = short.and_then(|short| UnixStream::connect(short.path()));
        stream.map_err(|source| LocalError::Connect { path, source })
    }
}

/// The socket by a name that always fits into 108 bytes, whatever the folder's path.
struct ShortPath(File);

impl ShortPath {
    fn new(folder: &Path) -> io::Result<ShortPath> {
        let flags = nix::libc::O_PATH | nix::libc::O_DIRECTORY;
        Ok(ShortPath(OpenOptions::new().read(true).custom_flags(flags).open(folder)?))
    }

    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}/{SOCKET}", self.0.as_raw_fd()).into()
    }
}

/// Listens in this root folder. The journal's lock has been taken: no other agent can be there.
pub(crate) fn listen(root: &Path) -> io::Result<tokio::net::UnixListener> {
    let short = ShortPath::new(root)?;
    match std::fs::remove_file(short.path()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = std::os::unix::net::UnixListener::bind(short.path())?;
    std::fs::set_permissions(short.path(), std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

/// Answers whoever connects, until it is dropped.
pub(crate) async fn serve(listener: tokio::net::UnixListener, driver: mpsc::Sender<Event>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let driver = driver.clone();
                    connections.spawn(async move {
                        match tokio::time::timeout(PATIENCE, converse(stream, driver)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => tracing::debug!(%error, "local question"),
                            Err(_) => tracing::debug!("local question took too long"),
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "local socket");
                    // Mostly: too many open files. Others may be closed soon.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(stream: tokio::net::UnixStream, driver: mpsc::Sender<Event>) -> io::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(reading.take(REQUEST_BYTES_MAX)).read_line(&mut line).await?;
    if line.is_empty() {
        // Somebody looked whether we are there.
        return Ok(());
    }
    let answer = match serde_json::from_str(&line) {
        Ok(request) => ask(&driver, request).await,
        Err(error) => Answer::Error { error: format!("this is no question: {error}") },
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    writing.write_all(&text).await
}

async fn ask(driver: &mpsc::Sender<Event>, request: Request) -> Answer {
    let (reply, answer) = oneshot::channel();
    let ending = || Answer::Error { error: "the agent is ending".into() };
    if driver.send(Event::Asked { request, reply }).await.is_err() {
        return ending();
    }
    answer.await.unwrap_or_else(|_| ending())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_have_a_stable_form() {
        let request = Request::Env { task: "worker-0".into() };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"ask":"env","task":"worker-0"}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        let answer = Answer::Error { error: "no".into() };
        assert_eq!(serde_json::to_string(&answer).unwrap(), r#"{"error":{"error":"no"}}"#);
    }

    #[tokio::test]
    async fn a_root_of_any_length_can_be_listened_in() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("r".repeat(200));
        std::fs::create_dir(&root).unwrap();
        let (events, mut driver) = mpsc::channel(1);
        let server = tokio::spawn(serve(listen(&root).unwrap(), events));
        let asking = tokio::task::spawn_blocking(move || Client::connect(&root)?.ask(&Request::Status));
        match driver.recv().await.unwrap() {
            Event::Asked { request: Request::Status, reply } => {
                reply.send(Answer::Error { error: "asleep".into() }).unwrap();
            }
            _ => panic!("another event"),
        }
        assert!(matches!(asking.await.unwrap(), Err(LocalError::Refused(why)) if why == "asleep"));
        server.abort();
    }

    #[test]
    fn nobody_there_is_said_with_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let error = Client::connect(folder.path()).unwrap_err();
        assert!(error.to_string().contains("agent.sock"), "{error}");
    }
}
