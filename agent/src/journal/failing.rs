//! A journal whose disk fails on demand: for tests.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use trainyard_core::agent::Record;

use super::{Journal, JournalError};

/// Passes everything on to another journal until its time has come.
#[derive(Debug)]
pub struct FailingJournal<J> {
    inner: J,
    commits_left: Arc<AtomicUsize>,
}

impl<J: Journal> FailingJournal<J> {
    /// So many commits go well; then each fails. The counter can be set again at any time.
    pub fn new(inner: J, commits_left: Arc<AtomicUsize>) -> FailingJournal<J> {
        FailingJournal { inner, commits_left }
    }

    fn count(&self) -> Result<(), JournalError> {
        let one_less = |left: usize| left.checked_sub(1);
        match self.commits_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
            Ok(_) => Ok(()),
            Err(_) => Err(JournalError::Io {
                act: "write",
                path: "journal".into(),
                source: io::Error::from(io::ErrorKind::StorageFull),
            }),
        }
    }
}

impl<J: Journal> Journal for FailingJournal<J> {
    fn commit(&mut self, records: &[Record]) -> Result<(), JournalError> {
        if !records.is_empty() {
            self.count()?;
        }
        self.inner.commit(records)
    }

    fn rewrite(&mut self, records: &[Record]) -> Result<(), JournalError> {
        self.count()?;
        self.inner.rewrite(records)
    }

    fn len(&self) -> usize {
        self.inner.len()
    }
}
