//! Reading the kernel's text files again and again, at the cost of one system call or two.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// More than any file that is read here has, but for a machine gone mad.
const BYTES_MAX: usize = 1 << 20;

/// A file below `/proc` that stays open between rounds.
pub(super) struct ProcFile {
    path: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
}

impl ProcFile {
    pub(super) fn new(path: impl Into<PathBuf>) -> ProcFile {
        ProcFile { path: path.into(), file: None, buffer: Vec::new() }
    }

    /// Its content now; `None` if it cannot be read.
    pub(super) fn read(&mut self) -> Option<&[u8]> {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let file = self.file.as_ref()?;
        match fill(file, &mut self.buffer) {
            Ok(length) => Some(&self.buffer[..length]),
            Err(_) => {
                self.file = None;
                None
            }
        }
    }
}

/// The content of a file that is read once, in a buffer that is used again.
pub(super) fn read_into<'b>(path: &Path, buffer: &'b mut Vec<u8>) -> Option<&'b [u8]> {
    let length = fill(&File::open(path).ok()?, buffer).ok()?;
    Some(&buffer[..length])
}

fn fill(file: &File, buffer: &mut Vec<u8>) -> std::io::Result<usize> {
    if buffer.is_empty() {
        buffer.resize(4096, 0);
    }
    let mut length = 0;
    loop {
        let read = match file.read_at(&mut buffer[length..], length as u64) {
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        length += read;
        if read == 0 || length == BYTES_MAX {
            return Ok(length);
        }
        if length == buffer.len() {
            buffer.resize((length * 2).min(BYTES_MAX), 0);
        }
    }
}

/// The lines of a file, without those that are not UTF-8.
pub(super) fn lines(file: &[u8]) -> impl Iterator<Item = &str> {
    file.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok())
}

/// The number in this place of a line split at blanks.
pub(super) fn field(line: &str, index: usize) -> Option<u64> {
    line.split_ascii_whitespace().nth(index)?.parse().ok()
}

/// The number after this key, in a file of lines `key value`.
pub(super) fn keyed(file: &[u8], key: &str) -> Option<u64> {
    lines(file).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        (fields.next() == Some(key)).then(|| fields.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_anew_each_time_whatever_its_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stat");
        let mut file = ProcFile::new(&path);
        assert_eq!(file.read(), None);
        std::fs::write(&path, b"one").unwrap();
        assert_eq!(file.read(), Some(&b"one"[..]));
        let large = vec![b'x'; 100_000];
        std::fs::write(&path, &large).unwrap();
        assert_eq!(file.read(), Some(&large[..]));
        std::fs::write(&path, b"").unwrap();
        assert_eq!(file.read(), Some(&b""[..]));
    }

    #[test]
    fn keys_and_fields() {
        let file = b"usage_usec 12\nuser_usec x\n\xff\xfe\nlast 9";
        assert_eq!(keyed(file, "usage_usec"), Some(12));
        assert_eq!(keyed(file, "user_usec"), None);
        assert_eq!(keyed(file, "last"), Some(9));
        assert_eq!(keyed(file, "usage"), None);
        assert_eq!(field("a 1  2", 2), Some(2));
        assert_eq!(field("a 1  2", 3), None);
    }
}
