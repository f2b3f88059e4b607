//! What remains of an attempt: the exit record, and its text form, which is one `key=value` a line.
//!
//! The record is written once, when the main process has ended, and never changed.

use std::fmt;
use std::str::FromStr;

use crate::id::AttemptId;
use crate::unit::{Exit, WallMs};

/// Longest message of a record, in bytes; a longer one is cut.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitRecord {
    /// Which attempt.
    pub attempt: AttemptId,
    /// How its main process ended.
    pub exit: Exit,
    /// Who ended it.
    pub cause: Cause,
    /// Its main process; 0 if there never was one, or nobody knows.
    pub pid: u32,
    /// When it started; 0 if it never did.
    pub started: WallMs,
    /// When its main process ended.
    pub ended: WallMs,
    /// How long it ran, in ms of the boot-time clock: right even if the wall clock jumped.
    pub ran_ms: u64,
    /// Processes of it that were still there when the main one ended, and were killed.
    pub leftovers: u32,
    /// More, in words; may be empty.
    pub message: String,
}

/// Who or what ended an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// It ended by itself.
    Itself,
    /// The agent's `Stop`.
    Stopped,
    /// Its lease ran out.
    Fenced,
    /// The kernel's out-of-memory killer.
    Oom,
    /// It was never started.
    NotStarted,
    /// The shim was killed, or the node was rebooted: nobody saw the exit. No shim writes this.
    Lost,
    /// Its main process survived SIGKILL for a minute before it went.
    Unkillable,
}

impl Cause {
    /// Every cause with its word in the record.
    pub const ALL: [(Cause, &'static str); 7] = [
        (Cause::Itself, "itself"),
        (Cause::Stopped, "stopped"),
        (Cause::Fenced, "fenced"),
        (Cause::Oom, "oom"),
        (Cause::NotStarted, "not_started"),
        (Cause::Lost, "lost"),
        (Cause::Unkillable, "unkillable"),
    ];

    fn word(self) -> &'static str {
        match self {
            Cause::Itself => "itself",
            Cause::Stopped => "stopped",
            Cause::Fenced => "fenced",
            Cause::Oom => "oom",
            Cause::NotStarted => "not_started",
            Cause::Lost => "lost",
            Cause::Unkillable => "unkillable",
        }
    }
}

#[cfg(feature = "full")]
impl From<Cause> for crate::session::EndCause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Itself => Self::Itself,
            Cause::Stopped => Self::Stopped,
            Cause::Fenced => Self::Fenced,
            Cause::Oom => Self::Oom,
            Cause::NotStarted => Self::NotStarted,
            Cause::Lost => Self::Lost,
            Cause::Unkillable => Self::Unkillable,
        }
    }
}

impl ExitRecord {
    /// The record of an attempt that was never started.
    #[must_use]
    pub fn not_started(attempt: AttemptId, at: WallMs, message: String) -> ExitRecord {
        ExitRecord {
            attempt,
            exit: Exit::Unknown,
            cause: Cause::NotStarted,
            pid: 0,
            started: WallMs(0),
            ended: at,
            ran_ms: 0,
            leftovers: 0,
            message: cut(message),
        }
    }

    /// Reads the text form. A line with an unknown key is skipped (a newer shim may write more).
    ///
    /// # Errors
    /// [`RecordError`] for anything that this module has not printed whole.
    pub fn parse(text: &str) -> Result<ExitRecord, RecordError> {
        let body = text.strip_suffix("complete=1\n").ok_or(RecordError::Incomplete)?;
        let value = |key: &'static str| {
            let mut lines = body.lines().filter_map(|line| line.split_once('='));
            lines.find(|(k, _)| *k == key).map(|(_, v)| v).ok_or(RecordError::Missing(key))
        };
        Ok(ExitRecord {
            attempt: number("attempt", value("attempt")?)?,
            exit: parse_exit(value("exit")?)?,
            cause: parse_cause(value("cause")?)?,
            pid: number("pid", value("pid")?)?,
            started: WallMs(number("started_ms", value("started_ms")?)?),
            ended: WallMs(number("ended_ms", value("ended_ms")?)?),
            ran_ms: number("ran_ms", value("ran_ms")?)?,
            leftovers: number("leftovers", value("leftovers")?)?,
            message: unescape(value("message")?),
        })
    }
}

impl fmt::Display for ExitRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "attempt={}", self.attempt)?;
        match self.exit {
            Exit::Code(code) => writeln!(f, "exit=code {code}")?,
            Exit::Signal(signal) => writeln!(f, "exit=signal {signal}")?,
            Exit::Unknown => writeln!(f, "exit=unknown")?,
        }
        writeln!(f, "cause={}", self.cause.word())?;
        writeln!(f, "pid={}", self.pid)?;
        writeln!(f, "started_ms={}", self.started.0)?;
        writeln!(f, "ended_ms={}", self.ended.0)?;
        writeln!(f, "ran_ms={}", self.ran_ms)?;
        writeln!(f, "leftovers={}", self.leftovers)?;
        writeln!(f, "message={}", escape(&self.message))?;
        f.write_str("complete=1\n")
    }
}

/// The text is not an exit record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The last line is missing: the file was cut.
    Incomplete,
    /// A line is missing.
    Missing(&'static str),
    /// The value of this key is not one of its values.
    Value(&'static str),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::Incomplete => f.write_str("the exit record is cut: its last line is missing"),
            RecordError::Missing(key) => write!(f, "the exit record has no line `{key}=`"),
            RecordError::Value(key) => write!(f, "the exit record has an unknown value of `{key}`"),
        }
    }
}

impl std::error::Error for RecordError {}

fn number<T: FromStr>(key: &'static str, text: &str) -> Result<T, RecordError> {
    text.parse().map_err(|_| RecordError::Value(key))
}

fn parse_exit(text: &str) -> Result<Exit, RecordError> {
    match text.split_once(' ') {
        Some(("code", code)) => number("exit", code).map(Exit::Code),
        Some(("signal", signal)) => number("exit", signal).map(Exit::Signal),
        None if text == "unknown" => Ok(Exit::Unknown),
        _ => Err(RecordError::Value("exit")),
    }
}

fn parse_cause(text: &str) -> Result<Cause, RecordError> {
    let found = Cause::ALL.iter().find(|(_, word)| *word == text);
    found.map(|(cause, _)| *cause).ok_or(RecordError::Value("cause"))
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('r')) => out.push('\r'),
            ('\\', Some(other)) => out.push(other),
            (c, _) => out.push(c),
        }
    }
    out
}

pub(super) fn cut(mut text: String) -> String {
    let mut end = text.len().min(MESSAGE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
pub(in crate::shim) mod tests {
    use super::*;
    use crate::id::{GangNo, JobId, Rank};
    use proptest::prelude::*;

    fn any_exit() -> impl Strategy<Value = Exit> {
        prop_oneof![
            any::<i32>().prop_map(Exit::Code),
            any::<i32>().prop_map(Exit::Signal),
            Just(Exit::Unknown)
        ]
    }

    prop_compose! {
        pub(in crate::shim) fn any_record()(
            (job, gang, rank) in any::<(u64, u32, u32)>(),
            exit in any_exit(),
            cause in 0..Cause::ALL.len(),
            (pid, started, ended, ran_ms, leftovers) in any::<(u32, i64, i64, u64, u32)>(),
            message in any::<String>(),
        ) -> ExitRecord {
            ExitRecord {
                attempt: AttemptId { job: JobId(job), gang: GangNo(gang), rank: Rank(rank) },
                exit, cause: Cause::ALL[cause].0, pid, started: WallMs(started), ended: WallMs(ended),
                ran_ms, leftovers, message,
            }
        }
    }

    proptest! {
        #[test]
        fn a_record_reads_back_what_it_prints(record in any_record()) {
            prop_assert_eq!(ExitRecord::parse(&record.to_string()), Ok(record));
        }

        #[test]
        fn a_cut_record_is_refused(record in any_record(), at in any::<prop::sample::Index>()) {
            let text = record.to_string();
            let mut end = at.index(text.len());
            while !text.is_char_boundary(end) { end -= 1; }
            prop_assert!(ExitRecord::parse(&text[..end]).is_err());
        }

        #[test]
        fn garbage_does_not_panic(text in any::<String>()) {
            prop_assert!(ExitRecord::parse(&text).is_err());
        }
    }

    #[test]
    fn every_cause_has_its_own_word() {
        for (cause, word) in Cause::ALL {
            assert_eq!(cause.word(), word);
            assert_eq!(parse_cause(word), Ok(cause));
        }
    }
}
