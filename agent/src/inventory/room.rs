//! Whether the disk of the agent's root can take work: a node that cannot write its records, plans and logs
//! would only fail what is placed on it.

use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};

/// Below this it is full: what records and logs of running tasks need. Of a small disk a sixteenth.
const FULL_BYTES: u64 = 64 * 1024 * 1024;
/// Below this many free inodes it is full, where the file system counts them.
const FULL_INODES: u64 = 1000;

/// Why the node takes no work; empty: it does. `was`: the last answer. A disk that was full has to have twice
/// the room until it is not.
#[must_use]
pub fn problem(root: &Path, was: &str) -> String {
    match statvfs(root) {
        Ok(found) if found.flags().contains(FsFlags::ST_RDONLY) => {
            format!("the disk of {} is read-only", root.display())
        }
        Ok(found) => {
            let unit = found.fragment_size();
            let room = Room {
                total: found.blocks() * unit,
                free: found.blocks_available() * unit,
                inodes: (found.files() > 0).then(|| found.files_available()),
            };
            if !room.is_full(was) {
                return String::new();
            }
            // No numbers: the text changes only when the state does.
            format!("the disk of {} is full", root.display())
        }
        Err(error) => format!("the disk of {} cannot be looked at: {error}", root.display()),
    }
}

struct Room {
    total: u64,
    free: u64,
    inodes: Option<u64>,
}

impl Room {
    fn is_full(&self, was: &str) -> bool {
        let factor = if was.is_empty() { 1 } else { 2 };
        let bytes = (self.total / 16).min(FULL_BYTES) * factor;
        self.free < bytes || self.inodes.is_some_and(|free| free < FULL_INODES * factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_until_it_has_twice_the_room() {
        let room = |free, inodes| Room { total: 1 << 40, free, inodes };
        assert!(!room(FULL_BYTES, Some(FULL_INODES)).is_full(""));
        assert!(room(FULL_BYTES - 1, None).is_full(""));
        assert!(room(1 << 39, Some(FULL_INODES - 1)).is_full(""));
        assert!(room(FULL_BYTES, None).is_full("it was full"));
        assert!(!room(2 * FULL_BYTES, Some(2 * FULL_INODES)).is_full("it was full"));
        assert!(!Room { total: 1 << 20, free: 1 << 19, inodes: None }.is_full(""), "a small disk has little");
    }

    #[test]
    fn fault_25_a_full_and_a_read_only_disk_are_a_problem_until_they_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let run = |program: &str, arguments: &str| {
            let mut command = std::process::Command::new(program);
            let done = command.args(arguments.split(' ')).arg(folder.path()).output();
            done.is_ok_and(|done| done.status.success())
        };
        if !run("mount", "-t tmpfs -o size=4m,nr_inodes=5000 none") {
            eprintln!("SKIPPED: no tmpfs can be mounted here (root is needed)");
            return;
        }
        let look = |was: &str| problem(folder.path(), was);
        let empty = look("");
        std::fs::write(folder.path().join("all"), vec![1; (4 << 20) - 8192]).unwrap();
        let full = look("");
        std::fs::remove_file(folder.path().join("all")).unwrap();
        let room = look(&full);
        for n in 0..4500 {
            std::fs::File::create(folder.path().join(n.to_string())).unwrap();
        }
        let no_inodes = look("");
        run("mount", "-o remount,ro");
        let read_only = look("");
        // Before the checks: a mount must not outlive the test.
        run("umount", "-l");
        assert_eq!((empty.as_str(), room.as_str()), ("", ""));
        assert!(full.ends_with("is full") && no_inodes.ends_with("is full"), "{full}; {no_inodes}");
        assert!(read_only.ends_with("is read-only"), "{read_only}");
    }

    #[test]
    fn what_is_not_there_is_a_problem() {
        assert!(problem(Path::new("/nonexistent"), "").contains("/nonexistent"));
    }
}
