//! The logs of one gang: append, state, range.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;
use trainyard_core::unit::WallMs;

use super::FileName;
use super::index::{self, Line};

/// Files of one gang: two per task, those of the preparation, and the execution logs.
const FILES: usize = 50_000;

/// Bytes, a gap or an end, as an agent sends them.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Of which file.
    pub file: FileName,
    /// Of the first byte in the stream.
    pub offset: u64,
    /// The bytes; none where there is a gap.
    pub data: Bytes,
    /// Bytes from `offset` on that were dropped on the node.
    pub gap: u64,
    /// The stream ends after this.
    pub end: bool,
}

/// What is on the disk of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Of which file.
    pub file: FileName,
    /// Everything below is on the disk, or is a recorded gap.
    pub durable: u64,
    /// The end is on the disk, too.
    pub end: bool,
}

/// What is known of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileState {
    /// Its length, gaps included. All of it is durable.
    pub size: u64,
    /// Nothing more will come.
    pub end: bool,
    /// Dropped bytes: from, to; in order.
    pub gaps: Vec<(u64, u64)>,
    /// When it last grew.
    pub modified: WallMs,
}

/// The logs of one gang.
pub struct GangLogs {
    folder: PathBuf,
    /// Held while a batch is written, so that two connections of one agent do not mix.
    writing: Mutex<()>,
    files: Mutex<BTreeMap<FileName, FileState>>,
    changes: watch::Sender<u64>,
    forgotten: AtomicBool,
}

impl GangLogs {
    pub(super) fn load(folder: PathBuf) -> io::Result<GangLogs> {
        let mut files: BTreeMap<FileName, FileState> = BTreeMap::new();
        for line in index::read(&folder)? {
            let (Line::End(name) | Line::Gap(name, ..)) = &line;
            let Ok(name) = FileName::parse(name) else { continue };
            let file = files.entry(name).or_default();
            match line {
                Line::End(_) => file.end = true,
                Line::Gap(_, from, to) => file.gaps.push((from, to)),
            }
        }
        match std::fs::read_dir(&folder) {
            Ok(entries) => {
                for entry in entries {
                    let entry = entry?;
                    let Some(name) = entry.file_name().to_str().and_then(|n| FileName::parse(n).ok()) else {
                        continue;
                    };
                    let metadata = entry.metadata()?;
                    let file = files.entry(name).or_default();
                    file.size = metadata.len();
                    file.modified = modified(&metadata);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        for file in files.values_mut() {
            // A gap whose hole was not made before a power cut: the agent sends it again.
            file.gaps.retain(|(_, to)| *to <= file.size);
        }
        Ok(GangLogs {
            folder,
            writing: Mutex::default(),
            files: Mutex::new(files),
            changes: watch::Sender::new(0),
            forgotten: AtomicBool::new(false),
        })
    }

    /// What is known of each file, by name.
    #[must_use]
    pub fn files(&self) -> BTreeMap<FileName, FileState> {
        self.lock().clone()
    }

    /// What is known of one file.
    #[must_use]
    pub fn file(&self, name: &FileName) -> Option<FileState> {
        self.lock().get(name).cloned()
    }

    /// Sees each change of any file.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Appends what is new of these chunks and makes it durable. What is below the durable offset is
    /// ignored; what is beyond it (a chunk before is missing) is not taken; the answer tells the agent.
    ///
    /// # Errors
    /// Nothing of this call is acknowledged, though part of it may be on the disk.
    pub fn append(&self, chunks: &[Chunk]) -> io::Result<Vec<Ack>> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.forgotten.load(Ordering::SeqCst) {
            return Ok(accept_unread(chunks));
        }
        let mut batch = Batch {
            folder: &self.folder,
            files: self.files(),
            open: BTreeMap::new(),
            ends: Vec::new(),
            made: false,
        };
        let touched: BTreeSet<&FileName> = chunks.iter().map(|chunk| &chunk.file).collect();
        let is_new = !self.folder.exists();
        if is_new {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        }
        for chunk in chunks {
            batch.take(chunk)?;
        }
        batch.sync(is_new)?;
        let acks = touched.into_iter().map(|name| {
            let state = batch.files.get(name).cloned().unwrap_or_default();
            Ack { file: name.clone(), durable: state.size, end: state.end }
        });
        let acks = acks.collect();
        *self.lock() = batch.files;
        self.changes.send_modify(|change| *change += 1);
        Ok(acks)
    }

    /// Bytes of a file from `offset` on, at most `limit`; empty at its end or if there is no file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, name: &FileName, offset: u64, limit: usize) -> io::Result<Bytes> {
        let size = self.file(name).map_or(0, |file| file.size);
        let length = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(limit);
        if length == 0 {
            return Ok(Bytes::new());
        }
        let mut buffer = vec![0; length];
        File::open(self.folder.join(name.as_str()))?.read_exact_at(&mut buffer, offset)?;
        Ok(buffer.into())
    }

    /// The job is gone: what still comes is taken and dropped.
    pub(super) fn forget(&self) {
        self.forgotten.store(true, Ordering::SeqCst);
        // A batch in work ends before the folder is removed.
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.lock().clear();
        self.changes.send_modify(|change| *change += 1);
    }

    /// Whether the job is gone.
    #[must_use]
    pub fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<FileName, FileState>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Acknowledges everything, for logs that nobody wants any more.
#[must_use]
pub(crate) fn accept_unread(chunks: &[Chunk]) -> Vec<Ack> {
    let mut acks: BTreeMap<&FileName, Ack> = BTreeMap::new();
    for chunk in chunks {
        let durable = chunk.offset.saturating_add(chunk.data.len() as u64).saturating_add(chunk.gap);
        let ack =
            acks.entry(&chunk.file).or_insert_with(|| Ack { file: chunk.file.clone(), durable, end: false });
        ack.durable = ack.durable.max(durable);
        ack.end |= chunk.end;
    }
    acks.into_values().collect()
}

struct Batch<'a> {
    folder: &'a Path,
    files: BTreeMap<FileName, FileState>,
    open: BTreeMap<FileName, File>,
    ends: Vec<Line>,
    /// A file was made: the folder has to be synced, too.
    made: bool,
}

impl Batch<'_> {
    fn take(&mut self, chunk: &Chunk) -> io::Result<()> {
        if !self.files.contains_key(&chunk.file) && self.files.len() >= FILES {
            return Err(io::Error::other("too many log files in one gang"));
        }
        let known = self.files.entry(chunk.file.clone()).or_default();
        if known.end || chunk.offset > known.size {
            return Ok(());
        }
        self.made |= known.size == 0;
        let old = usize::try_from(known.size - chunk.offset).unwrap_or(usize::MAX);
        if let Some(new) = chunk.data.get(old..).filter(|new| !new.is_empty()) {
            let file = opened(&mut self.open, self.folder, &chunk.file)?;
            file.write_all_at(new, known.size)?;
            known.size += new.len() as u64;
        }
        let gap_end = chunk.offset.saturating_add(chunk.gap);
        if chunk.data.is_empty() && gap_end > known.size {
            // The line first: a hole without it would read as bytes of the task after a power cut.
            let line = Line::Gap(chunk.file.to_string(), known.size, gap_end);
            index::append(self.folder, &[line])?.sync_data()?;
            opened(&mut self.open, self.folder, &chunk.file)?.set_len(gap_end)?;
            known.gaps.push((known.size, gap_end));
            known.size = gap_end;
        }
        // An end that belongs to bytes which are not here yet comes again with them.
        if chunk.end && chunk.offset + (chunk.data.len() as u64).max(chunk.gap) == known.size {
            known.end = true;
            self.ends.push(Line::End(chunk.file.to_string()));
        }
        known.modified = crate::clock::wall_now();
        Ok(())
    }

    /// Bytes first: an end that is on the disk says that all bytes before it are.
    fn sync(&mut self, folder_is_new: bool) -> io::Result<()> {
        for file in self.open.values() {
            file.sync_data()?;
        }
        if !self.ends.is_empty() {
            index::append(self.folder, &self.ends)?.sync_data()?;
        }
        if self.made {
            File::open(self.folder)?.sync_all()?;
        }
        match self.folder.parent() {
            Some(root) if folder_is_new => File::open(root)?.sync_all(),
            Some(_) | None => Ok(()),
        }
    }
}

fn opened<'a>(
    open: &'a mut BTreeMap<FileName, File>,
    folder: &Path,
    name: &FileName,
) -> io::Result<&'a File> {
    if !open.contains_key(name) {
        let path = folder.join(name.as_str());
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        open.insert(name.clone(), file);
    }
    // It was put there just now if it was not there before.
    Ok(&open[name])
}

fn modified(metadata: &std::fs::Metadata) -> WallMs {
    let since = metadata.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    WallMs(since.and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or(0))
}
