//! How full the spool is, for those who ask: written by its thread, read by anybody.

use std::sync::{Mutex, PoisonError};

/// The spool at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Log bytes that are on this node's disk.
    pub held_bytes: u64,
    /// Log files.
    pub files: usize,
    /// Bytes that an attempt may hold here.
    pub quota_bytes: u64,
    /// Bytes that were dropped before they were stored, since the agent started.
    pub dropped_bytes: u64,
    /// In so many pieces.
    pub gaps: u64,
    /// What is free on the disk of the spool, in bytes.
    pub free_bytes: u64,
    /// Why there is no quota; empty: there is.
    pub problem: String,
}

/// Where the usage stands.
#[derive(Debug, Default)]
pub(super) struct Board(Mutex<Usage>);

impl Board {
    pub(super) fn set(&self, usage: Usage) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = usage;
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Usage)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn usage(&self) -> Usage {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
