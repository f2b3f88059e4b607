//! Parts of a file that give their disk space back while every offset stays as it is, and space that is
//! kept for bytes to come. Both are calls of the file system; one that lacks them keeps logs whole.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use nix::unistd::{Whence, lseek};

/// Holes end at multiples of this: no file system has larger blocks, so that a hole is exactly as long as asked for.
pub(super) const ALIGN_BYTES: u64 = 64 * 1024;

/// Gives back the space of the first `bytes` of a file. They read as zeros from now on.
pub(super) fn punch(file: &File, bytes: u64) -> io::Result<()> {
    let length = i64::try_from(bytes).map_err(io::Error::other)?;
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    Ok(fallocate(file, flags, 0, length)?)
}

/// Where the first byte that was not punched out stands; the length of the file if none is left.
pub(super) fn end_of_first(file: &File) -> io::Result<u64> {
    match lseek(file, 0, Whence::SeekData) {
        Ok(offset) => Ok(u64::try_from(offset).unwrap_or(0)),
        Err(Errno::ENXIO) => Ok(file.metadata()?.len()),
        // Neither holes nor this question are known there.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(0),
        Err(errno) => Err(errno.into()),
    }
}

/// Keeps space for bytes from this offset on, so that writes of them succeed on a disk that is full by then.
pub(super) fn keep_space(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    let whole = |number| i64::try_from(number).map_err(io::Error::other);
    Ok(fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, whole(from)?, whole(bytes)?)?)
}

/// Whether files in this folder can give back parts of themselves.
pub(super) fn probe(folder: &Path) -> io::Result<()> {
    let path = folder.join(".probe");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let tried = options.open(&path).and_then(|file| {
        file.write_all_at(&[1; 1], 2 * ALIGN_BYTES)?;
        file.write_all_at(&[1; 1], 0)?;
        punch(&file, ALIGN_BYTES)?;
        match end_of_first(&file)? {
            end if end >= ALIGN_BYTES => Ok(()),
            _ => Err(Errno::EOPNOTSUPP.into()),
        }
    });
    // A probe that could not be made is not there.
    std::fs::remove_file(&path).ok();
    tried
}

/// Space of the file system of a folder, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) total: u64,
    /// Of it, what this process may still use.
    pub(super) free: u64,
}

/// How full the disk of a folder is.
pub(super) fn space(folder: &Path) -> io::Result<Space> {
    let found = statvfs(folder)?;
    let unit = found.fragment_size();
    Ok(Space { total: found.blocks() * unit, free: found.blocks_available() * unit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_keeps_every_offset_and_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        if let Err(error) = probe(folder.path()) {
            eprintln!("SKIPPED: this file system has no holes: {error}");
            return;
        }
        let path = folder.path().join("log");
        std::fs::write(&path, vec![7; 300_000]).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        assert_eq!(end_of_first(&file).unwrap(), 0);
        punch(&file, 2 * ALIGN_BYTES).unwrap();
        assert_eq!(end_of_first(&file).unwrap(), 2 * ALIGN_BYTES);
        assert_eq!(file.metadata().unwrap().len(), 300_000);
        let mut byte = [0];
        file.read_exact_at(&mut byte, 2 * ALIGN_BYTES).unwrap();
        assert_eq!(byte, [7]);
        keep_space(&file, 300_000, 1 << 20).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 300_000, "kept space is no length");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the probe is gone");
    }
}
