//! The directory in which `run` keeps its nodes: a new one, which goes at the end unless results lie in it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::config;
use crate::results::{Place, has_mounts_below};
use crate::statelock::StateLock;
use crate::talk;

pub(super) struct StateDir {
    /// Absolute.
    pub(super) path: PathBuf,
    /// Whether it was made here, for this run.
    ours: bool,
    _lock: StateLock,
}

impl StateDir {
    /// The directory given, or a new one of the user's.
    pub(super) fn make(given: Option<&Path>, name: &str) -> anyhow::Result<StateDir> {
        let path = match given {
            Some(given) => given.to_owned(),
            None => {
                let unique = u32::from_le_bytes(config::random()?);
                config::user_state_dir().join("run").join(format!("{name}-{unique:08x}"))
            }
        };
        let path = std::path::absolute(&path).with_context(|| format!("finding {}", path.display()))?;
        ensure!(path.to_str().is_some(), "{} is not UTF-8", path.display());
        config::make_private_dir(&path)?;
        let lock = StateLock::take(&path)?;
        Ok(StateDir { path, ours: given.is_none(), _lock: lock })
    }

    /// Removes what this run made, if no results lie in it; gives the directory if it stays.
    pub(super) fn remove(self, places: &[Place], keep: bool) -> Option<PathBuf> {
        let holds_results =
            places.iter().any(|place| place.path.starts_with(&self.path) && has_files(&place.path));
        if keep || !self.ours || holds_results {
            return Some(self.path);
        }
        // What is mounted below belongs to somebody else, and removing goes through a mount.
        let mounts = fs::read_to_string("/proc/self/mountinfo");
        if mounts.map_or(true, |mounts| has_mounts_below(&self.path, &mounts)) {
            talk::warning(&format!("{} is not removed: something is mounted in it", self.path.display()));
            return Some(self.path);
        }
        match fs::remove_dir_all(&self.path) {
            Ok(()) => None,
            Err(e) => {
                talk::warning(&format!("{} could not be removed: {e}", self.path.display()));
                Some(self.path)
            }
        }
    }
}

/// Whether a directory holds any file, at any depth.
fn has_files(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => has_files(&entry.path()),
        Ok(_) => true,
        // What cannot be seen may be a result.
        Err(_) => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_directory_stays_and_results_keep_one_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let given = dir.path().join("given");
        let state = StateDir::make(Some(&given), "j").unwrap();
        assert_eq!(state.remove(&[], false), Some(given.clone()));
        assert!(given.is_dir());

        let ours = |name: &str| {
            let mut state = StateDir::make(Some(&dir.path().join(name)), "j").unwrap();
            state.ours = true;
            state
        };
        let state = ours("empty");
        let logs = Place { what: "logs".to_owned(), path: state.path.join("jobs/stdouterr") };
        fs::create_dir_all(&logs.path).unwrap();
        assert_eq!(state.remove(std::slice::from_ref(&logs), false), None);
        assert!(!dir.path().join("empty").exists());

        let state = ours("results");
        let logs = Place { what: "logs".to_owned(), path: state.path.join("jobs/stdouterr") };
        fs::create_dir_all(&logs.path).unwrap();
        fs::write(logs.path.join("stdout.txt"), "x").unwrap();
        assert_eq!(state.remove(&[logs], false), Some(dir.path().join("results")));

        let state = ours("keep");
        assert_eq!(state.remove(&[], true), Some(dir.path().join("keep")));
    }
}
