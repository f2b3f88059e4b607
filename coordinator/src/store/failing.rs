//! A store that fails on demand: full, or broken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use trainyard_core::coordinator::event::FinishedJob;
use trainyard_core::coordinator::recover::Stored;
use trainyard_core::id::Generation;
use trainyard_core::spec::JobSpec;

use super::{Change, Expired, Limits, Read, Store, StoreError};

/// What the next commits do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// They work.
    None = 0,
    /// The disk is full; nothing is written.
    Full = 1,
    /// The database is broken; nothing is written.
    Broken = 2,
    /// The next commit is written, and then the process is gone before anybody hears of it.
    GoneAfterCommit = 3,
}

/// Decides from outside what the store does.
#[derive(Clone, Debug, Default)]
pub struct Switch(Arc<AtomicU8>);

impl Switch {
    /// From the next commit on.
    pub fn set(&self, failure: Failure) {
        self.0.store(failure as u8, Ordering::SeqCst);
    }
}

/// A store that fails on demand.
pub struct FailingStore<S> {
    inner: S,
    switch: Switch,
}

impl<S: Store> FailingStore<S> {
    /// Works until the switch says otherwise.
    pub fn new(inner: S) -> (FailingStore<S>, Switch) {
        let switch = Switch::default();
        (FailingStore { inner, switch: switch.clone() }, switch)
    }

    fn fail_if_asked(&self) -> Result<(), StoreError> {
        match self.switch.0.load(Ordering::SeqCst) {
            0 | 3 => Ok(()),
            1 => Err(StoreError::Full),
            _ => Err(StoreError::broken("commit", "as the test asked for")),
        }
    }
}

impl<S: Store> Store for FailingStore<S> {
    fn generation(&self) -> Generation {
        self.inner.generation()
    }

    fn load(&mut self) -> Result<Stored, StoreError> {
        self.inner.load()
    }

    fn finished(
        &mut self,
        folded: &str,
        offered: Option<&JobSpec>,
    ) -> Result<Option<FinishedJob>, StoreError> {
        self.inner.finished(folded, offered)
    }

    fn commit(&mut self, changes: &[Change]) -> Result<Vec<u64>, StoreError> {
        self.fail_if_asked()?;
        let sequence = self.inner.commit(changes)?;
        // What comes after the commit never happens, as after SIGKILL.
        match self.switch.0.load(Ordering::SeqCst) {
            3 => Err(StoreError::broken("go on after a commit", "as the test asked for")),
            _ => Ok(sequence),
        }
    }

    fn expire(&mut self, limits: &Limits) -> Result<Expired, StoreError> {
        self.fail_if_asked()?;
        self.inner.expire(limits)
    }

    fn check_space(&mut self) -> Result<(), StoreError> {
        self.fail_if_asked()?;
        self.inner.check_space()
    }

    fn reader(&self) -> Arc<dyn Read> {
        self.inner.reader()
    }
}
