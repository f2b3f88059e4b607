//! The entry point and every system call that has no safe wrapper in std: the only `unsafe` of the shim.

use std::ffi::{CStr, c_char, c_int};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use trainyard_core::shim::BootMs;

/// What the C runtime calls.
// SAFETY: `main` is the name that the C runtime asks for, and nothing else in this binary has it.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    crate::run()
}

/// Makes this process the owner of an attempt: own session, no foreign descriptor, no signal, subreaper.
pub(crate) fn become_owner() {
    // SAFETY: plain calls on values of our own; no other thread exists.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        // Blocked, not ignored: only the agent's `Stop` ends a task, and the task inherits default handlers.
        libc::sigprocmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
        // What the agent was started with, `nohup` for one, is not for the task. Raw, because the C library
        // refuses its own two signals. All zeros is the default action, in the kernel's form of any machine.
        let default = [0u64; 4];
        for signal in 1..=64 {
            let none: *mut u64 = std::ptr::null_mut();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, 8usize);
        }
        libc::setsid();
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32);
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        libc::umask(0o077);
    }
}

/// The listening socket, which the agent has put at stdin. To be called once.
pub(crate) fn listener() -> UnixListener {
    // SAFETY: the agent starts the shim with its listener as descriptor 0, and nothing else here uses that.
    unsafe { UnixListener::from_raw_fd(0) }
}

/// Becomes readable when a child has ended.
pub(crate) fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset; the new descriptor has no other owner.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        own(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))
    }
}

/// A timer of the boot-time clock, not armed.
pub(crate) fn boot_timer() -> io::Result<OwnedFd> {
    // SAFETY: the new descriptor has no other owner.
    unsafe { own(libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK)) }
}

/// Arms a timer for this time, or disarms it.
pub(crate) fn arm(timer: &OwnedFd, at: Option<BootMs>) -> io::Result<()> {
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // A value of zero would disarm it, so a time that has passed long ago is put at one nanosecond.
    let value = at.map_or(zero, |BootMs(ms)| libc::timespec {
        tv_sec: libc::time_t::try_from(ms / 1000).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::try_from(ms % 1000 * 1_000_000).unwrap_or(0).max(1),
    });
    let spec = libc::itimerspec { it_interval: zero, it_value: value };
    // SAFETY: `spec` lives through the call.
    check(unsafe {
        libc::timerfd_settime(
            timer.as_raw_fd(),
            libc::TFD_TIMER_ABSTIME,
            &raw const spec,
            std::ptr::null_mut(),
        )
    })
    .map(drop)
}

/// Empties a signal or timer descriptor, which does not block.
pub(crate) fn drain(fd: &OwnedFd) {
    let mut buffer = [0u8; 512];
    // SAFETY: the buffer is as long as said.
    while unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) } > 0 {}
}

/// The boot-time clock.
pub(crate) fn boot_now() -> BootMs {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` lives through the call, which cannot fail for a clock that Linux has had since 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    BootMs(now.tv_sec.cast_unsigned() * 1000 + now.tv_nsec.cast_unsigned() / 1_000_000)
}

/// Waits until something is ready, or for so many ms; -1: for ever.
pub(crate) fn poll(fds: &mut [libc::pollfd], timeout_ms: c_int) -> io::Result<()> {
    // SAFETY: the slice is as long as said.
    check(unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms) }).map(drop)
}

/// What waiting for children gave.
pub(crate) enum Waited {
    /// This child has ended, with this wait status.
    Ended(i32, c_int),
    /// Children are there; none has ended.
    NoneEnded,
    /// There are no children.
    NoChildren,
}

/// Reaps one child, if one has ended.
pub(crate) fn wait_any() -> Waited {
    let mut status = 0;
    // SAFETY: `status` lives through the call.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
        0 => Waited::NoneEnded,
        pid if pid > 0 => Waited::Ended(pid, status),
        _ => Waited::NoChildren,
    }
}

/// Reaps this child, which is about to end.
pub(crate) fn wait_for(pid: i32) {
    // SAFETY: a null status is allowed.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
}

/// Signals a process, or with a negative number a process group. One that is gone is no error here.
pub(crate) fn kill(pid: i32, signal: c_int) {
    // SAFETY: no memory is passed. The callers pass only children that they have not reaped yet.
    unsafe { libc::kill(pid, signal) };
}

/// A handle of a process, whatever happens to its number.
pub(crate) fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the new descriptor has no other owner.
    unsafe { own(libc::syscall(libc::SYS_pidfd_open, pid, 0) as c_int) }
}

/// Signals the process of a handle.
pub(crate) fn signal(pidfd: &OwnedFd, signal: c_int) {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo is allowed.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
}

/// Gives freed memory back, so that a large environment does not stay for the life of the task.
pub(crate) fn release_memory() {
    // SAFETY: no memory is passed.
    unsafe { libc::malloc_trim(0) };
}

/// On which side of a fork we are.
pub(crate) enum Fork {
    /// In the new process.
    Child,
    /// In the shim; the pid of the new process.
    Parent(i32),
}

#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks, the child being born in a v2 cgroup if one is given.
pub(crate) fn fork_into(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let arguments = CloneArguments {
        flags: if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 },
        exit_signal: libc::SIGCHLD.cast_unsigned().into(),
        cgroup: cgroup.map_or(0, |fd| u64::from(fd.as_raw_fd().cast_unsigned())),
        ..CloneArguments::default()
    };
    // SAFETY: without CLONE_VM the child has its own copy of everything, and there is one thread only, so
    // no lock can be held by a thread that the child lacks.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, std::mem::size_of::<CloneArguments>())
    };
    match pid {
        0 => Ok(Fork::Child),
        pid if pid > 0 => Ok(Fork::Parent(pid as i32)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Own session and process group, without a controlling terminal.
pub(crate) fn setsid() -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::setsid() }).map(drop)
}

/// Puts a descriptor at 0, 1 or 2.
pub(crate) fn dup_to(fd: BorrowedFd<'_>, target: c_int) -> io::Result<()> {
    // SAFETY: 0, 1 and 2 have no owner in the child of a fork, which only executes a program.
    check(unsafe { libc::dup2(fd.as_raw_fd(), target) }).map(drop)
}

/// Sees to it that the program gets 0, 1 and 2 only.
pub(crate) fn close_others_on_exec() -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: no memory is passed.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    check(done as c_int).map(drop)
}

/// Lets all signals through again.
pub(crate) fn unblock_signals() -> io::Result<()> {
    // SAFETY: the set is initialised by sigemptyset.
    check(unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    })
    .map(drop)
}

/// Writes to a descriptor, without a buffer.
pub(crate) fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the slice is as long as said.
    let written = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives up a protection from the out-of-memory killer. Always allowed; where it fails, the task still runs.
pub(crate) fn unprotect_from_oom_killer() {
    // SAFETY: the path ends with NUL; the descriptor is closed by the exec.
    unsafe {
        let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        libc::write(fd, c"0".as_ptr().cast(), 1);
    }
}

/// Replaces the supplementary groups.
pub(crate) fn setgroups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the slice is as long as said.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }).map(drop)
}

/// Becomes this group in all three ways.
pub(crate) fn setresgid(gid: u32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::setresgid(gid, gid, gid) }).map(drop)
}

/// Becomes this user in all three ways.
pub(crate) fn setresuid(uid: u32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::setresuid(uid, uid, uid) }).map(drop)
}

/// Whether this process is that user and group in all three ways, and cannot become root again.
pub(crate) fn is_only(uid: u32, gid: u32) -> bool {
    let (mut users, mut groups) = ([0u32; 3], [0u32; 3]);
    let [ru, eu, su] = &mut users;
    let [rg, eg, sg] = &mut groups;
    // SAFETY: all six places live through the calls.
    let read = unsafe { libc::getresuid(ru, eu, su) == 0 && libc::getresgid(rg, eg, sg) == 0 };
    // SAFETY: no memory is passed. It has to fail, unless root is who the task is.
    read && users == [uid; 3] && groups == [gid; 3] && (uid == 0 || unsafe { libc::setuid(0) } != 0)
}

/// Set-uid programs give no rights from here on.
pub(crate) fn no_new_privileges() -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map(drop)
}

/// Sets the file mode creation mask.
pub(crate) fn umask(mask: u32) {
    // SAFETY: no memory is passed.
    unsafe { libc::umask(mask) };
}

/// Enters a directory.
pub(crate) fn chdir(path: &CStr) -> io::Result<()> {
    // SAFETY: the string lives through the call.
    check(unsafe { libc::chdir(path.as_ptr()) }).map(drop)
}

/// Strings for `execve`: one block of memory, so that it can be wiped.
pub(crate) struct CStrings {
    arena: Vec<u8>,
    pointers: Vec<*const c_char>,
}

impl CStrings {
    /// Each string from its parts. None may hold a NUL, which the wire sees to.
    pub(crate) fn new<'a>(strings: impl Iterator<Item = [&'a [u8]; 3]> + Clone) -> CStrings {
        let bytes = strings.clone().flatten().map(<[u8]>::len).sum::<usize>() + strings.clone().count();
        let (mut arena, mut starts) = (Vec::with_capacity(bytes), Vec::new());
        for parts in strings {
            starts.push(arena.len());
            parts.iter().for_each(|part| arena.extend_from_slice(part));
            arena.push(0);
        }
        let base = arena.as_ptr();
        let pointers = starts.iter().map(|start| base.wrapping_add(*start).cast());
        let pointers = pointers.chain([std::ptr::null()]).collect();
        CStrings { arena, pointers }
    }

    /// Overwrites the strings.
    pub(crate) fn wipe(&mut self) {
        trainyard_core::shim::wire::wipe(&mut self.arena);
    }
}

/// Becomes the program `argv[0]`; returns only why it could not.
pub(crate) fn execve(argv: &CStrings, env: &CStrings) -> io::Error {
    // SAFETY: both lists end with null, and their strings end with NUL and live in their arenas.
    unsafe { libc::execve(argv.pointers[0], argv.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends a forked child that could not become its program.
pub(crate) fn exit_now() -> ! {
    // SAFETY: ends this process, running nothing of it.
    unsafe { libc::_exit(127) }
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// # Safety
/// `fd` is -1 or a new descriptor that nothing else owns.
unsafe fn own(fd: c_int) -> io::Result<OwnedFd> {
    // SAFETY: said by the caller.
    check(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}
