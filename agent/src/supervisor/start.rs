//! Starts a shim. Only in ways that std turns into posix_spawn: an absolute path, no user, no closure to run
//! in the child. A fork of a large agent costs ten times as much; what needs rights is the shim's work.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use trainyard_core::id::AttemptId;

use super::rundir::{RunDir, boot_id};
use super::{LaunchError, SupervisorConfig};

/// A shim that waits for its launch.
pub(super) struct NewShim {
    pub(super) stream: UnixStream,
    pub(super) child: Child,
}

/// Makes run directory, cgroups and socket, and starts the shim. Blocks for about a millisecond.
pub(super) fn start_shim(config: &SupervisorConfig, attempt: AttemptId) -> Result<NewShim, LaunchError> {
    let run_dir = RunDir::of(&config.run_dir, attempt);
    run_dir.create().map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => LaunchError::AlreadyLaunched(attempt),
        _ => LaunchError::RunDir { path: run_dir.path().to_owned(), source },
    })?;
    config.cgroups.of(attempt).create(config.limits).map_err(LaunchError::Cgroup)?;
    let listen = |source| LaunchError::Listen { path: run_dir.path().to_owned(), source };
    let listener = run_dir.listen().map_err(listen)?;
    // Into the backlog, before the shim is there: if this process dies now, the shim sees a closed connection.
    let stream = run_dir.connect().map_err(listen)?;
    let spawn = |source| LaunchError::Spawn { path: config.shim.clone(), source };
    let mut command = Command::new(&config.shim);
    command
        .arg(attempt.to_string())
        .arg(boot_id())
        .env_clear()
        .current_dir(run_dir.path())
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = spawn_patiently(&mut command).map_err(spawn)?;
    Ok(NewShim { stream, child })
}

/// A process that another thread is just starting may hold the executable open for writing for a moment.
fn spawn_patiently(command: &mut Command) -> io::Result<Child> {
    for _ in 0..50 {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(1));
            }
            done => return done,
        }
    }
    command.spawn()
}
