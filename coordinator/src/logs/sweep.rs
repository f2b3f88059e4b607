//! Removes folders, one after the other, on a thread of its own: a big one must not hold up the driver.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use trainyard_core::id::JobId;

use super::job_of;

/// What to remove.
pub(super) enum Task {
    /// All folders of these jobs.
    Jobs(Vec<JobId>),
    /// One folder.
    Folder(PathBuf),
}

pub(super) struct Sweeper {
    tasks: mpsc::Sender<Task>,
}

impl Sweeper {
    pub(super) fn start(root: &Path) -> io::Result<Sweeper> {
        let (tasks, inbox) = mpsc::channel();
        let root = root.to_owned();
        std::thread::Builder::new().name("log-sweeper".to_owned()).spawn(move || {
            while let Ok(first) = inbox.recv() {
                // All that wait: the root is listed once for them.
                let mut jobs = BTreeSet::new();
                for task in std::iter::once(first).chain(inbox.try_iter()) {
                    match task {
                        Task::Jobs(gone) => jobs.extend(gone),
                        Task::Folder(folder) => remove(&folder),
                    }
                }
                if let Err(error) = remove_jobs(&root, &jobs) {
                    tracing::warn!(%error, "logs of removed jobs stay behind until the next start");
                }
            }
        })?;
        Ok(Sweeper { tasks })
    }

    /// Those that do not exist are passed over.
    pub(super) fn remove(&self, task: Task) {
        // The thread ends with this, never before.
        self.tasks.send(task).unwrap_or_default();
    }
}

fn remove_jobs(root: &Path, jobs: &BTreeSet<JobId>) -> io::Result<()> {
    if jobs.is_empty() {
        return Ok(());
    }
    for entry in std::fs::read_dir(root)? {
        let name = entry?.file_name();
        if job_of(&name).is_some_and(|job| jobs.contains(&job)) {
            remove(&root.join(name));
        }
    }
    Ok(())
}

fn remove(folder: &Path) {
    match std::fs::remove_dir_all(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(folder = %folder.display(), %error, "logs stay behind"),
    }
}
