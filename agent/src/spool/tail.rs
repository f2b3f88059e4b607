//! The one thread that uploads the spool: inotify, a short wait, then blocks of 256 KiB, file by file in
//! turn. Each file keeps two offsets: sent in this session, and acknowledged as durable.
//!
//! It blocks when the stream to the coordinator is full, and only there. Nothing of a file is kept in
//! memory beyond the block that is being sent and the few that wait in the stream.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchMask};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use tokio::sync::oneshot;
use trainyard_core::id::GangId;
use trainyard_proto::LOG_CHUNK_BYTES;
use trainyard_proto::v1::{LogAck, LogChunk};

use super::copier::Copier;
use super::{Notes, Order};

/// After an event, before reading: a writer of many small lines costs one read then, not one each.
const SETTLE: Duration = Duration::from_millis(2);
/// Acknowledged offsets are written down after so many bytes; what came later is sent twice after a crash.
const SAVE_EVERY_BYTES: u64 = 4 * 1024 * 1024;
const OFFSETS: &str = ".acked";

pub(super) struct Tail {
    folder: PathBuf,
    node: String,
    orders: mpsc::Receiver<Order>,
    wake: Arc<EventFd>,
    inotify: Inotify,
    watches: BTreeMap<i32, GangId>,
    gangs: BTreeMap<GangId, GangFiles>,
    upstream: Option<(u64, tokio::sync::mpsc::Sender<LogChunk>)>,
}

struct GangFiles {
    folder: PathBuf,
    watch: inotify::WatchDescriptor,
    files: BTreeMap<String, LogFile>,
    copier: Option<Copier>,
    /// Asked before there was a mirror.
    all_ended: bool,
    released: bool,
    saved_bytes: u64,
}

#[derive(Default)]
struct LogFile {
    file: Option<File>,
    sent: u64,
    acked: u64,
    /// It may hold more than was sent.
    dirty: bool,
    /// It gets no more bytes.
    ended: bool,
    end_sent: bool,
    end_acked: bool,
}

impl Tail {
    pub(super) fn new(
        folder: PathBuf,
        node: String,
        orders: mpsc::Receiver<Order>,
        wake: Arc<EventFd>,
    ) -> io::Result<Tail> {
        Ok(Tail {
            folder,
            node,
            orders,
            wake,
            inotify: Inotify::init()?,
            watches: BTreeMap::new(),
            gangs: BTreeMap::new(),
            upstream: None,
        })
    }

    pub(super) fn run(mut self) {
        let closed = loop {
            match self.turn() {
                Ok(None) => {}
                Ok(Some(closed)) => break closed,
                Err(error) => {
                    tracing::error!(%error, "log tail has failed: nothing is uploaded until the agent restarts");
                    break None;
                }
            }
        };
        for gang in self.gangs.values_mut() {
            gang.save_offsets();
        }
        if let Some(reply) = closed {
            reply.send(()).ok();
        }
    }

    /// Waits for something to do and does it; the answer to `Close`, if that came or nobody is left to ask.
    fn turn(&mut self) -> io::Result<Option<Option<oneshot::Sender<()>>>> {
        let busy = self.upstream.is_some() && self.gangs.values().any(GangFiles::is_dirty);
        let grown = self.wait(busy)?;
        if grown {
            if !busy {
                std::thread::sleep(SETTLE);
            }
            self.read_events()?;
        }
        loop {
            match self.orders.try_recv() {
                Ok(Order::Close { reply }) => return Ok(Some(Some(reply))),
                Ok(order) => self.obey(order),
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => return Ok(Some(None)),
            }
        }
        self.send_round();
        Ok(None)
    }

    /// Whether files have grown.
    fn wait(&self, busy: bool) -> io::Result<bool> {
        let mut fds = [
            PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
        ];
        let timeout = if busy { PollTimeout::ZERO } else { PollTimeout::NONE };
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
        if fds[1].any().unwrap_or(false) {
            match self.wake.read() {
                Ok(_) | Err(nix::errno::Errno::EAGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(fds[0].any().unwrap_or(false))
    }

    fn read_events(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            let events = match self.inotify.read_events(&mut buffer) {
                Ok(events) => events,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            for event in events {
                if event.mask.contains(EventMask::Q_OVERFLOW) {
                    self.gangs.values_mut().for_each(GangFiles::look);
                    continue;
                }
                let gang = self.watches.get(&event.wd.get_watch_descriptor_id());
                let gang = gang.and_then(|gang| self.gangs.get_mut(gang));
                if let (Some(gang), Some(name)) = (gang, event.name.and_then(std::ffi::OsStr::to_str)) {
                    gang.mark(name);
                }
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Open { gang } => self.open(gang),
            Order::Mirror { gang, std_dir, notes } => self.mirror(gang, std_dir, notes),
            Order::End { gang, files } => {
                if let Some(gang) = self.gangs.get_mut(&gang) {
                    for file in files {
                        gang.files.entry(file).or_default().end();
                    }
                }
            }
            Order::EndAll { gang } => {
                if let Some(gang) = self.gangs.get_mut(&gang) {
                    gang.look();
                    gang.all_ended = true;
                    gang.files.values_mut().for_each(LogFile::end);
                }
            }
            Order::CaughtUp { gang, reply } => {
                if let Some(gang) = self.gangs.get_mut(&gang) {
                    gang.look();
                    if let Some(copier) = &gang.copier {
                        copier.caught_up(reply);
                    }
                }
            }
            Order::Release { gang } => {
                if let Some(files) = self.gangs.get_mut(&gang) {
                    files.released = true;
                    self.remove_if_done(gang);
                }
            }
            Order::Attach { session, upstream } => {
                self.upstream = Some((session, upstream));
                self.gangs
                    .values_mut()
                    .flat_map(|gang| gang.files.values_mut())
                    .for_each(LogFile::send_again);
            }
            Order::Detach { session } => {
                if self.upstream.as_ref().is_some_and(|(open, _)| *open == session) {
                    self.upstream = None;
                    self.gangs.values_mut().for_each(GangFiles::save_offsets);
                }
            }
            Order::Ack { session, ack } => {
                if self.upstream.as_ref().is_some_and(|(open, _)| *open == session) {
                    self.on_ack(ack);
                }
            }
            // Taken out by the caller.
            Order::Close { .. } => {}
        }
    }

    fn open(&mut self, id: GangId) {
        if self.gangs.contains_key(&id) {
            return;
        }
        let folder = self.folder.join(id.to_string());
        let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::ONLYDIR;
        match self.inotify.watches().add(&folder, mask) {
            Ok(watch) => {
                self.watches.insert(watch.get_watch_descriptor_id(), id);
                let mut gang = GangFiles::new(folder, watch);
                gang.look();
                self.gangs.insert(id, gang);
            }
            Err(error) => {
                tracing::error!(folder = %folder.display(), %error, "logs cannot be watched: see fs.inotify.max_user_watches");
            }
        }
    }

    fn mirror(&mut self, id: GangId, std_dir: PathBuf, notes: Notes) {
        let Some(gang) = self.gangs.get_mut(&id).filter(|gang| gang.copier.is_none()) else { return };
        match Copier::start(gang.folder.clone(), std_dir, notes) {
            Ok(copier) => {
                gang.copier = Some(copier);
                gang.look();
            }
            Err(error) => tracing::error!(gang = %id, %error, "no thread for mirroring logs"),
        }
    }

    fn on_ack(&mut self, ack: LogAck) {
        let Some(id) = ack.gang.map(GangId::from) else { return };
        let Some(gang) = self.gangs.get_mut(&id) else { return };
        let Some(file) = gang.files.get_mut(&ack.file) else { return };
        if ack.durable_offset < file.acked {
            // The coordinator's copy is older than ours: it was restored from a backup.
            file.sent = ack.durable_offset;
            file.dirty = true;
        }
        file.sent = file.sent.max(ack.durable_offset);
        file.acked = ack.durable_offset;
        file.end_acked |= ack.end;
        if file.end_acked {
            file.file = None;
        }
        gang.save_offsets_sometimes();
        self.remove_if_done(id);
    }

    fn remove_if_done(&mut self, id: GangId) {
        if !self.gangs.get(&id).is_some_and(GangFiles::is_done) {
            return;
        }
        let Some(gang) = self.gangs.remove(&id) else { return };
        self.watches.remove(&gang.watch.get_watch_descriptor_id());
        // The kernel drops the watch itself if the folder is gone already.
        self.inotify.watches().remove(gang.watch).ok();
        let folder = gang.folder;
        match std::fs::remove_dir_all(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "spool folder cannot be removed")
            }
        }
    }

    /// One block of each file that has some: a flood of one file does not starve the others.
    fn send_round(&mut self) {
        let Some((_, upstream)) = &self.upstream else { return };
        for (id, gang) in &mut self.gangs {
            for (name, file) in gang.files.iter_mut().filter(|(_, file)| file.dirty) {
                let (data, end) = match file.next_block(&gang.folder.join(name)) {
                    Ok(block) => block,
                    Err(error) => {
                        tracing::warn!(gang = %id, file = name, %error, "log file cannot be read");
                        file.dirty = false;
                        continue;
                    }
                };
                if data.is_empty() && !end {
                    continue;
                }
                let chunk = LogChunk {
                    generation: 0,
                    node: self.node.clone(),
                    gang: Some((*id).into()),
                    file: name.clone(),
                    offset: file.sent,
                    data: data.into(),
                    end,
                    gap: 0,
                };
                let bytes = chunk.data.len() as u64;
                if upstream.blocking_send(chunk).is_err() {
                    // The session is gone; all goes again with the next one.
                    self.upstream = None;
                    return;
                }
                file.sent += bytes;
                file.end_sent |= end;
            }
        }
    }
}

impl GangFiles {
    fn new(folder: PathBuf, watch: inotify::WatchDescriptor) -> GangFiles {
        let offsets: BTreeMap<String, (u64, bool)> = std::fs::read(folder.join(OFFSETS))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let known = |(acked, end_acked)| LogFile { sent: acked, acked, end_acked, ..LogFile::default() };
        GangFiles {
            folder,
            watch,
            saved_bytes: offsets.values().map(|(acked, _)| acked).sum(),
            files: offsets.into_iter().map(|(name, offset)| (name, known(offset))).collect(),
            copier: None,
            all_ended: false,
            released: false,
        }
    }

    fn is_dirty(&self) -> bool {
        self.files.values().any(|file| file.dirty)
    }

    fn is_done(&self) -> bool {
        self.released && self.files.values().all(|file| file.end_acked)
    }

    fn mark(&mut self, name: &str) {
        if name.starts_with('.') {
            return;
        }
        let ended = self.all_ended;
        let file = self.files.entry(name.to_owned()).or_default();
        file.dirty |= !file.end_acked && !file.end_sent;
        if ended {
            file.end();
        }
        if let Some(copier) = &self.copier {
            copier.copy([name.to_owned()]);
        }
    }

    /// Marks every file that is there.
    fn look(&mut self) {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(folder = %self.folder.display(), %error, "spool folder cannot be read");
                return;
            }
        };
        for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            self.mark(&name);
        }
    }

    fn acked_bytes(&self) -> u64 {
        self.files.values().map(|file| file.acked).sum()
    }

    fn save_offsets_sometimes(&mut self) {
        if self.acked_bytes() >= self.saved_bytes + SAVE_EVERY_BYTES {
            self.save_offsets();
        }
    }

    fn save_offsets(&mut self) {
        let offsets: BTreeMap<&String, (u64, bool)> =
            self.files.iter().map(|(name, file)| (name, (file.acked, file.end_acked))).collect();
        let new = self.folder.join(".acked.new");
        let saved = serde_json::to_vec(&offsets)
            .map_err(io::Error::from)
            .and_then(|text| std::fs::write(&new, text))
            .and_then(|()| std::fs::rename(&new, self.folder.join(OFFSETS)));
        match saved {
            Ok(()) => self.saved_bytes = self.acked_bytes(),
            // Without it, what was acknowledged is sent once more after a restart.
            Err(error) => tracing::debug!(folder = %self.folder.display(), %error, "offsets cannot be saved"),
        }
    }
}

impl LogFile {
    fn end(&mut self) {
        self.ended = true;
        self.dirty |= !self.end_acked && !self.end_sent;
    }

    fn send_again(&mut self) {
        self.sent = self.acked;
        self.end_sent = false;
        self.dirty = !self.end_acked;
    }

    /// The next bytes, and whether the file ends behind them.
    fn next_block(&mut self, path: &Path) -> io::Result<(Vec<u8>, bool)> {
        let file = match &mut self.file {
            Some(file) => file,
            none => match File::open(path) {
                Ok(file) => none.insert(file),
                // A task that was never started: its stream is empty, and has an end.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.dirty = false;
                    return Ok((Vec::new(), self.ended && !self.end_sent));
                }
                Err(error) => return Err(error),
            },
        };
        let mut data = vec![0; LOG_CHUNK_BYTES];
        let mut filled = 0;
        while filled < data.len() {
            match file.read_at(&mut data[filled..], self.sent + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // What is appended from now on makes a new event.
        self.dirty = filled == data.len();
        let end = !self.dirty && self.ended && !self.end_sent;
        data.truncate(filled);
        Ok((data, end))
    }
}
