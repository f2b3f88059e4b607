//! A thread that collects ended shims, so that none stays a zombie and no task ever blocks on one.

use std::io;
use std::process::Child;
use std::sync::mpsc;

/// Starts the thread. It ends when the last sender is gone. Only shims that have said their last word, or
/// whose socket is closed, are sent here, so each wait is short.
pub(super) fn spawn() -> io::Result<mpsc::Sender<Child>> {
    let (sender, receiver) = mpsc::channel::<Child>();
    std::thread::Builder::new().name("shim-reaper".to_owned()).spawn(move || {
        for mut child in receiver {
            if let Err(error) = child.wait() {
                tracing::warn!(pid = child.id(), %error, "cannot wait for a shim");
            }
        }
    })?;
    Ok(sender)
}
