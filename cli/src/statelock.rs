//! The lock of a state directory: who keeps a coordinator there, where it listens, and whether it still lives.
//!
//! The kernel drops the lock with its process, so a file left by a killed one is never taken for a live one.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

const FILE: &str = "up.lock";
/// Between two looks whether a process has dropped its lock: the kernel tells nobody.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What the keeper of a state directory has written into its lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Keeper {
    /// Its process.
    pub(crate) pid: i32,
    /// When that process started, in the kernel's ticks since boot: tells a later process with its number.
    pub(crate) start_ticks: u64,
    /// Where its coordinator listens; empty while it starts.
    pub(crate) coordinator: String,
}

/// This process keeps the state directory.
#[derive(Debug)]
pub(crate) struct StateLock {
    file: Flock<File>,
}

impl StateLock {
    /// Takes the lock, or says who has it.
    pub(crate) fn take(state_dir: &Path) -> anyhow::Result<StateLock> {
        let file = open(state_dir)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => {
                let mut lock = StateLock { file };
                lock.write("")?;
                Ok(lock)
            }
            Err((mut file, Errno::EWOULDBLOCK)) => match read(&mut file) {
                Some(keeper) => bail!(
                    "{} is in use by process {} ({}); stop it with: trainyard down --state-dir {}",
                    state_dir.display(),
                    keeper.pid,
                    if keeper.coordinator.is_empty() { "starting" } else { &keeper.coordinator },
                    state_dir.display()
                ),
                None => bail!("{} is in use by another process", state_dir.display()),
            },
            Err((_, errno)) => {
                Err(errno).with_context(|| format!("locking {}", state_dir.join(FILE).display()))
            }
        }
    }

    /// Writes down where the coordinator listens.
    pub(crate) fn listening(&mut self, coordinator: &str) -> anyhow::Result<()> {
        self.write(coordinator)
    }

    fn write(&mut self, coordinator: &str) -> anyhow::Result<()> {
        let pid = i32::try_from(std::process::id()).context("a process number")?;
        let keeper = Keeper {
            pid,
            start_ticks: start_ticks(pid).context("reading the start time of this process")?,
            coordinator: coordinator.to_owned(),
        };
        let text = serde_json::to_vec(&keeper).context("writing JSON")?;
        let write = |file: &mut File| -> std::io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(&text)
        };
        write(&mut self.file).with_context(|| format!("writing {FILE}"))
    }
}

/// The process that keeps the state directory; `None` if none does.
pub(crate) fn keeper(state_dir: &Path) -> anyhow::Result<Option<Keeper>> {
    let path = state_dir.join(FILE);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("opening {}", path.display())),
    };
    let keeper = read(&mut file);
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        // Nobody holds it: whoever wrote it is gone. The lock goes with the file's handle.
        Ok(_) => Ok(None),
        Err((_, Errno::EWOULDBLOCK)) => {
            let keeper =
                keeper.with_context(|| format!("{} is locked and says not by whom", path.display()))?;
            if start_ticks(keeper.pid) != Some(keeper.start_ticks) {
                bail!("{} is locked by another process than it says ({})", path.display(), keeper.pid);
            }
            Ok(Some(keeper))
        }
        Err((_, errno)) => Err(errno).with_context(|| format!("locking {}", path.display())),
    }
}

/// Asks the keeper to end, and waits until it has.
pub(crate) fn stop(state_dir: &Path, keeper: &Keeper, patience: Duration) -> anyhow::Result<()> {
    match kill(Pid::from_raw(keeper.pid), Signal::SIGTERM) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => return Err(errno).with_context(|| format!("stopping process {}", keeper.pid)),
    }
    let deadline = Instant::now() + patience;
    while self::keeper(state_dir).unwrap_or(None).as_ref() == Some(keeper) {
        if Instant::now() > deadline {
            bail!("process {} has not ended after {} seconds", keeper.pid, patience.as_secs());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

fn open(state_dir: &Path) -> anyhow::Result<File> {
    let path = state_dir.join(FILE);
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))
}

fn read(file: &mut File) -> Option<Keeper> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// Field 22 of `/proc/PID/stat`; the name before it may hold anything, so the last `)` counts.
fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_names_its_keeper_and_dies_with_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(keeper(dir.path()).unwrap(), None);
        let mut lock = StateLock::take(dir.path()).unwrap();
        lock.listening("http://127.0.0.1:1").unwrap();
        let found = keeper(dir.path()).unwrap().unwrap();
        assert_eq!(found.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(found.coordinator, "http://127.0.0.1:1");
        let refused = StateLock::take(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("trainyard down"), "{refused}");
        drop(lock);
        assert_eq!(keeper(dir.path()).unwrap(), None);
        StateLock::take(dir.path()).unwrap();
    }
}
