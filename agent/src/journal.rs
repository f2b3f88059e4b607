//! What the agent must not forget: the records of `core::agent`, in order, on disk before their effects.
//!
//! `disk` is real, `memory` forgets at the end, `failing` fails on demand. Nothing here decides.

pub mod disk;
pub mod failing;
pub mod memory;

use std::path::PathBuf;

use trainyard_core::agent::Record;

/// Where records go.
pub trait Journal: Send {
    /// Appends; when it returns, what must be durable is.
    ///
    /// # Errors
    /// Nothing of this commit's effects may happen then: the agent stops, and its next start finds what is on disk.
    fn commit(&mut self, records: &[Record]) -> Result<(), JournalError>;

    /// Replaces everything, at once.
    ///
    /// # Errors
    /// The old content stays.
    fn rewrite(&mut self, records: &[Record]) -> Result<(), JournalError>;

    /// How many records it holds.
    fn len(&self) -> usize;

    /// Whether it holds none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why the journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file operation failed.
    #[error("cannot {act} {path}")]
    Io {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Another agent lives in the same root folder.
    #[error("another agent uses {path}: each needs a root folder of its own")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A line in the middle is damaged, or a newer agent wrote it.
    #[error(
        "line {line} of {path} cannot be read: {problem}. Running tasks are unharmed; restore the file, or start the newer agent that wrote it"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A record has no text form.
    #[error("a record cannot be written as JSON")]
    Json(#[source] serde_json::Error),
}
