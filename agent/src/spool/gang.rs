//! The files of one gang in the spool: which there are, how they are counted, what of them is written down.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use super::Notes;
use super::copier::Copier;
use super::stream::{Freed, Saved, Stream};

/// Acknowledged offsets are written down after so many bytes; what came later is sent twice after a crash.
const SAVE_EVERY_BYTES: u64 = 4 * 1024 * 1024;
const OFFSETS: &str = ".acked";

pub(super) struct GangFiles {
    pub(super) folder: PathBuf,
    pub(super) watch: inotify::WatchDescriptor,
    pub(super) files: BTreeMap<String, Stream>,
    pub(super) copier: Option<Copier>,
    pub(super) notes: Option<Notes>,
    /// Asked before there was a mirror.
    pub(super) all_ended: bool,
    pub(super) released: bool,
    /// Files that share a quota: those of each attempt. A file that is named nowhere has one of its own.
    attempts: Vec<Vec<String>>,
    saved_bytes: u64,
    /// Files of which a loss is noted.
    noted: std::collections::BTreeSet<String>,
}

/// What was given back of all files together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Given {
    /// All of it.
    pub(super) bytes: u64,
    /// What of it was never sent.
    pub(super) dropped: u64,
    /// In so many pieces.
    pub(super) gaps: u64,
}

impl Given {
    pub(super) fn add(&mut self, other: Given) {
        self.bytes += other.bytes;
        self.dropped += other.dropped;
        self.gaps += other.gaps;
    }
}

impl From<Freed> for Given {
    fn from(freed: Freed) -> Given {
        let dropped = freed.gap.map_or(0, |(from, to)| to - from);
        Given { bytes: freed.bytes, dropped, gaps: u64::from(dropped > 0) }
    }
}

impl GangFiles {
    pub(super) fn new(
        folder: PathBuf,
        watch: inotify::WatchDescriptor,
        attempts: Vec<Vec<String>>,
    ) -> GangFiles {
        let text = std::fs::read(folder.join(OFFSETS)).unwrap_or_default();
        let saved = read_saved(&text);
        GangFiles {
            folder,
            watch,
            saved_bytes: saved.values().map(|saved| saved.0).sum(),
            files: saved.into_iter().map(|(name, saved)| (name, Stream::new(Some(saved)))).collect(),
            copier: None,
            notes: None,
            all_ended: false,
            released: false,
            attempts,
            noted: Default::default(),
        }
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.files.values().any(|file| file.dirty)
    }

    /// Whether the coordinator has all of it.
    pub(super) fn is_stored(&self) -> bool {
        self.released && self.files.values().all(|file| file.end_acked)
    }

    /// Whether the mirror has all of it, or will not get it any more.
    pub(super) fn is_mirrored(&self) -> bool {
        let Some(copier) = &self.copier else { return true };
        self.files.iter().all(|(name, file)| copier.mirrored(name) >= file.seen()) || copier.has_stalled()
    }

    pub(super) fn mark(&mut self, name: &str) {
        if name.starts_with('.') {
            return;
        }
        let ended = self.all_ended;
        let file = self.file(name);
        file.dirty |= !file.end_acked && !file.end_sent;
        if ended {
            file.end();
        }
        self.look_at(name);
        if let Some(copier) = &self.copier {
            copier.copy([name.to_owned()]);
        }
    }

    /// The file gets no more bytes: its length is final.
    pub(super) fn look_again(&mut self, name: &str) {
        self.file(name).end();
        self.look_at(name);
    }

    fn file(&mut self, name: &str) -> &mut Stream {
        self.files.entry(name.to_owned()).or_insert_with(|| Stream::new(None))
    }

    fn look_at(&mut self, name: &str) {
        let path = self.folder.join(name);
        let Some(file) = self.files.get_mut(name) else { return };
        match file.look(&path) {
            Ok(false) => {}
            Ok(true) => {
                let (base, freed) = (file.base(), file.freed());
                if let Some(copier) = &self.copier {
                    copier.freed(name, base, freed);
                }
                self.note(&format!(
                    "logs: {name} was cut off by its own task (`> /dev/stdout` does that, `>&1` does not)"
                ));
                self.save_offsets();
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "log file cannot be looked at"),
        }
    }

    pub(super) fn note(&self, text: &str) {
        if let Some(notes) = &self.notes {
            notes.write(text);
        }
    }

    /// Marks every file that is there.
    pub(super) fn look(&mut self) {
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

    pub(super) fn held(&self) -> u64 {
        self.files.values().map(Stream::held).sum()
    }

    /// Gives back what is stored and mirrored, once it is this much of a file.
    pub(super) fn free_stored(&mut self, bytes_min: u64) -> Given {
        let mut given = Given::default();
        let waits_for_mirror = self.copier.is_none() && !self.released;
        let done: Vec<(String, u64)> = self
            .files
            .iter()
            .filter_map(|(name, file)| {
                let mirrored = match &self.copier {
                    Some(copier) => copier.mirrored(name),
                    None if waits_for_mirror => 0,
                    None => u64::MAX,
                };
                let up_to = file.freeable(file.acked.min(mirrored));
                (up_to >= file.freed() + bytes_min).then(|| (name.clone(), up_to))
            })
            .collect();
        for (name, up_to) in done {
            given.add(self.free(&name, up_to));
        }
        given
    }

    /// Drops the oldest bytes of attempts that hold more than this, down to three quarters of it.
    pub(super) fn enforce(&mut self, quota_bytes: u64) -> Given {
        let mut given = Given::default();
        if self.held() <= quota_bytes {
            return given;
        }
        let named: std::collections::BTreeSet<&String> = self.attempts.iter().flatten().collect();
        let alone = self.files.keys().filter(|name| !named.contains(name)).map(|name| vec![name.clone()]);
        let groups: Vec<Vec<String>> = alone.chain(self.attempts.iter().cloned()).collect();
        for group in groups {
            let held = |gang: &GangFiles, name: &String| gang.files.get(name).map_or(0, Stream::held);
            let all: u64 = group.iter().map(|name| held(self, name)).sum();
            if all <= quota_bytes {
                continue;
            }
            let mut excess = all - quota_bytes / 4 * 3;
            let mut largest_first = group;
            largest_first.sort_by_key(|name| std::cmp::Reverse(held(self, name)));
            for name in largest_first {
                let dropped = self.drop_oldest(&name, excess, "more than its quota waited on this node");
                excess = excess.saturating_sub(dropped.bytes);
                given.add(dropped);
            }
        }
        given
    }

    /// Drops so many of the oldest bytes of a file, as far as it holds them.
    pub(super) fn drop_oldest(&mut self, name: &str, bytes: u64, why: &str) -> Given {
        let Some(file) = self.files.get(name).filter(|_| bytes > 0) else { return Given::default() };
        let up_to = file.freed().saturating_add(bytes);
        let given = self.free(name, up_to);
        if given.dropped > 0 && self.noted.insert(name.to_owned()) {
            self.note(&format!(
                "logs: the oldest {} bytes of {name} were dropped before they were stored: {why}; the list of logs has every gap",
                given.dropped
            ));
        }
        given
    }

    /// The mirror is told first: what it reads afterwards may be a hole.
    fn free(&mut self, name: &str, up_to: u64) -> Given {
        let Some(file) = self.files.get_mut(name) else { return Given::default() };
        let freed = file.free(up_to);
        if freed.bytes == 0 {
            return Given::default();
        }
        let (base, below) = (file.base(), file.freed());
        if let Some(copier) = &self.copier {
            copier.freed(name, base, below);
        }
        // Where this fails, as on a full disk, the next agent sees the hole itself.
        self.save_offsets();
        if let Some(file) = self.files.get(name)
            && let Err(error) = file.punch()
        {
            tracing::warn!(folder = %self.folder.display(), name, %error, "log space cannot be given back");
        }
        freed.into()
    }

    fn acked_bytes(&self) -> u64 {
        self.files.values().map(|file| file.acked).sum()
    }

    pub(super) fn save_offsets_sometimes(&mut self) {
        if self.acked_bytes() >= self.saved_bytes + SAVE_EVERY_BYTES {
            self.save_offsets();
        }
    }

    pub(super) fn save_offsets(&mut self) {
        let saved: BTreeMap<&String, Saved> =
            self.files.iter().map(|(name, file)| (name, file.saved())).collect();
        let new = self.folder.join(".acked.new");
        let written = serde_json::to_vec(&saved)
            .map_err(io::Error::from)
            .and_then(|text| std::fs::write(&new, text))
            .and_then(|()| std::fs::rename(&new, self.folder.join(OFFSETS)));
        match written {
            Ok(()) => self.saved_bytes = self.acked_bytes(),
            // Without it, what was acknowledged is sent once more after a restart.
            Err(error) => tracing::debug!(folder = %self.folder.display(), %error, "offsets cannot be saved"),
        }
    }
}

/// Also of an agent that knew no holes yet: it wrote the first two numbers only.
fn read_saved(text: &[u8]) -> BTreeMap<String, Saved> {
    if let Ok(saved) = serde_json::from_slice(text) {
        return saved;
    }
    let old: BTreeMap<String, (u64, bool)> = serde_json::from_slice(text).unwrap_or_default();
    old.into_iter().map(|(name, (acked, end))| (name, (acked, end, 0, 0))).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn offsets_of_an_older_agent_are_read() {
        let old = super::read_saved(br#"{"a.txt":[7,true]}"#);
        assert_eq!(old["a.txt"], (7, true, 0, 0));
        let new = super::read_saved(br#"{"a.txt":[7,true,1,2]}"#);
        assert_eq!(new["a.txt"], (7, true, 1, 2));
        assert!(super::read_saved(b"torn").is_empty());
    }
}
