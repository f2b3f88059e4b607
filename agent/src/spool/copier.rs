//! Mirrors the files of one gang to its `std_dir`, in a thread of its own: a write to a dead mount hangs
//! this thread and nothing else.
//!
//! Where a target already holds bytes of an earlier gang, this gang's follow them; `.mirror` in the spool
//! folder keeps where they begin, so that a restarted agent goes on at the right byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::sync::oneshot;

use super::Notes;

const BLOCK_BYTES: usize = 256 * 1024;
const BASES: &str = ".mirror";

/// The tail's end of a copier. Dropping it lets the thread finish what it has.
pub(super) struct Copier {
    orders: mpsc::Sender<Order>,
    dirty: Arc<Mutex<BTreeSet<String>>>,
}

enum Order {
    Copy,
    CaughtUp(oneshot::Sender<()>),
}

impl Copier {
    pub(super) fn start(spool: PathBuf, std_dir: PathBuf, notes: Notes) -> io::Result<Copier> {
        let (orders, received) = mpsc::channel();
        let dirty = Arc::new(Mutex::new(BTreeSet::new()));
        let mirror = Mirror {
            bases: read_bases(&spool),
            spool,
            std_dir,
            notes,
            open: BTreeMap::new(),
            failed: BTreeSet::new(),
        };
        let shared = Arc::clone(&dirty);
        std::thread::Builder::new().name("log-copy".into()).spawn(move || run(mirror, &received, &shared))?;
        Ok(Copier { orders, dirty })
    }

    /// These files have grown.
    pub(super) fn copy(&self, files: impl IntoIterator<Item = String>) {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = dirty.is_empty();
        dirty.extend(files);
        if idle && !dirty.is_empty() {
            // It fails only when the thread has died, and then there is nothing to tell.
            self.orders.send(Order::Copy).ok();
        }
    }

    /// Answers once all that was marked so far is copied, or cannot be.
    pub(super) fn caught_up(&self, reply: oneshot::Sender<()>) {
        self.orders.send(Order::CaughtUp(reply)).ok();
    }
}

fn run(mut mirror: Mirror, orders: &mpsc::Receiver<Order>, dirty: &Mutex<BTreeSet<String>>) {
    while let Ok(order) = orders.recv() {
        let files = std::mem::take(&mut *dirty.lock().unwrap_or_else(PoisonError::into_inner));
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
}

struct Pair {
    from: File,
    to: File,
    /// Bytes of `from` that are in `to`.
    done: u64,
}

impl Mirror {
    fn copy(&mut self, file: &str) {
        if let Err(error) = self.try_copy(file) {
            // It is opened anew next time: what did not work may work then.
            self.open.remove(file);
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
            let count = pair.from.read_at(&mut block, pair.done)?;
            if count == 0 {
                return Ok(());
            }
            pair.to.write_all(&block[..count])?;
            pair.done += count as u64;
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
        Ok(Pair { from, to, done: target.len() - base })
    }
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
