//! Directories of the node shown at another place: bind mounts as root, symbolic links without.
//!
//! A mount point is never mounted over: what is there already was left by an agent that died, and goes
//! first. `/proc/self/mountinfo` tells, not a memory of our own.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use trainyard_core::plan::task::HostMount;

/// Why a directory cannot be shown, or not be hidden.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The directory to show.
    #[error("mount source {0} cannot be used: {1}")]
    Source(String, #[source] io::Error),
    /// The place to show it at.
    #[error("mount point {0} cannot be made: {1}")]
    Target(String, #[source] io::Error),
    /// Read-only without the right to mount.
    #[error(
        "{0} cannot be shown read-only: that needs a mount, and this agent does not run as root; drop `readOnly` or run the agent as root"
    )]
    ReadOnly(String),
    /// The kernel refuses.
    #[error("{0} cannot be mounted: {1}")]
    Mount(String, #[source] Errno),
    /// The kernel refuses.
    #[error("{0} cannot be unmounted: {1}")]
    Unmount(PathBuf, #[source] Errno),
    /// A link cannot be removed.
    #[error("link {0} cannot be removed: {1}")]
    Link(PathBuf, #[source] io::Error),
}

/// Shows `source` at `target`. May hang where `source` lies on a dead server.
pub(super) fn show(plan: &HostMount, privileged: bool) -> Result<(), MountError> {
    let source = std::fs::metadata(&plan.source).and_then(|found| {
        if found.is_dir() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::NotADirectory)) }
    });
    source.map_err(|error| MountError::Source(plan.source.clone(), error))?;
    let target = Path::new(&plan.target);
    hide(target)?;
    if privileged {
        return bind(plan);
    }
    if plan.read_only {
        return Err(MountError::ReadOnly(plan.source.clone()));
    }
    let made = || -> io::Result<()> {
        if let Some(parent) = target.parent() {
            super::make_directory(parent)?;
        }
        std::os::unix::fs::symlink(&plan.source, target)
    };
    made().map_err(|error| MountError::Target(plan.target.clone(), error))
}

fn bind(plan: &HostMount) -> Result<(), MountError> {
    let target = Path::new(&plan.target);
    super::make_directory(target).map_err(|error| MountError::Target(plan.target.clone(), error))?;
    let refused = |errno| MountError::Mount(plan.source.clone(), errno);
    let none = None::<&str>;
    mount(Some(plan.source.as_str()), target, none, MsFlags::MS_BIND, none).map_err(refused)?;
    // The first call takes no options: the kernel ignores them on a bind.
    let mut options = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    if plan.read_only {
        options |= MsFlags::MS_RDONLY;
    }
    let limited = mount(none, target, none, options, none);
    limited.map_err(|errno| {
        let undone = hide(target);
        undone.err().unwrap_or(MountError::Mount(plan.source.clone(), errno))
    })
}

/// Undoes a mount or a link at this place; nothing there is fine.
pub(super) fn hide(target: &Path) -> Result<(), MountError> {
    while mounted().iter().any(|point| point == target) {
        // Lazy: a dead server must not hold the clean-up; the mount is gone from the tree at once.
        umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .map_err(|errno| MountError::Unmount(target.to_owned(), errno))?;
    }
    match std::fs::symlink_metadata(target) {
        Ok(found) if found.is_symlink() => {
            std::fs::remove_file(target).map_err(|error| MountError::Link(target.to_owned(), error))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Mount points below a folder, the deepest first.
pub(super) fn below(folder: &Path) -> Vec<PathBuf> {
    let mut points: Vec<PathBuf> =
        mounted().into_iter().filter(|point| point.starts_with(folder) && point != folder).collect();
    points.reverse();
    points.dedup();
    points
}

/// All mount points of this process, in the order of mounting.
fn mounted() -> Vec<PathBuf> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    text.split(|byte| *byte == b'\n').filter_map(mount_point).collect()
}

/// The fifth field of a line of mountinfo, with its octal escapes undone.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let field = line.split(|byte| *byte == b' ').nth(4)?;
    let mut point = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| after.get(..3)).flatten();
        let escaped = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                point.push(byte);
                rest = &after[3..];
            }
            None => {
                point.push(*first);
                rest = after;
            }
        }
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(point)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let line = br"36 35 98:0 /mnt1 /mnt/with\040space\134x rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some(PathBuf::from(r"/mnt/with space\x")));
        assert_eq!(mount_point(b"36 35"), None);
        assert!(mounted().contains(&PathBuf::from("/proc")));
    }

    proptest::proptest! {
        #[test]
        fn no_line_panics(line in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            mount_point(&line);
        }
    }
}
