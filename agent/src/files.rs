//! Files of a job for a client: lists and ranges below a directory of the job's plan.
//!
//! The path comes from a client and the tree belongs to a user: the kernel keeps the walk beneath the
//! directory, whatever links it meets. All of it blocks, so it never runs on the agent's loop.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use trainyard_proto::v1::file_request::What;
use trainyard_proto::v1::{FileEntry, FileReply, FileRequest};

/// Bytes of one answer.
const READ_BYTES_MAX: u64 = 256 * 1024;
/// Entries of one list.
const ENTRIES_MAX: usize = 10_000;

/// Answers one request whose directory was found to be the gang's.
pub(crate) fn answer(request: &FileRequest) -> FileReply {
    let reply = match &request.what {
        Some(What::List(_)) => list(request),
        Some(What::Read(range)) => read(request, range.offset, range.length),
        None => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    };
    reply.unwrap_or_else(|error| FileReply {
        id: request.id,
        error: in_words(&error),
        ..FileReply::default()
    })
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "not found".into(),
        // The kernel says EXDEV for a path that leads out.
        io::ErrorKind::CrossesDevices => "not found: it leads out of the directory".into(),
        io::ErrorKind::IsADirectory => "it is a directory".into(),
        _ => error.to_string(),
    }
}

fn list(request: &FileRequest) -> io::Result<FileReply> {
    let folder = open(request, OFlag::O_DIRECTORY)?;
    let mut entries = Vec::new();
    for entry in Dir::from_fd(folder.try_clone()?)?.iter() {
        let name = entry?.file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // A file that is gone meanwhile, or a name that no client could send back.
        let (Ok(name), Ok(found)) = (name.to_str(), look(&folder, &name)) else { continue };
        entries.push(FileEntry {
            name: name.to_owned(),
            directory: is(&found, SFlag::S_IFDIR),
            size: u64::try_from(found.st_size).unwrap_or(0),
            modified_ms: found.st_mtime * 1000 + found.st_mtime_nsec / 1_000_000,
        });
        if entries.len() > ENTRIES_MAX {
            return Err(io::Error::other(format!("the directory has more than {ENTRIES_MAX} entries")));
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(FileReply { id: request.id, entries, ..FileReply::default() })
}

/// What a name stands for; a link that leads out of the folder stands for itself.
fn look(folder: &OwnedFd, name: &std::ffi::CStr) -> io::Result<FileStat> {
    let found = fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(found)
}

fn is(found: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == kind
}

fn read(request: &FileRequest, offset: u64, length: u64) -> io::Result<FileReply> {
    let file = File::from(open(request, OFlag::empty())?);
    let found = file.metadata()?;
    if found.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    if !found.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let length = length.min(READ_BYTES_MAX).min(found.len().saturating_sub(offset));
    let mut data = vec![0; usize::try_from(length).unwrap_or(0)];
    let mut filled = 0;
    while filled < data.len() {
        match file.read_at(&mut data[filled..], offset + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    data.truncate(filled);
    Ok(FileReply {
        id: request.id,
        data: data.into(),
        size: found.len(),
        modified_ms: found.mtime() * 1000 + found.mtime_nsec() / 1_000_000,
        ..FileReply::default()
    })
}

fn open(request: &FileRequest, extra: OFlag) -> io::Result<OwnedFd> {
    let path = Path::new(if request.path.is_empty() { "." } else { &request.path });
    let plain = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain || path.as_os_str().as_bytes().contains(&0) {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = openat2(AT_FDCWD, Path::new(&request.directory), OpenHow::new().flags(flags))?;
    // O_NONBLOCK: a FIFO or a device must not hold the thread.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | extra;
    let beneath = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags).mode(Mode::empty()).resolve(beneath);
    match openat2(directory.as_fd(), path, how) {
        // A rename went on meanwhile; the kernel asks to try again.
        Err(Errno::EAGAIN) => Ok(openat2(directory.as_fd(), path, how)?),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use trainyard_proto::v1::FileRange;

    use super::*;

    fn check(folder: &Path, path: &str, what: What) -> FileReply {
        let directory = folder.to_str().unwrap().to_owned();
        answer(&FileRequest { id: 5, gang: None, directory, path: path.into(), what: Some(what) })
    }

    fn range(offset: u64, length: u64) -> What {
        What::Read(FileRange { offset, length })
    }

    #[test]
    fn files_are_listed_and_read_in_ranges() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        std::fs::write(folder.path().join("sub/model.bin"), b"0123456789").unwrap();
        let reply = check(folder.path(), "", What::List(true));
        assert_eq!((reply.id, reply.entries.len()), (5, 1));
        assert!(reply.entries[0].directory && reply.entries[0].name == "sub");
        let reply = check(folder.path(), "sub", What::List(true));
        assert_eq!((reply.entries[0].name.as_str(), reply.entries[0].size), ("model.bin", 10));
        let reply = check(folder.path(), "sub/model.bin", range(2, 3));
        assert_eq!((&reply.data[..], reply.size, reply.error.as_str()), (&b"234"[..], 10, ""));
        assert_eq!(check(folder.path(), "sub/model.bin", range(8, 100)).data[..], b"89"[..]);
        assert_eq!(check(folder.path(), "sub/model.bin", range(100, 1)).data.len(), 0);
        assert_eq!(check(folder.path(), "none", range(0, 1)).error, "not found");
        assert_eq!(check(folder.path(), "sub", range(0, 1)).error, "it is a directory");
    }

    #[test]
    fn one_answer_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("big"), vec![7; 1_000_000]).unwrap();
        let reply = check(folder.path(), "big", range(0, u64::MAX));
        assert_eq!((reply.data.len() as u64, reply.size), (READ_BYTES_MAX, 1_000_000));
    }

    #[test]
    fn nothing_outside_the_directory_is_reached() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(folder.path().join("canary"), "secret").unwrap();
        std::os::unix::fs::symlink("../canary", inside.join("up")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("canary"), inside.join("absolute")).unwrap();
        std::os::unix::fs::symlink("..", inside.join("folder")).unwrap();
        std::fs::write(inside.join("own"), "mine").unwrap();
        std::os::unix::fs::symlink("own", inside.join("link")).unwrap();
        nix::unistd::mkfifo(&inside.join("fifo"), Mode::S_IRWXU).unwrap();
        for path in
            ["up", "absolute", "folder/canary", "../canary", "/etc/passwd", "a/../../canary", "\0", "fifo"]
        {
            let reply = check(&inside, path, range(0, 100));
            assert!(!reply.error.is_empty() && reply.data.is_empty(), "{path:?}: {reply:?}");
        }
        assert_eq!(check(&inside, "link", range(0, 100)).data[..], b"mine"[..]);
    }
}
