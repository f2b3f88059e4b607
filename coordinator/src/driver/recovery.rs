//! An operator adopts a database that went back: made durable like everything else, and then the loop starts
//! anew from what the store holds, with another generation. Agents connect again by themselves.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use trainyard_core::coordinator::Record;
use trainyard_core::coordinator::recovery::{self, Adoption};
use trainyard_core::id::{JobId, NodeId};

use super::{AdoptError, Adopted, Batch, Loop, load};
use crate::store::{Change, StoreError};

impl Loop {
    /// Its records join the batch.
    pub(super) fn adopt(
        &mut self,
        without: &BTreeSet<NodeId>,
        answer: oneshot::Sender<Adopted>,
        batch: &mut Batch,
    ) {
        let adoption = self
            .highest()
            .and_then(|highest| Ok(recovery::adopt(&self.state, self.parts.clock.now(), highest, without)?));
        match adoption {
            // Two operators at once: the second finds nothing left to do.
            Ok(_) if batch.adopted.is_some() => {
                answer.send(Err(recovery::NotAdopted::NotNeeded.into())).unwrap_or_default();
            }
            Ok(adoption) => {
                let jobs = adoption.jobs.iter().map(|job| Record::PutJob(Box::new(job.clone())));
                batch.changes.push(Change::Adopt(Box::new(adoption.clone())));
                batch.changes.extend(jobs.map(Change::Record));
                batch.changes.push(Change::Record(Record::Journal(adoption.entry.clone())));
                batch.adopted = Some((adoption, answer));
            }
            Err(error) => answer.send(Err(error)).unwrap_or_default(),
        }
    }

    /// The highest number of a job that a log folder carries.
    fn highest(&self) -> Result<JobId, AdoptError> {
        self.parts.logs.highest_job().map_err(|error| {
            tracing::error!(%error, "the folder of logs cannot be listed");
            AdoptError::Logs
        })
    }

    pub(super) fn start_anew(
        &mut self,
        adoption: Adoption,
        answer: oneshot::Sender<Adopted>,
    ) -> Result<(), StoreError> {
        self.parts.sessions.close_all();
        self.state = load(&mut self.parts)?;
        self.generation.store(adoption.generation.0, Ordering::SeqCst);
        self.publish();
        let (generation, next_job) = (adoption.generation, adoption.next_job);
        tracing::warn!(%generation, %next_job, "an operator has adopted the database: agents are let in again");
        // The operator may have gone.
        answer.send(Ok(adoption)).unwrap_or_default();
        Ok(())
    }
}
