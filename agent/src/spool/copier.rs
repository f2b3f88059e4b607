//! Mirrors the files of one gang to its `std_dir`, in a thread of its own: a write to a dead mount hangs
//! this thread and nothing else.
//!
//! Where a target already holds bytes of an earlier gang, this gang's follow them; `.mirror` in the spool
//! folder keeps where they begin, so that a restarted agent goes on at the right byte. What the spool gave
//! back before it was copied is a hole of the same length in the target: offsets stay those of the stream.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Notes;

const BLOCK_BYTES: usize = 256 * 1024;
const BASES: &str = ".mirror";
/// A mirror that has not moved for so long is not waited for.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// The tail's end of a copier. Dropping it lets the thread finish what it has.
pub(super) struct Copier {
    orders: mpsc::Sender<Order>,
    shared: Arc<Mutex<Shared>>,
}

/// What both sides know. It is never held over a call that can hang.
struct Shared {
    dirty: BTreeSet<String>,
    /// Of files that have given space back: offset of their first byte in the stream, and below which offset
    /// nothing is in the spool any more.
    freed: BTreeMap<String, (u64, u64)>,
    /// Up to which offset of the stream each target is complete, as far as it can be.
    mirrored: BTreeMap<String, u64>,
    /// Some file cannot be written.
    failed: bool,
    /// When it last made a step.
    moved: Instant,
}

enum Order {
    Copy,
    CaughtUp(oneshot::Sender<()>),
}

impl Copier {
    pub(super) fn start(spool: PathBuf, std_dir: PathBuf, notes: Notes) -> io::Result<Copier> {
        let (orders, received) = mpsc::channel();
        let shared = Arc::new(Mutex::new(Shared {
            dirty: BTreeSet::new(),
            freed: BTreeMap::new(),
            mirrored: BTreeMap::new(),
            failed: false,
            moved: Instant::now(),
        }));
        let mirror = Mirror {
            bases: read_bases(&spool),
            spool,
            std_dir,
            notes,
            open: BTreeMap::new(),
            failed: BTreeSet::new(),
            shared: Arc::clone(&shared),
        };
        std::thread::Builder::new().name("log-copy".into()).spawn(move || run(mirror, &received))?;
        Ok(Copier { orders, shared })
    }

    /// These files have grown.
    pub(super) fn copy(&self, files: impl IntoIterator<Item = String>) {
        let mut shared = lock(&self.shared);
        let idle = shared.dirty.is_empty();
        shared.dirty.extend(files);
        if idle && !shared.dirty.is_empty() {
            // A mirror that had nothing to do has not stalled.
            shared.moved = Instant::now();
            // It fails only when the thread has died, and then there is nothing to tell.
            self.orders.send(Order::Copy).ok();
        }
    }

    /// From now on nothing is read of a file below this offset of its stream; `base` is that of its first byte.
    pub(super) fn freed(&self, name: &str, base: u64, below: u64) {
        lock(&self.shared).freed.insert(name.to_owned(), (base, below));
        self.copy([name.to_owned()]);
    }

    /// Up to which offset of the stream the target has all that there is.
    pub(super) fn mirrored(&self, name: &str) -> u64 {
        lock(&self.shared).mirrored.get(name).copied().unwrap_or(0)
    }

    /// Whether it cannot go on, or has not for a while: a dead mount.
    pub(super) fn has_stalled(&self) -> bool {
        let shared = lock(&self.shared);
        shared.failed || shared.moved.elapsed() > STALLED_AFTER
    }

    /// Answers once all that was marked so far is copied, or cannot be.
    pub(super) fn caught_up(&self, reply: oneshot::Sender<()>) {
        self.orders.send(Order::CaughtUp(reply)).ok();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(mut mirror: Mirror, orders: &mpsc::Receiver<Order>) {
    while let Ok(order) = orders.recv() {
        let files = std::mem::take(&mut lock(&mirror.shared).dirty);
        for file in files {
            mirror.copy(&file);
        }
        match order {
            Order::Copy => {}
            // Whoever asked may have stopped waiting.
            Order::CaughtUp(reply) => drop(reply.send(())),
        }
    }
}

struct Mirror {
    spool: PathBuf,
    std_dir: PathBuf,
    notes: Notes,
    /// Where this gang's bytes begin in each target.
    bases: BTreeMap<String, u64>,
    open: BTreeMap<String, Pair>,
    /// Files whose trouble is noted.
    failed: BTreeSet<String>,
    shared: Arc<Mutex<Shared>>,
}

struct Pair {
    from: File,
    to: File,
    /// Where this gang's bytes begin in `to`.
    start: u64,
    /// Up to which offset of the stream they are in `to`.
    done: u64,
}

impl Mirror {
    fn copy(&mut self, file: &str) {
        if let Err(error) = self.try_copy(file) {
            // It is opened anew next time: what did not work may work then.
            self.open.remove(file);
            lock(&self.shared).failed = true;
            if self.failed.insert(file.to_owned()) {
                let target = self.std_dir.join(file);
                self.notes.write(&format!("logs: {} cannot be written: {error}", target.display()));
            }
        }
    }

    fn try_copy(&mut self, file: &str) -> io::Result<()> {
        if !self.open.contains_key(file) {
            let pair = self.open_pair(file)?;
            self.open.insert(file.to_owned(), pair);
        }
        let Some(pair) = self.open.get_mut(file) else { return Ok(()) };
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            let (base, _) = freed_of(&self.shared, file);
            let count = match pair.done.checked_sub(base) {
                Some(offset) => pair.from.read_at(&mut block, offset)?,
                None => 0,
            };
            // Asked after the read: what was given back meanwhile has been read as zeros.
            let (_, below) = freed_of(&self.shared, file);
            if pair.done < below {
                // Never shorter: somebody else may have appended.
                if pair.to.metadata()?.len() < pair.start + below {
                    pair.to.set_len(pair.start + below)?;
                }
                pair.done = below;
            } else if count == 0 {
                moved(&self.shared, file, pair.done);
                return Ok(());
            } else {
                pair.to.write_all(&block[..count])?;
                pair.done += count as u64;
            }
            moved(&self.shared, file, pair.done);
        }
    }

    fn open_pair(&mut self, file: &str) -> io::Result<Pair> {
        let from = File::open(self.spool.join(file))?;
        let to = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o644)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(self.std_dir.join(file))?;
        let target = to.metadata()?;
        if !target.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let base = match self.bases.get(file) {
            Some(base) => (*base).min(target.len()),
            None => {
                self.bases.insert(file.to_owned(), target.len());
                write_bases(&self.spool, &self.bases)?;
                target.len()
            }
        };
        Ok(Pair { from, to, start: base, done: target.len() - base })
    }
}

fn freed_of(shared: &Mutex<Shared>, file: &str) -> (u64, u64) {
    lock(shared).freed.get(file).copied().unwrap_or_default()
}

fn moved(shared: &Mutex<Shared>, file: &str, done: u64) {
    let mut shared = lock(shared);
    shared.moved = Instant::now();
    shared.mirrored.insert(file.to_owned(), done);
}

fn read_bases(spool: &Path) -> BTreeMap<String, u64> {
    // Absent for a new gang; a torn one cannot be, since it is renamed into place.
    std::fs::read(spool.join(BASES))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

fn write_bases(spool: &Path, bases: &BTreeMap<String, u64>) -> io::Result<()> {
    let new = spool.join(".mirror.new");
    std::fs::write(&new, serde_json::to_vec(bases)?)?;
    std::fs::rename(new, spool.join(BASES))
}
