//! A backup in the place of the database. The database that was there is kept under another name.
//!
//! The restored one is marked: the next coordinator decides nothing before an operator has looked at what the
//! agents hold (`core::coordinator::recovery`).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::backup::{self, BackedUp, BackupError};
use super::{database, file, open};
use crate::store::OpenError;

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// The database.
    pub database: PathBuf,
    /// What it holds.
    #[serde(flatten)]
    pub holds: BackedUp,
    /// Where the database is that was there before; absent: there was none.
    pub replaced: Option<PathBuf>,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The coordinator runs, or its folder cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The backup cannot be used.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// There is no such file.
    #[error("there is no file {0}")]
    NoFile(PathBuf),
    /// It is the database itself.
    #[error("{0} is the database itself, not a backup of it")]
    Itself(PathBuf),
    /// A name could not be given or taken.
    #[error("{path} cannot be put in its place")]
    Io {
        /// It.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Puts a verified copy of `from` into this folder (a coordinator's own) as its database.
///
/// # Errors
/// [`RestoreError`]; before the last step nothing has changed.
pub fn restore(folder: &Path, from: &Path) -> Result<Restored, RestoreError> {
    if !from.is_file() {
        return Err(RestoreError::NoFile(from.to_owned()));
    }
    let path = database(folder);
    // Held to the end: no coordinator starts meanwhile.
    let _lock = file::lock(folder)?;
    let same = |a: &Path, b: &Path| fs::canonicalize(a).ok() == fs::canonicalize(b).ok();
    if path.exists() && same(&path, from) {
        return Err(RestoreError::Itself(path));
    }
    let new = file::with_suffix(&path, ".new");
    let made = backup::copy(from, &new, |copy| open::set_meta(copy, "restored", "from a backup"));
    let put = made.map_err(RestoreError::from).and_then(|holds| {
        let replaced = put_in_place(folder, &path, &new)?;
        let holds = BackedUp { file: from.to_owned(), ..holds };
        Ok(Restored { database: path, holds, replaced })
    });
    if put.is_err() {
        backup::remove(&new);
    }
    put
}

fn put_in_place(folder: &Path, path: &Path, new: &Path) -> Result<Option<PathBuf>, RestoreError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| RestoreError::Io { path, source }
    };
    own_as(new, folder).map_err(io(new))?;
    backup::sync(new).map_err(io(new))?;
    let replaced = put_aside(path).map_err(io(path))?;
    fs::rename(new, path).map_err(io(path))?;
    file::sync_folder(path).map_err(io(path))?;
    file::remember(path)?;
    Ok(replaced)
}

/// Restored by root, it still is the coordinator's own.
fn own_as(new: &Path, folder: &Path) -> io::Result<()> {
    let (owner, is) = (fs::metadata(folder)?, fs::metadata(new)?);
    if (owner.uid(), owner.gid()) == (is.uid(), is.gid()) {
        return Ok(());
    }
    std::os::unix::fs::chown(new, Some(owner.uid()), Some(owner.gid()))
}

/// Database, write-ahead log and shared memory get one new name, in this order: cut off between two of them, a
/// start finds no database and refuses, and a second restore goes on.
fn put_aside(path: &Path) -> io::Result<Option<PathBuf>> {
    let aside = file::with_suffix(path, &format!(".replaced-{}", file::stamp()));
    let mut replaced = None;
    for suffix in ["", "-wal", "-shm"] {
        let new = file::with_suffix(&aside, suffix);
        match fs::rename(file::with_suffix(path, suffix), &new) {
            Ok(()) => replaced = replaced.or(Some(aside.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    file::sync_folder(path)?;
    Ok(replaced)
}
