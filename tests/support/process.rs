//! Processes as `/proc` shows them, found by the path of a sandbox that they carry.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its parent.
    pub parent: i32,
    /// `R`, `S`, `D`, `Z`, ...
    pub state: char,
    /// When it started, ticks since boot: with the number it names a process for good.
    pub start_ticks: u64,
    /// The first 15 bytes of its program's name.
    pub name: String,
    /// Its arguments, NUL between them.
    pub arguments: Vec<u8>,
    /// Its environment, NUL between variables; empty if it may not be read.
    pub environment: Vec<u8>,
    /// Its working directory, if it may be read.
    pub directory: Option<PathBuf>,
    /// Lines of its `cgroup` file.
    pub cgroups: Vec<String>,
}

impl Process {
    /// The process of this number; `None`: there is none.
    #[must_use]
    pub fn of(pid: i32) -> Option<Process> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        let (before, after) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let cgroups = fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
        Some(Process {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            state: fields.first()?.chars().next()?,
            start_ticks: fields.get(19)?.parse().ok()?,
            name: before.split_once('(')?.1.to_owned(),
            arguments: fs::read(folder.join("cmdline")).unwrap_or_default(),
            environment: fs::read(folder.join("environ")).unwrap_or_default(),
            directory: fs::read_link(folder.join("cwd")).ok(),
            cgroups: cgroups.lines().map(str::to_owned).collect(),
        })
    }

    /// Whether it still is the process that it was.
    #[must_use]
    pub fn lives(&self) -> bool {
        Process::of(self.pid).is_some_and(|now| now.start_ticks == self.start_ticks && now.state != 'Z')
    }

    fn carries(&self, path: &Path) -> bool {
        let bytes = path.as_os_str().as_bytes();
        let holds = |text: &[u8]| text.windows(bytes.len()).any(|window| window == bytes);
        holds(&self.arguments)
            || holds(&self.environment)
            || self.directory.as_ref().is_some_and(|directory| directory.starts_with(path))
    }
}

/// Every process of this machine.
#[must_use]
pub fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(Process::of).collect()
}

/// Every process, this one excepted, that carries this path in its arguments, environment or directory.
#[must_use]
pub fn processes_of(path: &Path) -> Vec<Process> {
    let own = i32::try_from(std::process::id()).expect("process numbers are small");
    processes().into_iter().filter(|process| process.pid != own && process.carries(path)).collect()
}

/// Sends a signal; a process that is gone is no error.
///
/// # Panics
/// It may not be sent.
pub fn signal(pid: i32, signal: Signal) {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => panic!("{signal} to {pid}: {errno}"),
    }
}
