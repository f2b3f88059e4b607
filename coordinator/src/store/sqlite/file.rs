//! The files around the database: the lock, the mark that there was a database, and the refusal to start empty.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::store::OpenError;

/// Beside the database from its first start on: a missing database is then known as lost.
const MARK: &str = "database-was-made";
/// What the mark says to whoever looks at it.
const MARK_TEXT: &str = "The coordinator has made its database (trainyard.db) here. Where this file is and the database is not, the\ncoordinator refuses to start: restore a backup (trainyard coordinator restore FILE), or begin anew (--init).\n";

pub(super) fn lock(folder: &Path) -> Result<Flock<File>, OpenError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { path, source }
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io(folder))?;
    let path = folder.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(io(&path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => OpenError::Locked(folder.to_owned()),
        errno => OpenError::Io { path, source: errno.into() },
    })
}

/// Makes an empty file where there never was a database. `true`: one was lost, and `init` begins anew.
pub(super) fn begin(path: &Path, init: bool) -> Result<bool, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let evidence = evidence(path);
    let empty = match fs::metadata(path) {
        Ok(metadata) if metadata.len() > 0 => {
            return if init { Err(OpenError::Exists { path: path.to_owned() }) } else { Ok(false) };
        }
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(io(error)),
    };
    match evidence {
        Some(_) if init => put_aside(path).map_err(io)?,
        // An empty file without a mark: the first start was cut off before it had made anything.
        Some(_) if empty => {
            return Err(OpenError::Damaged { path: path.to_owned(), finding: "it is empty".to_owned() });
        }
        Some(ref evidence) => {
            let (path, evidence) = (path.to_owned(), evidence.clone());
            return Err(OpenError::Missing { path, evidence });
        }
        None => {}
    }
    // Secrets are in it: nobody else may read it, whatever the umask.
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(io)?;
    Ok(evidence.is_some())
}

/// Whether a start has made the database, schema and all, at some time.
pub(super) fn was_made(path: &Path) -> bool {
    path.with_file_name(MARK).exists()
}

/// Why it is known that there was a database.
fn evidence(path: &Path) -> Option<String> {
    let beside = |name: &str| path.with_file_name(name);
    let has_entries = |path: &Path| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    if beside(MARK).exists() {
        return Some(format!("{} says that it was made", beside(MARK).display()));
    }
    if has_entries(&beside("logs")) {
        return Some(format!("there are logs of jobs in {}", beside("logs").display()));
    }
    let wal = with_suffix(path, "-wal");
    let wal_has_bytes = fs::metadata(&wal).is_ok_and(|metadata| metadata.len() > 0);
    wal_has_bytes.then(|| format!("its write-ahead log is there ({})", wal.display()))
}

/// What belongs to a database that is lost gets another name: logs of its jobs would mix with those of new ones.
fn put_aside(path: &Path) -> io::Result<()> {
    let stamp = stamp();
    let logs = path.with_file_name("logs");
    let names = [logs, path.to_owned(), with_suffix(path, "-wal"), with_suffix(path, "-shm")];
    for old in names {
        let new = with_suffix(&old, &format!(".before-{stamp}"));
        match fs::rename(&old, &new) {
            Ok(()) => tracing::warn!(old = %old.display(), new = %new.display(), "put aside"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// There is a database from now on.
pub(super) fn remember(path: &Path) -> Result<(), OpenError> {
    let mark = path.with_file_name(MARK);
    if mark.exists() {
        return Ok(());
    }
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&mark)?;
        file.write_all(MARK_TEXT.as_bytes())?;
        file.sync_all()?;
        sync_folder(&mark)
    };
    write().map_err(|source| OpenError::Io { path: mark.clone(), source })
}

/// Makes a new name of a file durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if folder != Path::new("") => File::open(folder)?.sync_all(),
        Some(_) | None => File::open(".")?.sync_all(),
    }
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Now, for names of files: `20260131T120000.123Z`, which sorts.
pub(super) fn stamp() -> String {
    jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S.%3fZ").to_string()
}
