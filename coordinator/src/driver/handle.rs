//! How everybody else speaks to the loop.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use trainyard_core::coordinator::recovery::{Adoption, NotAdopted};
use trainyard_core::coordinator::{Answer, Event, JobKey, NewJob};
use trainyard_core::id::{GangId, Generation, NodeId};
use trainyard_core::session::Hello;

use super::View;
use crate::grpc::Link;
use crate::store::{Change, Entry, Expired, Limits, StoreError};

/// A handle on the loop; cheap to clone.
#[derive(Clone)]
pub struct Driver {
    messages: mpsc::Sender<Message>,
    view: watch::Receiver<Arc<View>>,
    journal: broadcast::Sender<Arc<Entry>>,
    generation: Arc<AtomicU64>,
}

/// What became of an adoption.
pub(crate) type Adopted = Result<Adoption, AdoptError>;

/// The database was not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The loop cannot do it now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// An operator has to do something else first.
    #[error(transparent)]
    NotAdopted(#[from] NotAdopted),
    /// Numbers of jobs that are in use cannot be told.
    #[error("the folder of logs cannot be listed: see the coordinator's log")]
    Logs,
}

/// The loop cannot do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Nothing was stored.
    #[error("the coordinator's disk is full: nothing was stored; free some space and try again")]
    Full,
    /// It is going down; whether it did what was asked is not known.
    #[error("the coordinator is stopping: try again")]
    Stopped,
}

/// What comes in.
pub(crate) enum Message {
    /// An event that nobody waits for.
    Event(Box<Event>),
    /// One that somebody waits for.
    Ask(Question, oneshot::Sender<Result<Answer, Unavailable>>),
    /// Changes that the core knows nothing of.
    Write(Vec<Change>, oneshot::Sender<Result<(), Unavailable>>),
    /// An operator adopts a database that went back, without these nodes.
    Adopt(BTreeSet<NodeId>, oneshot::Sender<Adopted>),
    /// Remove a part of what is beyond these limits.
    Expire(Limits, oneshot::Sender<Result<Expired, Unavailable>>),
    /// The disk cannot be trusted: end, as after a failed commit.
    Broken(StoreError),
    /// For the watchdog.
    Ping(oneshot::Sender<()>),
    /// End the loop, after what is before this.
    Stop,
}

/// An event that is answered.
pub(crate) enum Question {
    Submit(Box<NewJob>),
    Cancel(JobKey),
    Delete(JobKey),
    StopForeign { gang: GangId, gone: bool },
    Join(Box<Hello>, Link),
    Drain(NodeId, String),
    Resume(NodeId),
    DeclareLost { node: NodeId, force: bool },
}

impl Driver {
    pub(super) fn new(
        messages: mpsc::Sender<Message>,
        view: watch::Receiver<Arc<View>>,
        journal: broadcast::Sender<Arc<Entry>>,
        generation: Arc<AtomicU64>,
    ) -> Driver {
        Driver { messages, view, journal, generation }
    }

    /// Of this start of the coordinator, or of the recovery since.
    #[must_use]
    pub fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::SeqCst))
    }

    /// Nodes and wait reasons as they are now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Journal entries from now on, each after its commit.
    #[must_use]
    pub fn journal(&self) -> broadcast::Receiver<Arc<Entry>> {
        self.journal.subscribe()
    }

    /// Asks for a job; the answer is durable.
    ///
    /// # Errors
    /// The loop cannot do it now.
    pub async fn submit(&self, job: NewJob) -> Result<Answer, Unavailable> {
        self.ask(Question::Submit(Box::new(job))).await
    }

    /// Asks for the end of a job.
    ///
    /// # Errors
    /// The loop cannot do it now.
    pub async fn cancel(&self, key: JobKey) -> Result<Answer, Unavailable> {
        self.ask(Question::Cancel(key)).await
    }

    /// Asks for the removal of a job.
    ///
    /// # Errors
    /// The loop cannot do it now.
    pub async fn delete(&self, key: JobKey) -> Result<Answer, Unavailable> {
        self.ask(Question::Delete(key)).await
    }

    /// Asks that a node takes no new work.
    ///
    /// # Errors
    /// The loop cannot do it now.
    pub async fn drain(&self, node: NodeId, reason: String) -> Result<Answer, Unavailable> {
        self.ask(Question::Drain(node, reason)).await
    }

    /// Asks that a node takes work again.
    ///
    /// # Errors
    /// The loop cannot do it now.
    pub async fn resume(&self, node: NodeId) -> Result<Answer, Unavailable> {
        self.ask(Question::Resume(node)).await
    }

    /// Says that a machine is gone; `force`: although it is connected.
    ///
    /// # Errors
    /// The loop cannot do it now.
    pub async fn declare_lost(&self, node: NodeId, force: bool) -> Result<Answer, Unavailable> {
        self.ask(Question::DeclareLost { node, force }).await
    }

    /// Writes workspaces and experiments.
    ///
    /// # Errors
    /// The loop cannot do it now.
    pub async fn write(&self, changes: Vec<Change>) -> Result<(), Unavailable> {
        let (answer, written) = oneshot::channel();
        self.send(Message::Write(changes, answer)).await?;
        written.await.map_err(|_gone| Unavailable::Stopped)?
    }

    /// Adopts a database that is older than what agents have obeyed.
    ///
    /// # Errors
    /// [`AdoptError`]
    pub async fn adopt(&self, without: BTreeSet<NodeId>) -> Result<Adoption, AdoptError> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Adopt(without, answer)).await?;
        answered.await.map_err(|_gone| Unavailable::Stopped)?
    }

    /// Ends work that a lost database gave; `gone`: on nodes that will not come back it counts as over.
    ///
    /// # Errors
    /// The loop cannot do it now.
    pub async fn stop_foreign(&self, gang: GangId, gone: bool) -> Result<Answer, Unavailable> {
        self.ask(Question::StopForeign { gang, gone }).await
    }

    /// Removes a bounded part of what is beyond these limits, with its logs.
    ///
    /// # Errors
    /// The loop cannot do it now.
    pub async fn expire(&self, limits: Limits) -> Result<Expired, Unavailable> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Expire(limits, answer)).await?;
        answered.await.map_err(|_gone| Unavailable::Stopped)?
    }

    /// The disk has failed at something beside the database: the loop ends, and the process with it. For blocking
    /// threads.
    pub(crate) fn broken(&self, error: StoreError) {
        // It may have ended already.
        self.messages.blocking_send(Message::Broken(error)).unwrap_or_default();
    }

    /// Returns once the loop has come around.
    ///
    /// # Errors
    /// It has ended.
    pub async fn ping(&self) -> Result<(), Unavailable> {
        let (pong, answered) = oneshot::channel();
        self.send(Message::Ping(pong)).await?;
        answered.await.map_err(|_gone| Unavailable::Stopped)
    }

    /// Ends the loop after what it has been asked before.
    pub async fn stop(&self) {
        // It may have ended already.
        self.send(Message::Stop).await.unwrap_or_default();
    }

    pub(crate) async fn join(&self, hello: Hello, link: Link) -> Result<Answer, Unavailable> {
        self.ask(Question::Join(Box::new(hello), link)).await
    }

    pub(crate) async fn tell(&self, event: Event) -> Result<(), Unavailable> {
        self.send(Message::Event(Box::new(event))).await
    }

    async fn ask(&self, question: Question) -> Result<Answer, Unavailable> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Ask(question, answer)).await?;
        answered.await.map_err(|_gone| Unavailable::Stopped)?
    }

    async fn send(&self, message: Message) -> Result<(), Unavailable> {
        self.messages.send(message).await.map_err(|_closed| Unavailable::Stopped)
    }
}
