//! The one thread that uploads the spool: inotify, a short wait, then blocks of 256 KiB, file by file in
//! turn. It also gives space back: what is stored and mirrored, and the oldest bytes where a task has outrun
//! its quota or the disk is nearly full.
//!
//! It never blocks: where the stream to the coordinator is full, it looks again a little later. Nothing of a
//! file is kept in memory beyond the block that is being sent and the few that wait in the stream.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchMask};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use tokio::sync::oneshot;
use trainyard_core::id::GangId;
use trainyard_proto::v1::{LogAck, LogChunk};

use super::copier::Copier;
use super::gang::{GangFiles, Given};
use super::hole::{self, Space};
use super::stream::{Piece, Stream};
use super::usage::{Board, Usage};
use super::{Notes, Order};

/// After an event, before reading: a writer of many small lines costs one read then, not one each.
const SETTLE: Duration = Duration::from_millis(2);
/// How long to wait where the stream to the coordinator is full, in ms: from, to.
const FULL_MS: (u16, u16) = (1, 32);
/// Between two looks whether the mirror of a gang that is over is complete, in ms.
const MIRROR_LOOK_MS: u16 = 200;
/// What logs leave free on a disk: an eighth of it, and no more than this. The agent's own records need it.
const RESERVE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Stored bytes are given back in pieces of a sixteenth of the quota, but at least and at most so large.
const PIECE_BYTES: (u64, u64) = (1024 * 1024, 64 * 1024 * 1024);

pub(super) struct Tail {
    folder: PathBuf,
    node: String,
    orders: mpsc::Receiver<Order>,
    wake: Arc<EventFd>,
    inotify: Inotify,
    watches: BTreeMap<i32, GangId>,
    gangs: BTreeMap<GangId, GangFiles>,
    upstream: Option<(u64, tokio::sync::mpsc::Sender<LogChunk>)>,
    quota_bytes: u64,
    /// Whether this file system can give back parts of files.
    has_holes: bool,
    board: Arc<Board>,
    /// The next wait for a full stream.
    full_ms: u16,
}

impl Tail {
    pub(super) fn new(
        folder: PathBuf,
        node: String,
        quota_bytes: u64,
        orders: mpsc::Receiver<Order>,
        wake: Arc<EventFd>,
        board: Arc<Board>,
    ) -> io::Result<Tail> {
        let holes = hole::probe(&folder);
        if let Err(error) = &holes {
            tracing::warn!(folder = %folder.display(), %error, "no log quota: the file system of the spool cannot give back parts of files");
        }
        let problem = match &holes {
            Ok(()) => String::new(),
            Err(error) => {
                format!("no log quota: the spool's file system cannot give back parts of files ({error})")
            }
        };
        board.set(Usage { quota_bytes, problem, ..Usage::default() });
        Ok(Tail {
            folder,
            node,
            orders,
            wake,
            inotify: Inotify::init()?,
            watches: BTreeMap::new(),
            gangs: BTreeMap::new(),
            upstream: None,
            quota_bytes,
            has_holes: holes.is_ok(),
            board,
            full_ms: FULL_MS.0,
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
        let timeout = self.patience();
        let grown = self.wait(timeout)?;
        if grown {
            if timeout != PollTimeout::ZERO {
                std::thread::sleep(SETTLE);
            }
            self.read_events()?;
        }
        loop {
            match self.orders.try_recv() {
                Ok(Order::Close { reply }) => {
                    self.remove_what_is_done();
                    return Ok(Some(Some(reply)));
                }
                Ok(order) => self.obey(order),
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => return Ok(Some(None)),
            }
        }
        self.make_room();
        self.send_round();
        self.remove_what_is_done();
        Ok(None)
    }

    /// How long to wait for something to happen.
    fn patience(&mut self) -> PollTimeout {
        let is_dirty = self.gangs.values().any(GangFiles::is_dirty);
        match &self.upstream {
            Some((_, upstream)) if is_dirty && upstream.capacity() > 0 => {
                self.full_ms = FULL_MS.0;
                PollTimeout::ZERO
            }
            Some(_) if is_dirty => {
                let wait = self.full_ms;
                self.full_ms = (wait * 2).min(FULL_MS.1);
                wait.into()
            }
            Some(_) | None if self.gangs.values().any(GangFiles::is_stored) => MIRROR_LOOK_MS.into(),
            Some(_) | None => PollTimeout::NONE,
        }
    }

    /// Whether files have grown.
    fn wait(&self, timeout: PollTimeout) -> io::Result<bool> {
        let mut fds = [
            PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
        ];
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
            Order::Open { gang, attempts } => self.open(gang, attempts),
            Order::Mirror { gang, std_dir, notes } => self.mirror(gang, std_dir, notes),
            Order::End { gang, files } => {
                if let Some(gang) = self.gangs.get_mut(&gang) {
                    for file in files {
                        gang.look_again(&file);
                    }
                }
            }
            Order::EndAll { gang } => {
                if let Some(gang) = self.gangs.get_mut(&gang) {
                    gang.look();
                    gang.all_ended = true;
                    gang.files.values_mut().for_each(Stream::end);
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
                }
            }
            Order::Attach { session, upstream } => {
                self.upstream = Some((session, upstream));
                self.gangs.values_mut().flat_map(|gang| gang.files.values_mut()).for_each(Stream::send_again);
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

    fn open(&mut self, id: GangId, attempts: Vec<Vec<String>>) {
        if self.gangs.contains_key(&id) {
            return;
        }
        let folder = self.folder.join(id.to_string());
        let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::ONLYDIR;
        match self.inotify.watches().add(&folder, mask) {
            Ok(watch) => {
                self.watches.insert(watch.get_watch_descriptor_id(), id);
                let mut gang = GangFiles::new(folder, watch, attempts);
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
        gang.notes = Some(notes.clone());
        match Copier::start(gang.folder.clone(), std_dir, notes) {
            Ok(copier) => {
                for (name, file) in &gang.files {
                    copier.freed(name, file.base(), file.freed());
                }
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
            file.close();
        }
        gang.save_offsets_sometimes();
    }

    fn remove_what_is_done(&mut self) {
        let is_done = |gang: &GangFiles| gang.is_stored() && gang.is_mirrored();
        let done: Vec<GangId> =
            self.gangs.iter().filter(|(_, gang)| is_done(gang)).map(|(id, _)| *id).collect();
        done.into_iter().for_each(|id| self.remove(id));
    }

    fn remove(&mut self, id: GangId) {
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

    /// Gives space back: what is stored and mirrored; where that is not enough, the oldest bytes of all.
    fn make_room(&mut self) {
        if !self.has_holes {
            return;
        }
        let space = hole::space(&self.folder).unwrap_or_default();
        let reserve = (space.total / 8).min(RESERVE_BYTES_MAX);
        let is_tight = space.free < reserve * 2;
        let (least, most) = PIECE_BYTES;
        let piece = if is_tight { hole::ALIGN_BYTES } else { (self.quota_bytes / 16).clamp(least, most) };
        let mut given = Given::default();
        for gang in self.gangs.values_mut() {
            given.add(gang.free_stored(piece));
            given.add(gang.enforce(self.quota_bytes));
        }
        let missing = reserve.saturating_sub(space.free.saturating_add(given.bytes));
        if space.total > 0 && missing > 0 {
            given.add(self.drop_largest(missing));
        }
        self.publish(space, given);
    }

    /// The disk is nearly full: the files that hold most lose their oldest bytes.
    fn drop_largest(&mut self, bytes: u64) -> Given {
        let mut given = Given::default();
        let mut all: Vec<(u64, GangId, String)> = self
            .gangs
            .iter()
            .flat_map(|(id, gang)| gang.files.iter().map(|(name, file)| (file.held(), *id, name.clone())))
            .collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        for (_, id, name) in all {
            let left = bytes.saturating_sub(given.bytes);
            let Some(gang) = self.gangs.get_mut(&id).filter(|_| left > 0) else { break };
            given.add(gang.drop_oldest(&name, left, "the disk of this node was nearly full"));
        }
        given
    }

    fn publish(&self, space: Space, given: Given) {
        let held_bytes = self.gangs.values().map(GangFiles::held).sum();
        let files = self.gangs.values().map(|gang| gang.files.len()).sum();
        self.board.change(|usage| {
            usage.held_bytes = held_bytes;
            usage.files = files;
            usage.free_bytes = space.free;
            usage.dropped_bytes += given.dropped;
            usage.gaps += given.gaps;
        });
    }

    /// One block of each file that has some: a flood of one file does not starve the others.
    fn send_round(&mut self) {
        let Some((_, upstream)) = &self.upstream else { return };
        for (id, gang) in &mut self.gangs {
            for (name, file) in gang.files.iter_mut().filter(|(_, file)| file.dirty) {
                if upstream.capacity() == 0 {
                    if upstream.is_closed() {
                        // The session is gone; all goes again with the next one.
                        self.upstream = None;
                    }
                    return;
                }
                let (piece, end) = match file.next_piece(&gang.folder.join(name)) {
                    Ok(piece) => piece,
                    Err(error) => {
                        tracing::warn!(gang = %id, file = name, %error, "log file cannot be read");
                        file.dirty = false;
                        continue;
                    }
                };
                let (data, gap) = match piece {
                    Piece::Bytes(data) => (data, 0),
                    Piece::Gap(bytes) => (Vec::new(), bytes),
                };
                if data.is_empty() && gap == 0 && !end {
                    continue;
                }
                let bytes = data.len() as u64 + gap;
                let chunk = LogChunk {
                    generation: 0,
                    node: self.node.clone(),
                    gang: Some((*id).into()),
                    file: name.clone(),
                    offset: file.sent,
                    data: data.into(),
                    end,
                    gap,
                };
                // There is room, and nobody else sends.
                if upstream.try_send(chunk).is_err() {
                    self.upstream = None;
                    return;
                }
                file.sent += bytes;
                file.end_sent |= end;
            }
        }
    }
}
