//! Starts the program: opens its spool files, forks it into its cgroups, drops rights, executes.
//!
//! What happens between fork and exec allocates nothing. Root opens no path of a user: the working directory
//! is entered after the rights are dropped, and the spool is the agent's own.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::{ffi::CString, ffi::OsStr, fs};

use trainyard_core::shim::{Cgroups, Credentials, Failed, Launch, Step};

use crate::sys::{self, CStrings, Fork};

/// Longest time from the fork to the exec, in ms: it takes that long only where a mount is dead.
const START_MS_MAX: u64 = 60_000;

/// Everything that the child needs, made before the fork.
struct Start<'a> {
    argv: CStrings,
    env: CStrings,
    cwd: CString,
    stdin: File,
    stdout: File,
    stderr: File,
    v1: Vec<File>,
    /// Only where the child was not born in its v2 group.
    v2: Option<File>,
    credentials: Option<&'a Credentials>,
    umask: u32,
    /// Set where the agent is protected from the out-of-memory killer: its tasks must not be.
    unprotect: bool,
}

/// Starts the program and returns its pid, once it has been executed.
pub(crate) fn start(launch: &Launch, cgroups: &Cgroups) -> Result<i32, Failed> {
    let spool = |path: &[u8]| {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        options.open(path_of(path)).map_err(|e| failed(Step::Spool, &e))
    };
    let group = |path: &Vec<u8>| {
        let procs = path_of(path).join("cgroup.procs");
        OpenOptions::new().write(true).open(procs).map_err(|e| failed(Step::Cgroup, &e))
    };
    let v2 =
        cgroups.v2.as_deref().map(|path| File::open(path_of(path)).map_err(|e| failed(Step::Cgroup, &e)));
    let v2 = v2.transpose()?;
    let mut start = Start {
        argv: CStrings::new(launch.argv.iter().map(|a| [a.as_slice(), b"", b""])),
        env: CStrings::new(launch.env.iter().map(|(name, value)| [name.as_slice(), b"=", value])),
        cwd: CString::new(launch.cwd.clone())
            .map_err(|_| Failed { step: Step::Directory, errno: libc::EINVAL })?,
        stdin: File::open("/dev/null").map_err(|e| failed(Step::Session, &e))?,
        stdout: spool(&launch.stdout)?,
        stderr: spool(&launch.stderr)?,
        v1: cgroups.v1.iter().map(group).collect::<Result<_, _>>()?,
        v2: None,
        credentials: launch.credentials.as_ref(),
        umask: launch.umask,
        unprotect: is_protected(),
    };
    let (reader, writer) = io::pipe().map_err(|e| failed(Step::Fork, &e))?;
    let fork = match sys::fork_into(v2.as_ref().map(AsFd::as_fd)) {
        // Old kernels, and sandboxes that filter clone3 or its flag: the child enters the group itself.
        Err(_) if v2.is_some() => {
            start.v2 = cgroups.v2.as_ref().map(group).transpose()?;
            sys::fork_into(None)
        }
        fork => fork,
    };
    match fork.map_err(|e| failed(Step::Fork, &e))? {
        Fork::Child => run_child(start, &writer),
        Fork::Parent(pid) => {
            drop(writer);
            start.env.wipe();
            watch(pid, reader, patience_ms(launch))
        }
    }
}

/// How long the child may take until it has become its program, in ms: never past the fence.
fn patience_ms(launch: &Launch) -> i32 {
    let left = launch.deadline.map_or(u64::MAX, |deadline| deadline.0.saturating_sub(sys::boot_now().0));
    i32::try_from(left.min(START_MS_MAX)).unwrap_or(i32::MAX)
}

/// The error of the child, if it could not become its program: the pipe ends empty at the exec.
fn watch(pid: i32, mut reader: PipeReader, patience_ms: i32) -> Result<i32, Failed> {
    let mut fds = [libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
    if sys::poll(&mut fds, patience_ms).is_ok() && fds[0].revents == 0 {
        // It hangs in a dead mount. Killed, it can never become its program, whenever it comes back.
        sys::kill(pid, libc::SIGKILL);
        return Err(Failed { step: Step::Directory, errno: libc::ETIMEDOUT });
    }
    let mut answer = Vec::new();
    let read = reader.read_to_end(&mut answer);
    match (read, answer.as_slice()) {
        (Ok(_), [step, errno @ ..]) => {
            sys::wait_for(pid);
            let errno = errno.first_chunk().map_or(0, |bytes| i32::from_le_bytes(*bytes));
            Err(Failed { step: Step::from_code(*step).unwrap_or(Step::Exec), errno })
        }
        (Ok(_) | Err(_), _) => Ok(pid),
    }
}

fn run_child(start: Start<'_>, writer: &PipeWriter) -> ! {
    let Err((step, error)) = become_program(&start);
    let [a, b, c, d] = error.raw_os_error().unwrap_or(0).to_le_bytes();
    // If even this fails, the shim sees a program that ended with 127: there is nobody else to tell.
    drop(sys::write(writer.as_fd(), &[step.code(), a, b, c, d]));
    std::mem::forget(start);
    sys::exit_now()
}

/// The order of these steps is the order of the privilege drop: groups before user, directory as the user.
fn become_program(start: &Start<'_>) -> Result<std::convert::Infallible, (Step, io::Error)> {
    let at = |step| move |error| (step, error);
    for group in start.v2.iter().chain(&start.v1) {
        sys::write(group.as_fd(), b"0").map_err(at(Step::Cgroup))?;
    }
    if start.unprotect {
        sys::unprotect_from_oom_killer();
    }
    sys::setsid().map_err(at(Step::Session))?;
    for (file, target) in [(&start.stdin, 0), (&start.stdout, 1), (&start.stderr, 2)] {
        sys::dup_to(file.as_fd(), target).map_err(at(Step::Session))?;
    }
    sys::close_others_on_exec().map_err(at(Step::Session))?;
    if let Some(credentials) = start.credentials {
        take_on(credentials).map_err(at(Step::Rights))?;
    }
    sys::umask(start.umask);
    sys::chdir(&start.cwd).map_err(at(Step::Directory))?;
    sys::unblock_signals().map_err(at(Step::Session))?;
    Err((Step::Exec, sys::execve(&start.argv, &start.env)))
}

fn take_on(credentials: &Credentials) -> io::Result<()> {
    sys::setgroups(&credentials.groups)?;
    sys::setresgid(credentials.gid)?;
    sys::setresuid(credentials.uid)?;
    if !sys::is_only(credentials.uid, credentials.gid) {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    if credentials.no_new_privileges {
        sys::no_new_privileges()?;
    }
    Ok(())
}

/// Whether the shim has inherited the agent's protection from the out-of-memory killer.
fn is_protected() -> bool {
    fs::read_to_string("/proc/self/oom_score_adj").is_ok_and(|score| score.starts_with('-'))
}

fn failed(step: Step, error: &io::Error) -> Failed {
    Failed { step, errno: error.raw_os_error().unwrap_or(0) }
}

pub(crate) fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
