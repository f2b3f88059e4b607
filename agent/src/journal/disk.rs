//! The journal as one append-only file of checksummed JSON lines, `<16 hex digits> <json>`.
//!
//! A torn last line is what a crash leaves, and is cut off; damage before it is refused, since skipping
//! a record could start an attempt twice.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use trainyard_core::agent::Record;

use super::{Journal, JournalError};

const FIRST_LINE: &str = "trainyard agent journal 1";

/// The journal of one root folder; nobody else can open it meanwhile.
#[derive(Debug)]
pub struct DiskJournal {
    folder: PathBuf,
    file: File,
    records: usize,
    /// Bytes of the file that hold whole lines: what a failed write left behind them is cut off.
    whole_bytes: u64,
    _lock: Flock<File>,
}

impl DiskJournal {
    /// Opens or makes the journal in this folder, and reads what it holds.
    ///
    /// # Errors
    /// [`JournalError`]; a damaged file is left as it is.
    pub fn open(folder: &Path) -> Result<(DiskJournal, Vec<Record>), JournalError> {
        std::fs::create_dir_all(folder).map_err(|source| failed("make", folder, source))?;
        let lock = lock(&folder.join("lock"))?;
        let path = folder.join("journal");
        let mut file =
            private().read(true).append(true).open(&path).map_err(|source| failed("open", &path, source))?;
        let bytes = std::fs::read(&path).map_err(|source| failed("read", &path, source))?;
        let (records, mut whole_bytes) = parse(&path, &bytes)?;
        if whole_bytes < bytes.len() as u64 {
            tracing::warn!(path = %path.display(), "the journal's last line is torn: it is cut off");
            file.set_len(whole_bytes).map_err(|source| failed("cut", &path, source))?;
        }
        if whole_bytes == 0 {
            let first = line(FIRST_LINE);
            file.write_all(&first).map_err(|source| failed("write", &path, source))?;
            whole_bytes = first.len() as u64;
            sync_folder(folder)?;
        }
        let journal =
            DiskJournal { folder: folder.to_owned(), file, records: records.len(), whole_bytes, _lock: lock };
        Ok((journal, records))
    }

    fn path(&self) -> PathBuf {
        self.folder.join("journal")
    }
}

impl Journal for DiskJournal {
    fn commit(&mut self, records: &[Record]) -> Result<(), JournalError> {
        if records.is_empty() {
            return Ok(());
        }
        let bytes = lines(records)?;
        if let Err(source) = self.file.write_all(&bytes) {
            // Half a line in the middle would make the whole file unreadable.
            self.file.set_len(self.whole_bytes).map_err(|source| failed("cut", &self.path(), source))?;
            return Err(failed("write", &self.path(), source));
        }
        if records.iter().any(Record::must_sync) {
            self.file.sync_data().map_err(|source| failed("sync", &self.path(), source))?;
        }
        self.records += records.len();
        self.whole_bytes += bytes.len() as u64;
        Ok(())
    }

    fn rewrite(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let (path, new) = (self.path(), self.folder.join("journal.new"));
        let mut bytes = line(FIRST_LINE);
        bytes.extend(lines(records)?);
        let written = private().truncate(true).write(true).open(&new).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_data()
        });
        written.map_err(|source| failed("write", &new, source))?;
        std::fs::rename(&new, &path).map_err(|source| failed("replace", &path, source))?;
        sync_folder(&self.folder)?;
        self.file = private().append(true).open(&path).map_err(|source| failed("open", &path, source))?;
        self.records = records.len();
        self.whole_bytes = bytes.len() as u64;
        Ok(())
    }

    fn len(&self) -> usize {
        self.records
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    options
}

fn lock(path: &Path) -> Result<Flock<File>, JournalError> {
    let file = private().write(true).open(path).map_err(|source| failed("open", path, source))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => JournalError::Locked { path: path.to_owned() },
        errno => failed("lock", path, errno.into()),
    })
}

fn sync_folder(folder: &Path) -> Result<(), JournalError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| failed("sync", folder, source))
}

fn failed(act: &'static str, path: &Path, source: io::Error) -> JournalError {
    JournalError::Io { act, path: path.to_owned(), source }
}

fn lines(records: &[Record]) -> Result<Vec<u8>, JournalError> {
    let mut bytes = Vec::new();
    for record in records {
        bytes.extend(line(&serde_json::to_string(record).map_err(JournalError::Json)?));
    }
    Ok(bytes)
}

fn line(text: &str) -> Vec<u8> {
    format!("{:016x} {text}\n", checksum(text.as_bytes())).into_bytes()
}

/// The records, and how many bytes hold whole lines.
fn parse(path: &Path, bytes: &[u8]) -> Result<(Vec<Record>, u64), JournalError> {
    let mut records = Vec::new();
    let mut whole = 0;
    let all: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    for (index, line) in all.iter().enumerate() {
        let corrupt =
            |problem: String| JournalError::Corrupt { path: path.to_owned(), line: index + 1, problem };
        let Some(text) = checked(line) else {
            // Written last, so that nothing can have followed from it.
            if index + 1 == all.len() {
                break;
            }
            return Err(corrupt("its checksum is wrong".into()));
        };
        match index {
            0 if text == FIRST_LINE => {}
            0 => return Err(corrupt("this is no journal of this version".into())),
            _ => records.push(serde_json::from_str(text).map_err(|error| corrupt(error.to_string()))?),
        }
        whole += line.len() as u64;
    }
    Ok((records, whole))
}

fn checked(line: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (sum, text) = text.split_once(' ')?;
    (sum.len() == 16 && u64::from_str_radix(sum, 16) == Ok(checksum(text.as_bytes()))).then_some(text)
}

/// FNV-1a: against torn writes, not against malice.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use trainyard_core::id::{GangId, GangNo, Generation, JobId};

    use super::*;

    fn records() -> Vec<Record> {
        let gang = GangId { job: JobId(7), gang: GangNo(1) };
        vec![Record::Generation(Generation(3)), Record::Barred(gang), Record::StartIntended(gang)]
    }

    #[test]
    fn what_was_committed_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, read) = DiskJournal::open(folder.path()).unwrap();
        assert_eq!(read, []);
        journal.commit(&records()[..1]).unwrap();
        journal.commit(&records()[1..]).unwrap();
        assert_eq!(journal.len(), 3);
        drop(journal);
        let (mut journal, read) = DiskJournal::open(folder.path()).unwrap();
        assert_eq!(read, records());
        journal.rewrite(&records()[2..]).unwrap();
        journal.commit(&records()[..1]).unwrap();
        drop(journal);
        assert_eq!(DiskJournal::open(folder.path()).unwrap().1, [records()[2].clone(), records()[0].clone()]);
    }

    #[test]
    fn two_agents_cannot_share_a_root() {
        let folder = tempfile::tempdir().unwrap();
        let _first = DiskJournal::open(folder.path()).unwrap();
        assert!(matches!(DiskJournal::open(folder.path()), Err(JournalError::Locked { .. })));
    }

    #[test]
    fn a_crash_at_any_byte_loses_the_last_record_at_most() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = DiskJournal::open(folder.path()).unwrap();
        journal.commit(&records()[..2]).unwrap();
        let before = journal.whole_bytes;
        journal.commit(&records()[2..]).unwrap();
        let after = journal.whole_bytes;
        drop(journal);
        let path = folder.path().join("journal");
        let whole = std::fs::read(&path).unwrap();
        for cut in before..after {
            std::fs::write(&path, &whole[..usize::try_from(cut).unwrap()]).unwrap();
            let (mut journal, read) = DiskJournal::open(folder.path()).unwrap();
            assert_eq!(read, records()[..2], "cut at byte {cut}");
            journal.commit(&records()[2..]).unwrap();
            drop(journal);
            assert_eq!(DiskJournal::open(folder.path()).unwrap().1, records(), "cut at byte {cut}");
        }
    }

    #[test]
    fn damage_in_the_middle_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = DiskJournal::open(folder.path()).unwrap();
        journal.commit(&records()).unwrap();
        drop(journal);
        let path = folder.path().join("journal");
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(DiskJournal::open(folder.path()), Err(JournalError::Corrupt { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}
