//! Starts, finds again, signals and watches shims: one per attempt, each a process of its own that outlives
//! this one. Nothing here signals a task unless it is told to stop it; dropping a [`Supervisor`] leaves every
//! attempt running.
//!
//! One task per attempt: `live` talks with its shim; `orphan` takes over by cgroup (or session) where the shim
//! was killed. `start` makes a shim; `rundir`, `cgroup` and `process` are what they stand on; `reaper` is a
//! thread that collects ended shims.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use nix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use trainyard_core::id::AttemptId;
use trainyard_core::plan::Command;
use trainyard_core::shim::{BootMs, ExitRecord, FromShim, Launch, Started, Step, ToShim};
use trainyard_core::unit::WallMs;

mod binary;
mod cgroup;
mod live;
mod orphan;
mod process;
mod reaper;
mod rundir;
mod start;
mod sys;

pub use binary::write_shim;
pub use cgroup::{AttemptCgroups, AttemptLimits, CgroupMode, CgroupRoots};

use live::Live;
use orphan::{Orphan, Tracked};
use rundir::{Marker, RunDir};

/// Orders that wait for an attempt's task. More means that its shim is stuck; see [`SignalError::Busy`].
const ORDERS_MAX: usize = 64;

/// What a supervisor needs to know.
#[derive(Clone, Debug)]
pub struct SupervisorConfig {
    /// Where attempts have their run directories, absolute; made if missing, 0700.
    pub run_dir: PathBuf,
    /// The shim's executable, absolute; see [`write_shim`].
    pub shim: PathBuf,
    /// See [`CgroupMode::detect`].
    pub cgroups: CgroupMode,
    /// Of each attempt.
    pub limits: AttemptLimits,
}

/// What happens to attempts. Each kind comes at most once per attempt and supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShimEvent {
    /// It runs. Sent by [`Supervisor::launch`] just before it returns; not after an adoption.
    Started {
        /// Which.
        attempt: AttemptId,
        /// What.
        started: Started,
    },
    /// It has ended and nothing of it is left. The record is in its file, but not yet synced.
    Ended {
        /// Which.
        attempt: AttemptId,
        /// How.
        record: ExitRecord,
    },
    /// It survives SIGKILL for a minute already. It has not ended: `Ended` follows if it ever does.
    Unkillable {
        /// Which.
        attempt: AttemptId,
    },
}

/// What an agent finds of an attempt of its predecessor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// It runs, or what is left of it is being ended; `Ended` follows. `None`: what runs cannot be told.
    Running(Option<Started>),
    /// It has ended, and nothing of it is left.
    Ended(ExitRecord),
    /// It was launched, but its program was never started.
    NeverStarted,
    /// It ran, nothing of it is left, and nobody saw how it ended. The record says so, and is kept.
    Lost(ExitRecord),
}

/// An attempt was not started. Nothing of it is left running, and it can never be launched again.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// It was launched before.
    #[error("attempt {0} was launched before")]
    AlreadyLaunched(AttemptId),
    /// Its run directory.
    #[error("cannot make the run directory {path}")]
    RunDir {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its cgroups.
    #[error("cannot make the cgroups of the attempt")]
    Cgroup(#[source] io::Error),
    /// Its socket.
    #[error("cannot listen in {path}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The shim could not be started.
    #[error("cannot start the shim {path}")]
    Spawn {
        /// The executable.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The shim was killed before it said what it did. The program may have run for a moment.
    #[error("the shim ended before it said whether the program runs")]
    ShimDied,
    /// The shim could not start the program.
    #[error("{step}{}", object(.on))]
    Refused {
        /// What did not work.
        step: Step,
        /// On what; may be empty.
        on: String,
        /// Why.
        source: io::Error,
    },
}

impl LaunchError {
    /// The error and its causes in one line.
    #[must_use]
    pub fn in_words(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}

fn object(on: &str) -> String {
    if on.is_empty() { String::new() } else { format!(" {on}") }
}

/// An order did not reach an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignalError {
    /// It has ended, or was never launched or adopted here.
    #[error("attempt {0} does not run here")]
    NotRunning(AttemptId),
    /// Many orders wait already: its shim is stuck, and is dealt with.
    #[error("the shim of attempt {0} takes no orders")]
    Busy(AttemptId),
}

/// An order to an attempt's task.
#[derive(Clone, Copy, Debug)]
enum Order {
    Stop { grace_ms: u64 },
    Renew(Option<BootMs>),
}

/// What the tasks of a supervisor share.
struct Shared {
    config: SupervisorConfig,
    events: mpsc::UnboundedSender<ShimEvent>,
    attempts: Mutex<BTreeMap<AttemptId, mpsc::Sender<Order>>>,
    reaper: std::sync::mpsc::Sender<std::process::Child>,
}

/// The attempts of one agent.
pub struct Supervisor {
    shared: Arc<Shared>,
    /// Here and not in `Shared`, which the tasks hold: dropping the supervisor ends them.
    tasks: Mutex<JoinSet<()>>,
}

impl Supervisor {
    /// A supervisor that knows of no attempt yet: [`Supervisor::adopt`] each of [`Supervisor::list`].
    ///
    /// The events' channel has no bound: it holds at most three events per attempt.
    ///
    /// # Errors
    /// The run directory or the reaper's thread cannot be made.
    pub fn new(config: SupervisorConfig, events: mpsc::UnboundedSender<ShimEvent>) -> io::Result<Supervisor> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.run_dir)?;
        let shared = Shared { config, events, attempts: Mutex::default(), reaper: reaper::spawn()? };
        Ok(Supervisor { shared: Arc::new(shared), tasks: Mutex::default() })
    }

    /// Starts an attempt. Many at once are fine. If the returned future is dropped before its end, the attempt
    /// may run without being watched, until it is adopted.
    ///
    /// # Errors
    /// See [`LaunchError`]; no event follows then.
    pub async fn launch(&self, launch: Launch) -> Result<Started, LaunchError> {
        let attempt = launch.attempt;
        let orders = self.shared.register(attempt).ok_or(LaunchError::AlreadyLaunched(attempt))?;
        match self.try_launch(launch).await {
            Ok((live, started)) => {
                self.shared.send(ShimEvent::Started { attempt, started });
                self.spawn(live.run(self.shared.clone(), orders));
                Ok(started)
            }
            Err(error) => {
                self.shared.unregister(attempt);
                Err(error)
            }
        }
    }

    async fn try_launch(&self, launch: Launch) -> Result<(Live, Started), LaunchError> {
        let attempt = launch.attempt;
        let shared = self.shared.clone();
        // Making a process takes about a millisecond: off the threads that run everything else.
        let made = tokio::task::spawn_blocking(move || start::start_shim(&shared.config, attempt));
        let shim = made.await.unwrap_or(Err(LaunchError::ShimDied))?;
        let (argv0, cwd, stdout) = (launch.argv.first().cloned(), launch.cwd.clone(), launch.stdout.clone());
        let mut live = Live::new(attempt, shim, launch.deadline).map_err(|_| LaunchError::ShimDied)?;
        match live.begin(launch, &self.shared.config.cgroups.of(attempt)).await {
            Some(FromShim::Started(started)) => Ok((live, started)),
            Some(FromShim::Failed(failed)) => {
                self.shared.reap(live.into_child());
                let on = match failed.step {
                    Step::Exec => argv0.unwrap_or_default(),
                    Step::Directory => cwd,
                    Step::Spool => stdout,
                    Step::Fence | Step::Marker | Step::Fork | Step::Cgroup | Step::Session | Step::Rights => {
                        Vec::new()
                    }
                };
                let on = String::from_utf8_lossy(&on).into_owned();
                Err(LaunchError::Refused {
                    step: failed.step,
                    on,
                    source: io::Error::from_raw_os_error(failed.errno),
                })
            }
            Some(FromShim::Running(_) | FromShim::Unkillable | FromShim::Exited(_)) | None => {
                self.shared.reap(live.into_child());
                self.shared.tracked(attempt).end_all().await;
                Err(LaunchError::ShimDied)
            }
        }
    }

    /// Finds an attempt of a predecessor again. Sends no signal to anything that may still be wanted.
    pub async fn adopt(&self, attempt: AttemptId) -> Adopted {
        let run_dir = self.shared.run_dir(attempt);
        let Some(orders) = self.shared.register(attempt) else {
            return Adopted::Running(run_dir.marker().started());
        };
        let adopted = match Live::connect(attempt, &run_dir).await {
            Some((live, answer)) => self.adopt_live(live, answer, orders),
            None => self.adopt_without_shim(attempt, &run_dir, orders),
        };
        if !matches!(adopted, Adopted::Running(_)) {
            self.shared.unregister(attempt);
        }
        adopted
    }

    fn adopt_live(&self, live: Live, answer: live::Answer, orders: mpsc::Receiver<Order>) -> Adopted {
        match answer {
            live::Answer::Ended(record) if record.cause == trainyard_core::shim::Cause::NotStarted => {
                Adopted::NeverStarted
            }
            live::Answer::Ended(record) => Adopted::Ended(record),
            live::Answer::Running(started) => {
                self.spawn(live.run(self.shared.clone(), orders));
                Adopted::Running(started)
            }
        }
    }

    fn adopt_without_shim(
        &self,
        attempt: AttemptId,
        run_dir: &RunDir,
        orders: mpsc::Receiver<Order>,
    ) -> Adopted {
        let (record, marker) = (run_dir.exit_record(), run_dir.marker());
        if !self.shared.tracked(attempt).is_empty() {
            let orphan = Orphan::found(attempt, marker.started(), record);
            self.spawn(orphan.run(self.shared.clone(), orders));
            return Adopted::Running(marker.started());
        }
        match (record, marker) {
            (Some(record), _) if record.cause == trainyard_core::shim::Cause::NotStarted => {
                Adopted::NeverStarted
            }
            (Some(record), _) => Adopted::Ended(record),
            (None, Marker::Absent) => Adopted::NeverStarted,
            (None, Marker::Tried | Marker::Started(_)) => self.lost(attempt, marker, orphan::UNSEEN),
            (None, Marker::BeforeBoot(_)) => self.lost(attempt, marker, "the machine was restarted"),
        }
    }

    fn lost(&self, attempt: AttemptId, marker: Marker, reason: &str) -> Adopted {
        Adopted::Lost(self.shared.keep(orphan::lost(attempt, marker.started(), wall_now(), reason)))
    }

    /// Asks an attempt to end: SIGTERM, after the grace SIGKILL. `Ended` follows.
    ///
    /// # Errors
    /// See [`SignalError`].
    pub fn stop(&self, attempt: AttemptId, grace_ms: u64) -> Result<(), SignalError> {
        self.shared.order(attempt, Order::Stop { grace_ms })
    }

    /// Moves the fence of an attempt; `None` lifts it.
    ///
    /// # Errors
    /// See [`SignalError`].
    pub fn renew(&self, attempt: AttemptId, deadline: Option<BootMs>) -> Result<(), SignalError> {
        self.shared.order(attempt, Order::Renew(deadline))
    }

    /// Removes everything of an ended attempt: run directory and cgroups.
    ///
    /// # Errors
    /// A process is left in a cgroup, or what the file system says. The run directory goes last, so that a
    /// later try finds the attempt.
    pub async fn forget(&self, attempt: AttemptId) -> io::Result<()> {
        let groups = self.shared.config.cgroups.of(attempt);
        let run_dir = self.shared.run_dir(attempt);
        // The kernel holds a group for a moment after its last process was reaped.
        for pause_ms in [2, 8, 32, 128, 512] {
            match groups.remove() {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    tokio::time::sleep(std::time::Duration::from_millis(pause_ms)).await;
                }
                Ok(()) | Err(_) => break,
            }
        }
        groups.remove()?;
        tokio::task::spawn_blocking(move || run_dir.remove()).await.map_err(io::Error::other)?
    }

    /// The attempts that have a run directory, in order.
    ///
    /// # Errors
    /// What the file system says.
    pub fn list(&self) -> io::Result<Vec<AttemptId>> {
        rundir::list(&self.shared.config.run_dir)
    }

    /// The groups of an attempt; none at all without cgroups.
    #[must_use]
    pub fn cgroup_paths(&self, attempt: AttemptId) -> AttemptCgroups {
        self.shared.config.cgroups.of(attempt)
    }

    /// The processes of an attempt, in order; empty if it does not run.
    #[must_use]
    pub fn processes(&self, attempt: AttemptId) -> Vec<u32> {
        self.shared.tracked(attempt).members().into_iter().collect()
    }

    /// Where the exit record of an attempt stands once it has ended: to be synced before anybody is told.
    #[must_use]
    pub fn exit_record_path(&self, attempt: AttemptId) -> PathBuf {
        self.shared.run_dir(attempt).exit_path()
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

impl Shared {
    fn run_dir(&self, attempt: AttemptId) -> RunDir {
        RunDir::of(&self.config.run_dir, attempt)
    }

    /// How the processes of an attempt are found without its shim.
    fn tracked(&self, attempt: AttemptId) -> Tracked {
        match &self.config.cgroups {
            CgroupMode::Kept(_) => Tracked::Groups(self.config.cgroups.of(attempt)),
            CgroupMode::None { .. } => match self.run_dir(attempt).marker() {
                Marker::Started(started) => Tracked::Session(started),
                Marker::Absent | Marker::Tried | Marker::BeforeBoot(_) => Tracked::Nothing,
            },
        }
    }

    fn attempts(&self) -> MutexGuard<'_, BTreeMap<AttemptId, mpsc::Sender<Order>>> {
        // Each change of the map is one call, so a panic elsewhere leaves it whole.
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` if the attempt is here already.
    fn register(&self, attempt: AttemptId) -> Option<mpsc::Receiver<Order>> {
        let mut attempts = self.attempts();
        if attempts.contains_key(&attempt) {
            return None;
        }
        let (sender, receiver) = mpsc::channel(ORDERS_MAX);
        attempts.insert(attempt, sender);
        Some(receiver)
    }

    fn unregister(&self, attempt: AttemptId) {
        self.attempts().remove(&attempt);
    }

    fn order(&self, attempt: AttemptId, order: Order) -> Result<(), SignalError> {
        use mpsc::error::TrySendError;
        let sender = self.attempts().get(&attempt).cloned().ok_or(SignalError::NotRunning(attempt))?;
        sender.try_send(order).map_err(|error| match error {
            TrySendError::Full(_) => SignalError::Busy(attempt),
            TrySendError::Closed(_) => SignalError::NotRunning(attempt),
        })
    }

    fn send(&self, event: ShimEvent) {
        // Nobody listens any more: the agent is ending, and its successor adopts.
        drop(self.events.send(event));
    }

    fn ended(&self, attempt: AttemptId, record: ExitRecord) {
        self.unregister(attempt);
        self.send(ShimEvent::Ended { attempt, record });
    }

    /// Puts a record in place that no shim can write any more.
    fn keep(&self, record: ExitRecord) -> ExitRecord {
        if let Err(error) = self.run_dir(record.attempt).write_exit_record(&record) {
            tracing::warn!(attempt = %record.attempt, %error, "cannot keep the exit record");
        }
        record
    }

    fn reap(&self, child: Option<std::process::Child>) {
        if let Some(child) = child {
            // The thread ends only with the last sender.
            drop(self.reaper.send(child));
        }
    }
}

/// The launch of a planned command with its output in these spool files, as the user that the agent is.
#[must_use]
pub fn launch_of(
    attempt: AttemptId,
    command: &Command,
    stdout: &std::path::Path,
    stderr: &std::path::Path,
    deadline: Option<BootMs>,
) -> Launch {
    use std::os::unix::ffi::OsStrExt;
    let bytes = |text: &str| text.as_bytes().to_vec();
    let open = command.env.iter().filter(|(name, _)| !command.secret_env.contains_key(*name));
    let open = open.map(|(name, value)| (bytes(name), bytes(value)));
    let secret = command.secret_env.iter().map(|(name, value)| (bytes(name), bytes(value.expose())));
    Launch {
        attempt,
        argv: command.argv.iter().map(|argument| bytes(argument)).collect(),
        env: open.chain(secret).collect(),
        cwd: bytes(&command.cwd),
        stdout: stdout.as_os_str().as_bytes().to_vec(),
        stderr: stderr.as_os_str().as_bytes().to_vec(),
        credentials: None,
        deadline,
        umask: 0o022,
    }
}

/// The boot-time clock, which fences are set by.
#[must_use]
pub fn boot_now() -> BootMs {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had this clock since 2.6.39");
    BootMs(now.tv_sec().unsigned_abs() * 1000 + now.tv_nsec().unsigned_abs() / 1_000_000)
}

fn wall_now() -> WallMs {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    WallMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

impl From<Order> for ToShim {
    fn from(order: Order) -> ToShim {
        match order {
            Order::Stop { grace_ms } => ToShim::Stop { grace_ms },
            Order::Renew(deadline) => ToShim::Renew(deadline),
        }
    }
}
