//! The spool: what tasks print, on the node's own disk, until the coordinator has it on its disk.
//!
//! Shims give their tasks the files `<root>/spool/<job>.<gang>/<file>` themselves (O_APPEND). One thread
//! (`tail`) uploads what is appended, for all gangs of the node, and gives disk space back by punching holes
//! (`hole`); one thread per gang (`copier`) mirrors its files to the job's own directory, and may hang there
//! without anybody waiting for it. Names that start with a dot are the spool's own.

mod copier;
mod gang;
mod hole;
mod note;
mod stream;
mod tail;
#[cfg(test)]
mod tests;
mod usage;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::oneshot;
use trainyard_core::id::{GangId, GangNo, JobId};
use trainyard_proto::v1::{LogAck, LogChunk};

pub use note::Notes;
pub use usage::Usage;

/// The handle of the spool; its clones share one thread, which ends with the last of them.
#[derive(Clone)]
pub struct Spool {
    folder: PathBuf,
    node: String,
    orders: Arc<Orders>,
    board: Arc<usage::Board>,
}

struct Orders {
    /// Absent only while it is dropped.
    queue: Option<mpsc::Sender<Order>>,
    wake: Arc<EventFd>,
}

/// What the tail's thread is asked for.
enum Order {
    Open { gang: GangId, attempts: Vec<Vec<String>> },
    Mirror { gang: GangId, std_dir: PathBuf, notes: Notes },
    End { gang: GangId, files: Vec<String> },
    EndAll { gang: GangId },
    CaughtUp { gang: GangId, reply: oneshot::Sender<()> },
    Release { gang: GangId },
    Attach { session: u64, upstream: tokio::sync::mpsc::Sender<LogChunk> },
    Detach { session: u64 },
    Ack { session: u64, ack: LogAck },
    Close { reply: oneshot::Sender<()> },
}

impl Spool {
    /// Starts the tail of this folder, and goes on with what an earlier agent left in it. An attempt may hold
    /// `quota_bytes` of logs here that are not stored yet.
    ///
    /// # Errors
    /// The folder cannot be made, or the kernel gives no inotify instance or thread.
    pub fn start(folder: PathBuf, node: String, quota_bytes: u64) -> io::Result<Spool> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let (queue, orders) = mpsc::channel();
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let board = Arc::<usage::Board>::default();
        let (bell, shown) = (Arc::clone(&wake), Arc::clone(&board));
        let tail = tail::Tail::new(folder.clone(), node.clone(), quota_bytes, orders, bell, shown)?;
        std::thread::Builder::new().name("log-tail".into()).spawn(move || tail.run())?;
        Ok(Spool { folder, node, orders: Arc::new(Orders { queue: Some(queue), wake }), board })
    }

    /// Where the files of a gang are.
    #[must_use]
    pub fn gang_folder(&self, gang: GangId) -> PathBuf {
        self.folder.join(gang.to_string())
    }

    /// Gangs that have a folder here.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn gangs(&self) -> io::Result<Vec<GangId>> {
        let mut gangs = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            gangs.extend(entry?.file_name().to_str().and_then(parse_gang));
        }
        Ok(gangs)
    }

    /// The steps of a gang, to be written to this file of it.
    #[must_use]
    pub fn notes(&self, gang: GangId, file: &str) -> Notes {
        Notes::new(self.gang_folder(gang).join(file), self.node.clone())
    }

    /// How full it is.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.board.usage()
    }

    /// Makes the folder of a gang and uploads what comes into it. May be repeated. `attempts`: the files of
    /// each attempt, which share its quota.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(&self, gang: GangId, attempts: Vec<Vec<String>>) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        let folder = self.gang_folder(gang);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        self.order(Order::Open { gang, attempts });
        Ok(())
    }

    /// Copies the files of a gang to this directory too, as long as the gang is held.
    pub fn mirror(&self, gang: GangId, std_dir: PathBuf, notes: Notes) {
        self.order(Order::Mirror { gang, std_dir, notes });
    }

    /// These files get no more bytes: their ends are uploaded too.
    pub fn end(&self, gang: GangId, files: Vec<String>) {
        self.order(Order::End { gang, files });
    }

    /// No file of this gang gets more bytes.
    pub fn end_all(&self, gang: GangId) {
        self.order(Order::EndAll { gang });
    }

    /// Answers once the mirror has all that the spool holds now; fails if there is no mirror.
    pub fn caught_up(&self, gang: GangId) -> oneshot::Receiver<()> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::CaughtUp { gang, reply });
        answer
    }

    /// Removes the folder of a gang as soon as the coordinator has all of it.
    pub fn release(&self, gang: GangId) {
        self.order(Order::Release { gang });
    }

    /// Chunks of this session go here from now on; each file goes on from its acknowledged offset.
    pub fn attach(&self, session: u64, upstream: tokio::sync::mpsc::Sender<LogChunk>) {
        self.order(Order::Attach { session, upstream });
    }

    /// The session is gone.
    pub fn detach(&self, session: u64) {
        self.order(Order::Detach { session });
    }

    /// The coordinator has so much on its disk.
    pub fn ack(&self, session: u64, ack: LogAck) {
        self.order(Order::Ack { session, ack });
    }

    /// Ends the thread; files stay for the next agent. Answers when it is done.
    pub fn close(&self) -> oneshot::Receiver<()> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::Close { reply });
        answer
    }

    fn order(&self, order: Order) {
        // Both fail only when the thread is gone, which is logged where it ends.
        if self.orders.queue.as_ref().is_some_and(|queue| queue.send(order).is_ok()) {
            self.orders.ring();
        }
    }
}

impl Orders {
    fn ring(&self) {
        // The only failure of a non-blocking eventfd is a full counter, which wakes as well.
        self.wake.write(1).ok();
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        // First the queue, then the bell: the thread must find that nobody is left.
        self.queue = None;
        self.ring();
    }
}

fn parse_gang(name: &str) -> Option<GangId> {
    let (job, gang) = name.split_once('.')?;
    let id = GangId { job: JobId(job.parse().ok()?), gang: GangNo(gang.parse().ok()?) };
    (id.to_string() == name).then_some(id)
}

/// The last lines of a file: at most so many bytes, lossy.
#[must_use]
pub fn tail_of(path: &Path, bytes_max: u64) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(bytes_max);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(bytes_max).read_to_end(&mut bytes)?;
        // Not the rest of a line, if there are whole ones behind it.
        let cut =
            bytes.iter().position(|byte| *byte == b'\n').filter(|cut| start > 0 && cut + 1 < bytes.len());
        Ok(bytes.split_off(cut.map_or(0, |cut| cut + 1)))
    };
    // A task that was never started has no stderr.
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let mut cut = text.len().saturating_sub(usize::try_from(bytes_max).unwrap_or(usize::MAX));
    while !text.is_char_boundary(cut) {
        cut += 1;
    }
    text[cut..].to_owned()
}
