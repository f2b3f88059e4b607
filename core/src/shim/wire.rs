//! The conversation of agent and shim: length-prefixed frames with a version, little-endian, size-limited.
//!
//! A frame is `u32 length of the rest, u8 version, u8 kind, payload`. Shims outlive upgrades of the agent, so
//! a kind's payload never changes: a new need is a new kind. Bad input is an error, never a panic.

use std::fmt;

use super::fence::BootMs;
use super::record::ExitRecord;
use crate::id::{AttemptId, GangNo, JobId, Rank};
use crate::unit::WallMs;

/// Version of the frames.
pub const VERSION: u8 = 1;
/// Longest frame, in bytes, without its length. The kernel takes about 2 MiB of arguments and variables.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToShim {
    /// Start this. Only the first message of the first connection can be this.
    Launch(Box<Launch>, Cgroups),
    /// Move the fence.
    Renew(Option<BootMs>),
    /// End it.
    Stop {
        /// From TERM to KILL, in ms.
        grace_ms: u64,
    },
    /// How is it? Asked by an agent that has just found this shim; from then on it hears of the end.
    Status,
}

/// What the shim says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromShim {
    /// The program runs.
    Started(Started),
    /// The program could not be started, and nothing is left of the try.
    Failed(Failed),
    /// Answer to `Status`.
    Running(Started),
    /// It survives SIGKILL.
    Unkillable,
    /// It has ended, and no process of it is left. The last word of a shim.
    Exited(ExitRecord),
}

/// Everything that the start of one program needs. Its `Debug` shows no variable.
#[derive(Clone, PartialEq, Eq)]
pub struct Launch {
    /// Which attempt.
    pub attempt: AttemptId,
    /// The program by absolute path, then its arguments; never empty.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment, secrets included.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Working directory, absolute; entered with the task's own rights.
    pub cwd: Vec<u8>,
    /// Spool file for stdout, absolute.
    pub stdout: Vec<u8>,
    /// Spool file for stderr, absolute.
    pub stderr: Vec<u8>,
    /// Whom to become; `None`: stay who the agent is.
    pub credentials: Option<Credentials>,
    /// When the attempt has to end unless renewed; `None`: never.
    pub deadline: Option<BootMs>,
    /// File mode creation mask of the task.
    pub umask: u32,
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

impl Launch {
    /// Overwrites the environment with zeros, once the task has it.
    pub fn wipe(&mut self) {
        for (_, value) in &mut self.env {
            wipe(value);
        }
        self.env.clear();
    }
}

/// Whom a task runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Whether set-uid programs give the task no rights (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privileges: bool,
}

/// The cgroups of an attempt, by absolute path. All are made by the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// In the v2 hierarchy: for tracking, and for killing without a race.
    pub v2: Option<Vec<u8>>,
    /// In v1 hierarchies, one per controller.
    pub v1: Vec<Vec<u8>>,
}

/// A program that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// Its process id.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: with the pid it names the process for ever (until a reboot).
    pub start_time_ticks: u64,
    /// When.
    pub at: WallMs,
    /// The shim itself.
    pub shim_pid: u32,
}

/// The text in the run directory's `started` file.
impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Started { pid, start_time_ticks, at, shim_pid } = self;
        writeln!(f, "pid={pid} start_time_ticks={start_time_ticks} at_ms={} shim_pid={shim_pid};", at.0)
    }
}

impl Started {
    /// Reads what `Display` prints; `None` for anything else, as the empty marker of a start that was tried.
    #[must_use]
    pub fn parse(text: &str) -> Option<Started> {
        let mut parts = text.strip_suffix(";\n")?.split(' ');
        let mut value = |key: &str| parts.next()?.strip_prefix(key)?.strip_prefix('=');
        Some(Started {
            pid: value("pid")?.parse().ok()?,
            start_time_ticks: value("start_time_ticks")?.parse().ok()?,
            at: WallMs(value("at_ms")?.parse().ok()?),
            shim_pid: value("shim_pid")?.parse().ok()?,
        })
    }
}

/// A program that could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What did not work.
    pub step: Step,
    /// The error number of Linux; 0 if there is none.
    pub errno: i32,
}

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// The steps of a start, in their order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Step { $($(#[$doc])* $name,)* }

        impl Step {
            /// Every step.
            pub const ALL: &[Step] = &[$(Step::$name,)*];

            /// Its number on the wire.
            #[must_use]
            pub fn code(self) -> u8 {
                match self { $(Step::$name => $code,)* }
            }

            /// The step with this number.
            #[must_use]
            pub fn from_code(code: u8) -> Option<Step> {
                match code { $($code => Some(Step::$name),)* _ => None }
            }
        }

        impl fmt::Display for Step {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Step::$name => $text,)* })
            }
        }
    };
}

steps! {
    /// The launch came after its own fence.
    Fence = 1, "its lease had run out before it was started";
    /// The files for stdout and stderr.
    Spool = 2, "cannot open the files for its output";
    /// The marker in the run directory.
    Marker = 3, "cannot write into its run directory";
    /// Making the process.
    Fork = 4, "cannot make a process";
    /// Its cgroups.
    Cgroup = 5, "cannot enter its cgroup";
    /// Its own session, descriptors and signals.
    Session = 6, "cannot set up its session";
    /// Dropping rights.
    Rights = 7, "cannot take on its user's rights";
    /// Its working directory.
    Directory = 8, "cannot enter its working directory";
    /// The program.
    Exec = 9, "cannot execute the program";
}

/// Bytes that are not of this conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The frame says that it is longer than [`FRAME_BYTES_MAX`].
    TooLong,
    /// A version that this build does not speak.
    Version(u8),
    /// An unknown kind of message.
    Kind(u8),
    /// The payload ends too early, or goes on after its end.
    Length,
    /// A value that its field cannot have.
    Value(&'static str),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::TooLong => write!(f, "a message is longer than {FRAME_BYTES_MAX} bytes"),
            WireError::Version(v) => write!(f, "a message has version {v}, this build speaks {VERSION}"),
            WireError::Kind(kind) => write!(f, "unknown kind of message: {kind}"),
            WireError::Length => f.write_str("a message is shorter or longer than its content"),
            WireError::Value(field) => write!(f, "a message has an impossible value of `{field}`"),
        }
    }
}

impl std::error::Error for WireError {}

/// Cuts a byte stream into frames.
#[derive(Default)]
pub struct Frames {
    buffer: Vec<u8>,
}

impl Frames {
    /// Takes bytes in as they come.
    pub fn push(&mut self, bytes: &[u8]) {
        if let Some(length) = self.length_with(bytes) {
            // In one piece, so that no copy of a secret stays behind in a buffer that was outgrown.
            self.buffer.reserve_exact(length.min(FRAME_BYTES_MAX).saturating_sub(self.buffer.len()) + 4);
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame without its length; `None` until there is one.
    ///
    /// # Errors
    /// [`WireError::TooLong`]; the stream cannot be read on after that.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, WireError> {
        let Some(length) = self.length_with(&[]) else { return Ok(None) };
        if length > FRAME_BYTES_MAX {
            return Err(WireError::TooLong);
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        let frame = self.buffer[4..4 + length].to_vec();
        wipe(&mut self.buffer[..4 + length]);
        self.buffer.drain(..4 + length);
        if self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
        Ok(Some(frame))
    }

    fn length_with(&self, more: &[u8]) -> Option<usize> {
        let mut first = self.buffer.iter().chain(more);
        let mut bytes = [0; 4];
        for byte in &mut bytes {
            *byte = *first.next()?;
        }
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    }
}

/// Overwrites bytes in a way that the compiler does not leave out.
pub fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}

impl ToShim {
    /// The whole frame, length included.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            ToShim::Launch(launch, cgroups) => {
                let mut out = Writer::new(1, launch_bytes(launch, cgroups));
                write_launch(&mut out, launch, cgroups);
                out.finish()
            }
            ToShim::Renew(deadline) => {
                let mut out = Writer::new(2, 16);
                out.option(deadline.map(|d| d.0));
                out.finish()
            }
            ToShim::Stop { grace_ms } => {
                let mut out = Writer::new(3, 8);
                out.u64(*grace_ms);
                out.finish()
            }
            ToShim::Status => Writer::new(4, 0).finish(),
        }
    }

    /// Reads a frame without its length.
    ///
    /// # Errors
    /// [`WireError`] for everything that [`ToShim::encode`] has not made.
    pub fn decode(frame: &[u8]) -> Result<ToShim, WireError> {
        let (kind, mut reader) = Reader::open(frame)?;
        let message = match kind {
            1 => {
                let (launch, cgroups) = read_launch(&mut reader)?;
                ToShim::Launch(Box::new(launch), cgroups)
            }
            2 => ToShim::Renew(reader.option("deadline")?.map(BootMs)),
            3 => ToShim::Stop { grace_ms: reader.u64()? },
            4 => ToShim::Status,
            other => return Err(WireError::Kind(other)),
        };
        reader.finish(message)
    }
}

impl FromShim {
    /// The whole frame, length included.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            FromShim::Started(started) => encode_started(129, started),
            FromShim::Failed(failed) => {
                let mut out = Writer::new(130, 8);
                out.u8(failed.step.code());
                out.u32(failed.errno.cast_unsigned());
                out.finish()
            }
            FromShim::Running(started) => encode_started(131, started),
            FromShim::Unkillable => Writer::new(132, 0).finish(),
            FromShim::Exited(record) => {
                let text = record.to_string();
                let mut out = Writer::new(133, 4 + text.len());
                out.bytes(text.as_bytes());
                out.finish()
            }
        }
    }

    /// Reads a frame without its length.
    ///
    /// # Errors
    /// [`WireError`] for everything that [`FromShim::encode`] has not made.
    pub fn decode(frame: &[u8]) -> Result<FromShim, WireError> {
        let (kind, mut reader) = Reader::open(frame)?;
        let message = match kind {
            129 => FromShim::Started(read_started(&mut reader)?),
            130 => FromShim::Failed(Failed {
                step: Step::from_code(reader.u8()?).ok_or(WireError::Value("step"))?,
                errno: reader.u32()?.cast_signed(),
            }),
            131 => FromShim::Running(read_started(&mut reader)?),
            132 => FromShim::Unkillable,
            133 => {
                let bytes = reader.bytes()?;
                let text = std::str::from_utf8(bytes).map_err(|_| WireError::Value("record"))?;
                FromShim::Exited(ExitRecord::parse(text).map_err(|_| WireError::Value("record"))?)
            }
            other => return Err(WireError::Kind(other)),
        };
        reader.finish(message)
    }
}

fn encode_started(kind: u8, started: &Started) -> Vec<u8> {
    let mut out = Writer::new(kind, 24);
    out.u32(started.pid);
    out.u64(started.start_time_ticks);
    out.u64(started.at.0.cast_unsigned());
    out.u32(started.shim_pid);
    out.finish()
}

fn read_started(reader: &mut Reader<'_>) -> Result<Started, WireError> {
    Ok(Started {
        pid: reader.u32()?,
        start_time_ticks: reader.u64()?,
        at: WallMs(reader.u64()?.cast_signed()),
        shim_pid: reader.u32()?,
    })
}

fn write_launch(out: &mut Writer, launch: &Launch, cgroups: &Cgroups) {
    out.u64(launch.attempt.job.0);
    out.u32(launch.attempt.gang.0);
    out.u32(launch.attempt.rank.0);
    out.list(&launch.argv, |out, argument| out.bytes(argument));
    out.list(&launch.env, |out, (name, value)| {
        out.bytes(name);
        out.bytes(value);
    });
    for path in [&launch.cwd, &launch.stdout, &launch.stderr] {
        out.bytes(path);
    }
    out.u8(u8::from(launch.credentials.is_some()));
    if let Some(credentials) = &launch.credentials {
        out.u32(credentials.uid);
        out.u32(credentials.gid);
        out.list(&credentials.groups, |out, group| out.u32(*group));
        out.u8(u8::from(credentials.no_new_privileges));
    }
    out.option(launch.deadline.map(|d| d.0));
    out.u32(launch.umask);
    out.u8(u8::from(cgroups.v2.is_some()));
    if let Some(path) = &cgroups.v2 {
        out.bytes(path);
    }
    out.list(&cgroups.v1, |out, path| out.bytes(path));
}

fn read_launch(reader: &mut Reader<'_>) -> Result<(Launch, Cgroups), WireError> {
    let attempt =
        AttemptId { job: JobId(reader.u64()?), gang: GangNo(reader.u32()?), rank: Rank(reader.u32()?) };
    let argv = reader.list(|r| r.text("argv"))?;
    if argv.is_empty() {
        return Err(WireError::Value("argv"));
    }
    let launch = Launch {
        attempt,
        argv,
        env: reader.list(|r| Ok((r.text("env")?, r.text("env")?)))?,
        cwd: reader.text("cwd")?,
        stdout: reader.text("stdout")?,
        stderr: reader.text("stderr")?,
        credentials: match reader.flag("credentials")? {
            false => None,
            true => Some(Credentials {
                uid: reader.u32()?,
                gid: reader.u32()?,
                groups: reader.list(Reader::u32)?,
                no_new_privileges: reader.flag("no_new_privileges")?,
            }),
        },
        deadline: reader.option("deadline")?.map(BootMs),
        umask: reader.u32()?,
    };
    let v2 = if reader.flag("cgroup")? { Some(reader.text("cgroup")?) } else { None };
    Ok((launch, Cgroups { v2, v1: reader.list(|r| r.text("cgroup"))? }))
}

/// About how many bytes a launch takes on the wire, so that the buffer is not outgrown with secrets in it.
fn launch_bytes(launch: &Launch, cgroups: &Cgroups) -> usize {
    let argv: usize = launch.argv.iter().map(|a| a.len() + 4).sum();
    let env: usize = launch.env.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
    let paths = launch.cwd.len() + launch.stdout.len() + launch.stderr.len();
    let groups = launch.credentials.as_ref().map_or(0, |c| c.groups.len() * 4);
    let cgroups: usize = cgroups.v2.iter().chain(&cgroups.v1).map(|path| path.len() + 4).sum();
    argv + env + paths + groups + cgroups + 128
}

struct Writer {
    out: Vec<u8>,
}

impl Writer {
    fn new(kind: u8, payload_bytes: usize) -> Writer {
        let mut out = Vec::with_capacity(payload_bytes + 6);
        out.extend_from_slice(&[0, 0, 0, 0, VERSION, kind]);
        Writer { out }
    }

    fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    fn option(&mut self, value: Option<u64>) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            self.u64(value);
        }
    }

    /// Saturates: what does not fit `u32` is longer than a frame may be, and refused by the reader.
    fn length(&mut self, length: usize) {
        self.u32(u32::try_from(length).unwrap_or(u32::MAX));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.out.extend_from_slice(bytes);
    }

    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Writer, &T)) {
        self.length(items.len());
        for item in items {
            write(self, item);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.out.len() - 4).unwrap_or(u32::MAX);
        self.out[..4].copy_from_slice(&length.to_le_bytes());
        self.out
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn open(frame: &'a [u8]) -> Result<(u8, Reader<'a>), WireError> {
        match frame {
            [VERSION, kind, rest @ ..] => Ok((*kind, Reader { rest })),
            [version, ..] if *version != VERSION => Err(WireError::Version(*version)),
            _ => Err(WireError::Length),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Length)?;
        self.rest = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        Ok(u8::from_le_bytes(self.take()?))
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn flag(&mut self, field: &'static str) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Value(field)),
        }
    }

    fn option(&mut self, field: &'static str) -> Result<Option<u64>, WireError> {
        if self.flag(field)? { self.u64().map(Some) } else { Ok(None) }
    }

    fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = usize::try_from(self.u32()?).map_err(|_| WireError::Length)?;
        let (head, rest) = self.rest.split_at_checked(length).ok_or(WireError::Length)?;
        self.rest = rest;
        Ok(head)
    }

    /// Bytes that the kernel takes as a C string.
    fn text(&mut self, field: &'static str) -> Result<Vec<u8>, WireError> {
        let bytes = self.bytes()?;
        if bytes.contains(&0) { Err(WireError::Value(field)) } else { Ok(bytes.to_vec()) }
    }

    fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let length = usize::try_from(self.u32()?).map_err(|_| WireError::Length)?;
        // An item takes four bytes at least, so a lying length is found before any memory is taken for it.
        if length > self.rest.len() / 4 {
            return Err(WireError::Length);
        }
        let mut items = Vec::with_capacity(length);
        for _ in 0..length {
            items.push(read(self)?);
        }
        Ok(items)
    }

    fn finish<T>(self, message: T) -> Result<T, WireError> {
        if self.rest.is_empty() { Ok(message) } else { Err(WireError::Length) }
    }
}

#[cfg(test)]
mod tests;
