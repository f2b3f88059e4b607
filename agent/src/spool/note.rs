//! The lines of `execution.log`: `2026-11-25T02:10:11.123Z node-0 step: text`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Writes lines to one gang's execution log in the spool. Its clones write to the same file.
#[derive(Clone, Debug)]
pub struct Notes {
    path: PathBuf,
    node: String,
}

impl Notes {
    pub(super) fn new(path: PathBuf, node: String) -> Notes {
        Notes { path, node }
    }

    /// Appends one line, in one write. A failure is logged: the job does not depend on this file.
    pub fn write(&self, text: &str) {
        let at = jiff::Timestamp::now();
        let text = text.trim_end().replace('\n', "\n    ");
        let line = format!("{at:.3} {} {text}\n", self.node);
        if let Err(error) = self.append(line.as_bytes()) {
            tracing::warn!(path = %self.path.display(), %error, text, "execution log cannot be written");
        }
    }

    fn append(&self, line: &[u8]) -> io::Result<()> {
        OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?.write_all(line)
    }
}
