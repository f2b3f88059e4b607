//! Files that only a node can read: questions down a session, answers matched by number, with a deadline.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use trainyard_core::id::{GangId, NodeId};
use trainyard_core::unit::WallMs;
use trainyard_proto::convert::Down;
use trainyard_proto::v1;

use super::Sessions;

/// How long a node may take: the directory may lie on a mount that hangs.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A question to a node.
#[derive(Clone, Debug)]
pub struct FileAsk {
    /// The gang that made the directory.
    pub gang: GangId,
    /// Absolute, out of its plan.
    pub directory: String,
    /// Below it.
    pub path: String,
    /// What about it.
    pub wanted: FileWanted,
}

/// What to do with a path.
#[derive(Clone, Copy, Debug)]
pub enum FileWanted {
    /// Its entries.
    List,
    /// Its bytes from an offset on; at most 256 KiB are answered.
    Read {
        /// From here on.
        offset: u64,
        /// At most so many bytes.
        length: u64,
    },
}

/// What a node answered.
#[derive(Clone, Debug, Default)]
pub struct FileAnswer {
    /// Of a directory.
    pub entries: Vec<FileItem>,
    /// Of a file.
    pub data: Bytes,
    /// Of the whole file.
    pub size: u64,
    /// When the file last changed.
    pub modified: WallMs,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileItem {
    /// Its name.
    pub name: String,
    /// Whether it is a directory.
    pub directory: bool,
    /// Its length in bytes.
    pub size: u64,
    /// When it last changed.
    pub modified: WallMs,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The node is not connected.
    #[error("node {0} is not connected: its files can be read when it is back")]
    NotConnected(NodeId),
    /// The node did not answer in time.
    #[error("node {0} did not answer in time: the directory may lie on a mount that hangs")]
    TimedOut(NodeId),
    /// There is no such file.
    #[error("there is no such file or directory")]
    NotFound,
    /// The node says why it cannot.
    #[error("node {node} cannot read it: {message}")]
    Failed {
        /// The node.
        node: NodeId,
        /// In its words.
        message: String,
    },
}

/// Questions without an answer yet.
#[derive(Default)]
pub(super) struct Requests {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    waiting: BTreeMap<u64, (NodeId, oneshot::Sender<v1::FileReply>)>,
}

impl Requests {
    /// An answer that nobody waits for, or of another node than was asked, is dropped.
    pub(super) fn answer(&self, node: &NodeId, reply: v1::FileReply) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.waiting.get(&reply.id).is_some_and(|(asked, _)| asked == node)
            && let Some((_, waiting)) = table.waiting.remove(&reply.id)
        {
            // The client may have gone.
            waiting.send(reply).unwrap_or_default();
        }
    }

    fn register(&self, node: &NodeId) -> (u64, oneshot::Receiver<v1::FileReply>) {
        let (waiting, reply) = oneshot::channel();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.waiting.retain(|_, (_, waiting)| !waiting.is_closed());
        table.next += 1;
        let id = table.next;
        table.waiting.insert(id, (node.clone(), waiting));
        (id, reply)
    }
}

impl Sessions {
    /// Asks a node about a file.
    ///
    /// # Errors
    /// It cannot be asked, does not answer, or has no such file.
    pub async fn ask(&self, node: &NodeId, ask: FileAsk) -> Result<FileAnswer, FileError> {
        let (id, reply) = self.requests.register(node);
        let what = match ask.wanted {
            FileWanted::List => v1::file_request::What::List(true),
            FileWanted::Read { offset, length } => {
                v1::file_request::What::Read(v1::FileRange { offset, length })
            }
        };
        let request = v1::FileRequest {
            id,
            gang: Some(ask.gang.into()),
            directory: ask.directory,
            path: ask.path,
            what: Some(what),
        };
        if !self.send_down(node, None, Down::FileRequest(request)) {
            return Err(FileError::NotConnected(node.clone()));
        }
        match tokio::time::timeout(TIMEOUT, reply).await {
            Ok(Ok(reply)) => read(node, reply),
            Ok(Err(_gone)) => Err(FileError::NotConnected(node.clone())),
            Err(_elapsed) => Err(FileError::TimedOut(node.clone())),
        }
    }
}

fn read(node: &NodeId, reply: v1::FileReply) -> Result<FileAnswer, FileError> {
    match reply.error.as_str() {
        "" => Ok(FileAnswer {
            entries: reply.entries.into_iter().filter_map(item).collect(),
            data: reply.data,
            size: reply.size,
            modified: WallMs(reply.modified_ms),
        }),
        "not found" => Err(FileError::NotFound),
        message => Err(FileError::Failed { node: node.clone(), message: message.to_owned() }),
    }
}

/// A name that no directory can hold is not shown.
fn item(entry: v1::FileEntry) -> Option<FileItem> {
    let name = entry.name;
    let fits = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    fits.then_some(FileItem {
        name,
        directory: entry.directory,
        size: entry.size,
        modified: WallMs(entry.modified_ms),
    })
}
