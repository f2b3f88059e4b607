//! A journal that lives as long as its process: for tests.

use std::sync::{Arc, Mutex, PoisonError};

use trainyard_core::agent::Record;

use super::{Journal, JournalError};

/// Its clones share one list, so that a test can restart an agent on it.
#[derive(Clone, Debug, Default)]
pub struct MemoryJournal {
    records: Arc<Mutex<Vec<Record>>>,
}

impl MemoryJournal {
    /// What was committed.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Journal for MemoryJournal {
    fn commit(&mut self, records: &[Record]) -> Result<(), JournalError> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(records);
        Ok(())
    }

    fn rewrite(&mut self, records: &[Record]) -> Result<(), JournalError> {
        *self.records.lock().unwrap_or_else(PoisonError::into_inner) = records.to_vec();
        Ok(())
    }

    fn len(&self) -> usize {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
