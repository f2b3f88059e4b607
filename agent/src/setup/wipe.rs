//! Removes temporary directories of ended jobs: only below `<root>/jobs`, never through a link, never
//! into another file system, and never one that a job uses now.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::mount;

/// Directories below one another: deeper ones are left.
const DEPTH_MAX: u32 = 500;

/// Why a directory is still there.
#[derive(Debug, thiserror::Error)]
pub enum WipeError {
    /// It is not a directory of a job.
    #[error("{0} does not lie below the jobs folder of this node")]
    Outside(PathBuf),
    /// Something is mounted there.
    #[error("{0} holds a mount: {1}")]
    Mounted(PathBuf, #[source] mount::MountError),
    /// An operation failed.
    #[error("{0} cannot be removed: {1}")]
    Remove(PathBuf, #[source] io::Error),
}

/// Temporary directories of the jobs that are here now. One lock: while a directory is being removed,
/// nobody starts to use it.
#[derive(Debug, Default)]
pub(super) struct InUse(Mutex<BTreeSet<PathBuf>>);

impl InUse {
    pub(super) fn protect(&self, job_temp: &Path) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(job_temp.to_owned());
    }

    pub(super) fn unprotect(&self, job_temp: &Path) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(job_temp);
    }

    /// Calls `remove` unless the directory is in use; `None` if it is.
    pub(super) fn unless_protected<T>(&self, job_temp: &Path, remove: impl FnOnce(&Path) -> T) -> Option<T> {
        let in_use = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!in_use.contains(job_temp)).then(|| remove(job_temp))
    }
}

/// Removes one directory, and the folders above it that are empty then.
pub(super) fn remove(root: &Path, job_temp: &Path, privileged: bool) -> Result<(), WipeError> {
    let jobs = root.join("jobs");
    let inside = job_temp.strip_prefix(&jobs).ok().filter(|inside| inside.components().count() > 0);
    let Some(inside) = inside else { return Err(WipeError::Outside(job_temp.to_owned())) };
    if privileged {
        for target in mount::below(job_temp) {
            mount::hide(&target).map_err(|error| WipeError::Mounted(job_temp.to_owned(), error))?;
        }
    }
    let failed = |errno: Errno| WipeError::Remove(job_temp.to_owned(), errno.into());
    let (Some(parent), Some(name)) = (inside.parent(), inside.file_name()) else {
        return Err(WipeError::Outside(job_temp.to_owned()));
    };
    let jobs = match open_folder(nix::fcntl::AT_FDCWD, &jobs, ResolveFlag::empty()) {
        Ok(jobs) => jobs,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(failed(errno)),
    };
    let beneath =
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let parent_name = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    match open_folder(&jobs, parent_name, beneath) {
        Ok(folder) => remove_entry(&folder, name, DEPTH_MAX).map_err(failed)?,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(failed(errno)),
    }
    for folder in parent.ancestors().filter(|folder| !folder.as_os_str().is_empty()) {
        // Folders of workspaces and experiments; it stops at the first that another job uses.
        if unlinkat(&jobs, folder, UnlinkatFlags::RemoveDir).is_err() {
            break;
        }
    }
    Ok(())
}

fn open_folder<Fd: AsFd>(at: Fd, path: &Path, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat2(at, path, OpenHow::new().flags(flags).resolve(resolve))
}

/// Removes one entry of an open folder, by name in that folder: no path is walked twice.
fn remove_entry(folder: &OwnedFd, name: &OsStr, depth: u32) -> nix::Result<()> {
    let kind = match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(found) => SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    if kind != SFlag::S_IFDIR {
        return unlinkat(folder, name, UnlinkatFlags::NoRemoveDir);
    }
    let depth = depth.checked_sub(1).ok_or(Errno::ENAMETOOLONG)?;
    let beneath =
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let inner = match open_folder(folder, Path::new(name), beneath) {
        // A job may take every right from its own folder.
        Err(Errno::EACCES) => {
            give_back_rights(folder, name, beneath)?;
            open_folder(folder, Path::new(name), beneath)?
        }
        other => other?,
    };
    let mut entries = Vec::new();
    for entry in Dir::from_fd(inner.try_clone().map_err(|_| Errno::EMFILE)?)?.iter() {
        let entry = entry?;
        let entry_name = entry.file_name().to_bytes();
        if entry_name != b"." && entry_name != b".." {
            entries.push(OsStr::from_bytes(entry_name).to_owned());
        }
    }
    for entry in entries {
        remove_entry(&inner, &entry, depth)?;
    }
    unlinkat(folder, name, UnlinkatFlags::RemoveDir)
}

/// By a handle of the folder itself, so that no link can stand in for it meanwhile.
fn give_back_rights(folder: &OwnedFd, name: &OsStr, resolve: ResolveFlag) -> nix::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let handle = openat2(folder, Path::new(name), OpenHow::new().flags(flags).resolve(resolve))?;
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
        .map_err(|error| error.raw_os_error().map_or(Errno::EACCES, Errno::from_raw))
}
