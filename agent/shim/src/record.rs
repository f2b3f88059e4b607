//! The files of the run directory: the start marker and the exit record. The working directory is the run
//! directory, so every name here is relative.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use trainyard_core::shim::{EXIT_FILE, EXIT_TEMPORARY_FILE, ExitRecord, STARTED_FILE, Started};

/// Says that a start is about to be tried: from now on the attempt may have run.
pub(crate) fn mark_start() -> io::Result<File> {
    create(STARTED_FILE)
}

/// Says what was started and in which boot, for an agent that finds no shim here.
pub(crate) fn write_started(mut marker: File, started: &Started, boot_id: &str) -> io::Result<()> {
    marker.write_all(format!("{boot_id}\n{started}").as_bytes())
}

/// Puts the record in place, whole or not at all. The agent makes it durable before it tells anybody.
pub(crate) fn write_exit(record: &ExitRecord) -> io::Result<()> {
    create(EXIT_TEMPORARY_FILE)?.write_all(record.to_string().as_bytes())?;
    fs::rename(EXIT_TEMPORARY_FILE, EXIT_FILE)
}

fn create(name: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(name)
}
