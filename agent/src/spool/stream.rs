//! One log file of the spool: how far it is written, sent and stored, and what of it is no longer here.
//!
//! Offsets are those of the stream: byte 0 is the first that was ever written. The file has no byte below
//! `freed`: what was not sent by then is a gap. What goes is always the oldest, so that one number tells it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use trainyard_proto::LOG_CHUNK_BYTES;

use super::hole;

/// The end of a file always stays: the last lines of a task are reported with its end.
const KEPT_TAIL_BYTES: u64 = 64 * 1024;
/// Space that is kept for what a task writes next, so that a full disk does not fail its writes at once.
const AHEAD_BYTES: u64 = 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Stream {
    file: Option<File>,
    /// Of the file's first byte; it grows when a task truncates its own log file.
    base: u64,
    /// Up to where bytes were seen.
    seen: u64,
    /// Below this nothing is in the file any more.
    freed: u64,
    /// In this session.
    pub(super) sent: u64,
    pub(super) acked: u64,
    /// It may hold more than was sent.
    pub(super) dirty: bool,
    /// It gets no more bytes.
    pub(super) ended: bool,
    pub(super) end_sent: bool,
    pub(super) end_acked: bool,
    /// Up to where space is kept in the file; `None`: this file system cannot.
    kept: Option<u64>,
}

/// What of a stream outlives the agent: acknowledged offset and end, base, freed.
pub(super) type Saved = (u64, bool, u64, u64);

/// What goes up next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Bytes(Vec<u8>),
    /// So many bytes are gone.
    Gap(u64),
}

/// What was given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Freed {
    /// All of it.
    pub(super) bytes: u64,
    /// What of it was never sent: from, to.
    pub(super) gap: Option<(u64, u64)>,
}

impl Stream {
    pub(super) fn new(saved: Option<Saved>) -> Stream {
        let (acked, end_acked, base, freed) = saved.unwrap_or_default();
        Stream {
            base,
            seen: freed.max(base),
            freed,
            sent: acked,
            acked,
            end_acked,
            kept: Some(0),
            ..Stream::default()
        }
    }

    pub(super) fn saved(&self) -> Saved {
        (self.acked, self.end_acked, self.base, self.freed)
    }

    /// Bytes that the file holds.
    pub(super) fn held(&self) -> u64 {
        self.seen.saturating_sub(self.freed)
    }

    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    pub(super) fn freed(&self) -> u64 {
        self.freed
    }

    pub(super) fn base(&self) -> u64 {
        self.base
    }

    pub(super) fn end(&mut self) {
        self.ended = true;
        self.dirty |= !self.end_acked && !self.end_sent;
    }

    /// The file is not read any more.
    pub(super) fn close(&mut self) {
        self.file = None;
    }

    pub(super) fn send_again(&mut self) {
        self.sent = self.acked;
        self.end_sent = false;
        self.dirty = !self.end_acked;
    }

    /// Looks how long the file is, and keeps some space for what comes. Whether its task has cut it off.
    pub(super) fn look(&mut self, path: &Path) -> io::Result<bool> {
        if self.end_acked {
            return Ok(false);
        }
        let Some(length) = self.open(path)?.map(File::metadata).transpose()?.map(|found| found.len()) else {
            return Ok(false);
        };
        let now = self.base + length;
        let is_cut = now < self.seen;
        if is_cut {
            // `> /dev/stdout` truncates: what comes now follows all that was ever seen.
            self.base = self.seen;
            self.freed = self.freed.max(self.seen);
            self.kept = self.kept.map(|_| 0);
        }
        self.seen = self.base + length;
        self.keep_space(length);
        Ok(is_cut)
    }

    fn keep_space(&mut self, length: u64) {
        let (Some(kept), Some(file), false) = (self.kept, &self.file, self.ended) else { return };
        if kept >= length + AHEAD_BYTES / 2 {
            return;
        }
        match hole::keep_space(file, length, AHEAD_BYTES) {
            Ok(()) => self.kept = Some(length + AHEAD_BYTES),
            // Tried again when the file grows: other bytes may be given back by then.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
            Err(error) => {
                tracing::debug!(%error, "no space can be kept for a log file");
                self.kept = None;
            }
        }
    }

    /// The file; `None` if there is none, as of a task that was never started.
    fn open(&mut self, path: &Path) -> io::Result<Option<&File>> {
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            let file = match options.read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path) {
                // A disk that has become read-only can still be read.
                Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)
                }
                other => other,
            };
            let file = match file {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            // An agent that died may have punched a hole after it last wrote down how far it was.
            self.freed = self.freed.max(self.base + hole::end_of_first(&file)?);
            self.seen = self.seen.max(self.freed);
            if self.base + file.metadata()?.len() < self.seen {
                // It was cut off while no agent ran.
                self.base = self.seen.max(self.acked);
                self.freed = self.base;
                self.seen = self.base;
            }
            self.file = Some(file);
        }
        Ok(self.file.as_ref())
    }

    /// Up to where [`Stream::free`] would go for this offset; holes end at block borders, and the tail stays.
    pub(super) fn freeable(&self, up_to: u64) -> u64 {
        let end = up_to.min(self.seen.saturating_sub(KEPT_TAIL_BYTES)).saturating_sub(self.base);
        (self.base + end / hole::ALIGN_BYTES * hole::ALIGN_BYTES).max(self.freed)
    }

    /// Counts everything below this offset as gone. It is so once [`Stream::punch`] has been called; whoever
    /// reads the file besides has to be told in between.
    pub(super) fn free(&mut self, up_to: u64) -> Freed {
        let up_to = self.freeable(up_to);
        let unsent = self.freed.max(self.sent).max(self.acked);
        let freed = Freed {
            bytes: up_to.saturating_sub(self.freed),
            gap: (up_to > unsent).then_some((unsent, up_to)),
        };
        self.freed = up_to;
        freed
    }

    /// Gives the space back.
    pub(super) fn punch(&self) -> io::Result<()> {
        match &self.file {
            Some(file) if self.freed > self.base => hole::punch(file, self.freed - self.base),
            Some(_) | None => Ok(()),
        }
    }

    /// What goes up next, and whether the stream ends behind it.
    pub(super) fn next_piece(&mut self, path: &Path) -> io::Result<(Piece, bool)> {
        if self.open(path)?.is_none() {
            self.dirty = false;
            return Ok((Piece::Bytes(Vec::new()), self.ended && !self.end_sent));
        }
        if self.sent < self.freed {
            let is_last = self.ended && !self.end_sent && self.freed == self.seen;
            return Ok((Piece::Gap(self.freed - self.sent), is_last));
        }
        let Some(file) = &self.file else { return Ok((Piece::Bytes(Vec::new()), false)) };
        let mut data = vec![0; LOG_CHUNK_BYTES];
        let from = self.sent - self.base;
        let mut filled = 0;
        while filled < data.len() {
            match file.read_at(&mut data[filled..], from + filled as u64) {
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
        // A small piece waits in a queue: it must not hold the memory of a large one.
        data.shrink_to_fit();
        self.seen = self.seen.max(self.sent + filled as u64);
        Ok((Piece::Bytes(data), end))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn all(stream: &mut Stream, path: &Path) -> Vec<Piece> {
        let mut pieces = Vec::new();
        loop {
            let (piece, end) = stream.next_piece(path).unwrap();
            let length = match &piece {
                Piece::Bytes(bytes) => bytes.len() as u64,
                Piece::Gap(length) => *length,
            };
            if length == 0 && !end {
                return pieces;
            }
            stream.sent += length;
            stream.end_sent |= end;
            pieces.push(piece);
        }
    }

    #[test]
    fn what_is_given_back_unsent_is_an_exact_gap_also_for_the_next_agent() {
        let folder = tempfile::tempdir().unwrap();
        if hole::probe(folder.path()).is_err() {
            eprintln!("SKIPPED: this file system has no holes");
            return;
        }
        let path = folder.path().join("log");
        std::fs::write(&path, vec![7; 500_000]).unwrap();
        let mut stream = Stream::new(None);
        assert!(!stream.look(&path).unwrap());
        assert_eq!(stream.held(), 500_000);
        let freed = stream.free(200_000);
        stream.punch().unwrap();
        let hole = 200_000 / hole::ALIGN_BYTES * hole::ALIGN_BYTES;
        assert_eq!(freed, Freed { bytes: hole, gap: Some((0, hole)) });
        // The next agent was told nothing by this one.
        for mut stream in [stream, Stream::new(None)] {
            stream.look(&path).unwrap();
            let pieces = all(&mut stream, &path);
            assert_eq!(pieces[0], Piece::Gap(hole));
            assert_eq!(stream.sent, 500_000);
            assert!(
                pieces[1..]
                    .iter()
                    .all(|piece| matches!(piece, Piece::Bytes(bytes) if bytes.iter().all(|b| *b == 7)))
            );
        }
        let mut whole = Stream::new(None);
        whole.look(&path).unwrap();
        whole.free(u64::MAX);
        assert!(whole.held() >= KEPT_TAIL_BYTES, "the last lines stay");
    }

    #[test]
    fn a_task_that_cuts_its_log_off_loses_what_was_not_sent_and_nothing_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "0123456789").unwrap();
        let mut stream = Stream::new(None);
        stream.look(&path).unwrap();
        stream.sent = 4;
        std::fs::write(&path, "new").unwrap();
        assert!(stream.look(&path).unwrap());
        stream.end();
        assert_eq!(all(&mut stream, &path), [Piece::Gap(6), Piece::Bytes(b"new".to_vec())]);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b" end").unwrap();
        stream.end_sent = false;
        stream.look(&path).unwrap();
        assert_eq!(all(&mut stream, &path), [Piece::Bytes(b" end".to_vec())]);
        assert_eq!(stream.sent, 17);
    }
}
