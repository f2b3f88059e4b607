//! Who is connected: the way down to each node, and what is shown of it.
//!
//! The driver opens a link before it sends the first command of that session, so nothing overtakes the
//! Welcome. Queue: bounded; one that is full belongs to an agent that does not read, its session is closed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use trainyard_core::id::{Epoch, Generation, NodeId};
use trainyard_core::session::{Command, Welcome};
use trainyard_core::unit::WallMs;
use trainyard_proto::convert::Down;

use super::files::Requests;
use crate::inventory::Inventory;

/// Messages that wait for one agent.
pub(super) const QUEUE: usize = 1024;

/// A message down, with what its envelope bears; or the end of the stream.
pub(super) type Outgoing = Result<(Generation, Epoch, Down), Status>;

/// The way down to one agent. Dropping it closes the session.
pub(crate) struct Link {
    pub(super) out: mpsc::Sender<Outgoing>,
    pub(super) _open: oneshot::Sender<()>,
}

struct Open {
    generation: Generation,
    epoch: Epoch,
    link: Link,
}

/// What is shown of a node beside the state of the core. Kept while it is not connected.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// What it said of itself.
    pub inventory: Arc<Inventory>,
    /// When it was last heard of.
    pub last_heard: WallMs,
}

/// Everybody who is connected.
#[derive(Default)]
pub struct Sessions {
    open: Mutex<BTreeMap<NodeId, Open>>,
    notes: Mutex<BTreeMap<NodeId, Note>>,
    pub(super) requests: Requests,
}

impl Sessions {
    /// Nobody is connected.
    #[must_use]
    pub fn new() -> Sessions {
        Sessions::default()
    }

    /// What is shown of this node.
    #[must_use]
    pub fn note(&self, node: &NodeId) -> Option<Note> {
        self.notes().get(node).cloned()
    }

    /// Opens the session and sends the Welcome; an earlier session of the node is closed.
    pub(crate) fn open(&self, node: NodeId, link: Link, welcome: Welcome) {
        let Welcome { generation, epoch, .. } = welcome;
        let open = Open { generation, epoch, link };
        open.send(Down::Welcome(welcome));
        self.lock().insert(node, open);
    }

    /// Dropped if that session is gone: the next Hello brings it up again.
    pub(crate) fn send(&self, node: &NodeId, epoch: Epoch, command: Command) {
        self.send_down(node, Some(epoch), Down::Command(command));
    }

    /// Whether it was handed on.
    pub(super) fn send_down(&self, node: &NodeId, epoch: Option<Epoch>, down: Down) -> bool {
        let mut sessions = self.lock();
        let Some(open) = sessions.get(node).filter(|open| epoch.is_none_or(|epoch| open.epoch == epoch))
        else {
            return false;
        };
        let sent = open.send(down);
        if !sent {
            tracing::warn!(%node, "the agent does not read: its session is closed");
            sessions.remove(node);
        }
        sent
    }

    /// Its stream has ended.
    pub(super) fn close(&self, node: &NodeId, epoch: Epoch) {
        let mut sessions = self.lock();
        if sessions.get(node).is_some_and(|open| open.epoch == epoch) {
            sessions.remove(node);
        }
    }

    /// Every agent has to come again.
    pub(crate) fn close_all(&self) {
        self.lock().clear();
    }

    pub(super) fn set_inventory(&self, node: &NodeId, inventory: Inventory) {
        self.notes().entry(node.clone()).or_default().inventory = Arc::new(inventory);
    }

    pub(super) fn heard(&self, node: &NodeId, at: WallMs) {
        self.notes().entry(node.clone()).or_default().last_heard = at;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Note>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn send(&self, down: Down) -> bool {
        self.link.out.try_send(Ok((self.generation, self.epoch, down))).is_ok()
    }
}
