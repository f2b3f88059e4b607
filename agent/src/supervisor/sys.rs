//! The system calls of the supervisor that have no safe wrapper: handles of processes, extended attributes.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A handle of a process, whatever happens to its number.
pub(super) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the descriptor is new and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until the process of a handle has ended. Only in a runtime.
pub(super) async fn pidfd_wait(handle: OwnedFd) -> io::Result<()> {
    // SAFETY: an `OwnedFd` always gives the same descriptor, and holds it open until it is dropped.
    let handle = unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) }?;
    handle.readable().await.map(drop)
}

/// Signals the process of a handle. One that has ended is no error.
pub(super) fn pidfd_signal(process: &impl AsFd, signal: i32) -> io::Result<()> {
    let none: *const libc::siginfo_t = std::ptr::null();
    let fd = process.as_fd().as_raw_fd();
    // SAFETY: a null siginfo is allowed.
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, none, 0) };
    match done {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error),
        },
    }
}

/// Whether an extended attribute of a file begins with `1`.
pub(super) fn is_marked(path: &Path, attribute: &CStr) -> bool {
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return false };
    let mut value = [0u8; 8];
    // SAFETY: both strings end with NUL, and the buffer is as long as said.
    let length =
        unsafe { libc::getxattr(path.as_ptr(), attribute.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    length > 0 && value[0] == b'1'
}
