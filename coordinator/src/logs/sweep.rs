//! Removes folders, one after the other, on a thread of its own: a big one must not hold up the driver.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc;

pub(super) struct Sweeper {
    folders: mpsc::Sender<Vec<PathBuf>>,
}

impl Sweeper {
    pub(super) fn start() -> io::Result<Sweeper> {
        let (folders, inbox) = mpsc::channel::<Vec<PathBuf>>();
        std::thread::Builder::new().name("log-sweeper".to_owned()).spawn(move || {
            for folder in inbox.into_iter().flatten() {
                match std::fs::remove_dir_all(&folder) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => tracing::warn!(folder = %folder.display(), %error, "logs stay behind"),
                }
            }
        })?;
        Ok(Sweeper { folders })
    }

    /// Those that do not exist are passed over.
    pub(super) fn remove(&self, folders: Vec<PathBuf>) {
        // The thread ends with this, never before.
        self.folders.send(folders).unwrap_or_default();
    }
}
