//! The run directory of an attempt: one folder per attempt, made once, so that an attempt starts at most once.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{fs, io};

use trainyard_core::id::AttemptId;
use trainyard_core::shim::{EXIT_FILE, EXIT_TEMPORARY_FILE, ExitRecord, SOCKET_FILE, STARTED_FILE, Started};

/// One attempt's run directory.
#[derive(Clone, Debug)]
pub(super) struct RunDir {
    path: PathBuf,
}

/// What is known of an attempt's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    /// The program was never tried.
    Absent,
    /// It was tried; the shim was killed before it wrote what became of it.
    Tried,
    /// It was started.
    Started(Started),
    /// It was started before the machine was: nothing of it can be left, and its numbers mean nothing now.
    BeforeBoot(Started),
}

impl Marker {
    /// What was started, if that is known.
    pub(super) fn started(self) -> Option<Started> {
        match self {
            Marker::Started(started) | Marker::BeforeBoot(started) => Some(started),
            Marker::Absent | Marker::Tried => None,
        }
    }
}

impl RunDir {
    pub(super) fn of(parent: &Path, attempt: AttemptId) -> RunDir {
        RunDir { path: parent.join(attempt.to_string()) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn exit_path(&self) -> PathBuf {
        self.path.join(EXIT_FILE)
    }

    /// Makes it; fails if it is there.
    pub(super) fn create(&self) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(&self.path)
    }

    /// Listens on its socket.
    pub(super) fn listen(&self) -> io::Result<UnixListener> {
        let (_dir, path) = self.short_socket_path()?;
        UnixListener::bind(path)
    }

    /// Connects to whoever listens.
    pub(super) fn connect(&self) -> io::Result<std::os::unix::net::UnixStream> {
        let (_dir, path) = self.short_socket_path()?;
        std::os::unix::net::UnixStream::connect(path)
    }

    /// The kernel takes paths of sockets up to 107 bytes only; this one is short wherever the folder stands.
    fn short_socket_path(&self) -> io::Result<(OwnedFd, String)> {
        let mut options = fs::OpenOptions::new();
        options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY);
        let dir = OwnedFd::from(options.open(&self.path)?);
        let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", dir.as_raw_fd());
        Ok((dir, path))
    }

    /// The exit record; `None` if there is none. One that cannot be read counts as none, and is said in the log.
    pub(super) fn exit_record(&self) -> Option<ExitRecord> {
        let text = match fs::read_to_string(self.exit_path()) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %self.exit_path().display(), %error, "cannot read an exit record");
                return None;
            }
        };
        ExitRecord::parse(&text)
            .inspect_err(
                |error| tracing::warn!(path = %self.exit_path().display(), %error, "bad exit record"),
            )
            .ok()
    }

    /// Puts a record in place for an attempt whose shim can no longer do it.
    pub(super) fn write_exit_record(&self, record: &ExitRecord) -> io::Result<()> {
        let temporary = self.path.join(EXIT_TEMPORARY_FILE);
        fs::write(&temporary, record.to_string())?;
        fs::rename(temporary, self.exit_path())
    }

    pub(super) fn marker(&self) -> Marker {
        match fs::read_to_string(self.path.join(STARTED_FILE)) {
            Err(_) => Marker::Absent,
            Ok(text) => match text.split_once('\n') {
                Some((boot, line)) => match Started::parse(line) {
                    Some(started) if boot == boot_id() => Marker::Started(started),
                    Some(started) => Marker::BeforeBoot(started),
                    None => Marker::Tried,
                },
                None => Marker::Tried,
            },
        }
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

/// The attempts that have a run directory, in order.
pub(super) fn list(parent: &Path) -> io::Result<Vec<AttemptId>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(parent)? {
        found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<AttemptId>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Which boot of the machine this is.
pub(super) fn boot_id() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.trim().to_owned()
    })
}
