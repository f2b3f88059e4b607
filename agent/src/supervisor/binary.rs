//! The shim's executable on disk. One file per content, never written in place: shims of an older version
//! go on running from theirs.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Puts the shim into `dir` (made if missing, 0700), unless it is there, and returns its path.
///
/// # Errors
/// What the file system says.
pub fn write_shim(dir: &Path, binary: &[u8]) -> io::Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // The name is also what `ps` shows of each shim, and how the agent knows one.
    let path = dir.join(format!("trainyard-shim-{:016x}", fnv1a(binary)));
    if fs::read(&path).is_ok_and(|there| there == binary) {
        return Ok(path);
    }
    fs::DirBuilder::new().recursive(true).create(dir)?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let temporary = dir.join(format!(".shim-{}-{number}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o700).open(&temporary)?;
    let written = file.write_all(binary).and_then(|()| file.sync_all());
    drop(file);
    let placed = written.and_then(|()| fs::rename(&temporary, &path));
    if placed.is_err() {
        // What matters is the first error.
        drop(fs::remove_file(&temporary));
    }
    placed.map(|()| path)
}

/// FNV-1a, 64 bits: short stable names, not security.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn each_content_has_a_file_of_its_own_and_a_damaged_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("a/bin");
        let one = write_shim(&bin, b"one").unwrap();
        let two = write_shim(&bin, b"two").unwrap();
        assert_ne!(one, two);
        assert_eq!(fs::metadata(&one).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(&one, "damaged").unwrap();
        assert_eq!(write_shim(&bin, b"one").unwrap(), one);
        assert_eq!(fs::read(&one).unwrap(), b"one");
        assert_eq!(fs::read_dir(&bin).unwrap().count(), 2, "no temporary file is left");
    }
}
