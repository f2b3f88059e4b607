//! Log bytes of gangs by (gang, file, offset): `<root>/<job>.<gang>/<file>`, with `.index` beside them
//! for what a file's length does not tell (ends and gaps).
//!
//! The length of a file is its durable offset; a gap is a hole in it. What is acknowledged is on the disk.
//! Blocking: call it on blocking threads. Followers wait on a watch channel, nobody polls.

mod gang;
mod index;
mod sweep;

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use trainyard_core::id::{GangId, GangNo, JobId};

pub(crate) use gang::accept_unread;
pub use gang::{Ack, Chunk, FileState, GangLogs};

/// All logs.
pub struct LogStore {
    root: PathBuf,
    /// Those that somebody writes or reads now.
    gangs: Mutex<BTreeMap<GangId, Weak<GangLogs>>>,
    sweeper: sweep::Sweeper,
}

impl LogStore {
    /// Opens or makes the folder.
    ///
    /// # Errors
    /// It cannot be made, or no thread can be started.
    pub fn open(root: &Path) -> std::io::Result<LogStore> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root)?;
        Ok(LogStore { root: root.to_owned(), gangs: Mutex::default(), sweeper: sweep::Sweeper::start(root)? })
    }

    /// The logs of a gang, whether there are any yet or not.
    ///
    /// # Errors
    /// They are there and cannot be read.
    pub fn gang(&self, id: GangId) -> std::io::Result<Arc<GangLogs>> {
        let mut gangs = self.gangs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gang) = gangs.get(&id).and_then(Weak::upgrade) {
            return Ok(gang);
        }
        let gang = Arc::new(GangLogs::load(self.root.join(id.to_string()))?);
        gangs.retain(|_, gang| gang.strong_count() > 0);
        gangs.insert(id, Arc::downgrade(&gang));
        Ok(gang)
    }

    /// Removes the logs of jobs, in the background.
    pub fn forget(&self, jobs: &[JobId]) {
        if jobs.is_empty() {
            return;
        }
        let gangs = self.gangs.lock().unwrap_or_else(PoisonError::into_inner);
        for &job in jobs {
            let all = |gang| GangId { job, gang: GangNo(gang) };
            for (_, gang) in gangs.range(all(0)..=all(u32::MAX)) {
                if let Some(gang) = gang.upgrade() {
                    gang.forget();
                }
            }
        }
        drop(gangs);
        self.sweeper.remove(sweep::Task::Jobs(jobs.to_vec()));
    }

    /// The highest number of a job that has logs; 0: none has.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn highest_job(&self) -> std::io::Result<JobId> {
        let mut highest = JobId(0);
        for entry in std::fs::read_dir(&self.root)? {
            highest = highest.max(job_of(&entry?.file_name()).unwrap_or_default());
        }
        Ok(highest)
    }

    /// Removes the logs of jobs that are not known: left over where a crash came between the removal of a
    /// job and that of its logs.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn sweep(&self, mut known: impl FnMut(JobId) -> bool) -> std::io::Result<()> {
        for entry in std::fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            if job_of(&name).is_some_and(|job| !known(job)) {
                self.sweeper.remove(sweep::Task::Folder(self.root.join(&name)));
            }
        }
        Ok(())
    }
}

/// Whose logs a folder of this name holds.
fn job_of(folder: &std::ffi::OsStr) -> Option<JobId> {
    let (job, gang) = folder.to_str()?.split_once('.')?;
    gang.parse::<u32>().ok()?;
    job.parse().ok().map(JobId)
}

/// The name of a log file: what a listing shows, and a file of that name in the gang's folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileName(String);

/// The text is no name of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a log file's name has 1 to 255 bytes, no `/`, no control characters and no dot at its start")]
pub struct NotAFileName;

impl FileName {
    /// Checks the text.
    ///
    /// # Errors
    /// [`NotAFileName`]
    pub fn parse(text: &str) -> Result<FileName, NotAFileName> {
        let fits = (1..=255).contains(&text.len())
            && !text.starts_with('.')
            && !text.chars().any(|c| c == '/' || c == '\\' || c.is_control());
        if fits { Ok(FileName(text.to_owned())) } else { Err(NotAFileName) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
