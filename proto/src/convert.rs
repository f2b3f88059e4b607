//! Wire to core by `TryFrom`, which checks everything; core to wire by `From`.
//!
//! What has passed here is trusted further in: paths are absolute and hold no `..`, file names are
//! plain, numbers are in range, enums are specified.

mod command;
mod plan;
mod report;
#[cfg(test)]
mod round_trip;

pub use command::Down;
pub use report::{Up, hello_to_wire};

use trainyard_core::id::{AttemptId, GangId, GangNo, JobId, Rank};
use trainyard_core::spec::limits::PATH_BYTES;

use crate::v1;

/// What is wrong with a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An enum is unspecified, or of a later version.
    #[error("{0} is unspecified or unknown")]
    Unspecified(&'static str),
    /// A number is out of its range.
    #[error("{0} is out of range: {1}")]
    OutOfRange(&'static str, i64),
    /// A path is not absolute, too long, or holds NUL or `..`.
    #[error("{0} is no absolute path without `..` of at most {PATH_BYTES} bytes: {1:?}")]
    BadPath(&'static str, String),
    /// A file name is empty, hidden, too long, or holds `/` or NUL.
    #[error("{0} is no plain file name: {1:?}")]
    BadFileName(&'static str, String),
    /// A variable's name is empty or holds `=` or NUL, or its value holds NUL. Values are not shown.
    #[error("{0} holds a variable that no process can have: {1:?}")]
    BadVariable(&'static str, String),
    /// An argument holds NUL, or there is none.
    #[error("{0} is no command line")]
    BadCommandLine(&'static str),
}

impl From<GangId> for v1::GangId {
    fn from(gang: GangId) -> v1::GangId {
        v1::GangId { job: gang.job.0, gang: gang.gang.0 }
    }
}

impl From<v1::GangId> for GangId {
    fn from(gang: v1::GangId) -> GangId {
        GangId { job: JobId(gang.job), gang: GangNo(gang.gang) }
    }
}

impl From<AttemptId> for v1::AttemptId {
    fn from(attempt: AttemptId) -> v1::AttemptId {
        v1::AttemptId { job: attempt.job.0, gang: attempt.gang.0, rank: attempt.rank.0 }
    }
}

impl From<v1::AttemptId> for AttemptId {
    fn from(attempt: v1::AttemptId) -> AttemptId {
        AttemptId { job: JobId(attempt.job), gang: GangNo(attempt.gang), rank: Rank(attempt.rank) }
    }
}

/// The value of a field that must be there.
fn need<T>(value: Option<T>, field: &'static str) -> Result<T, WireError> {
    value.ok_or(WireError::Missing(field))
}

fn absolute_path(path: String, field: &'static str) -> Result<String, WireError> {
    let fits = path.starts_with('/')
        && path.len() <= PATH_BYTES
        && !path.contains('\0')
        && path.split('/').all(|part| part != "..");
    if fits { Ok(path) } else { Err(WireError::BadPath(field, shortened(&path))) }
}

fn file_name(name: String, field: &'static str) -> Result<String, WireError> {
    let fits = (1..=255).contains(&name.len()) && !name.starts_with('.') && !name.contains(['/', '\0']);
    if fits { Ok(name) } else { Err(WireError::BadFileName(field, shortened(&name))) }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_names_are_checked_at_the_door() {
        for good in ["/", "/a", "/a/b..c/d", "/a//b/."] {
            assert_eq!(absolute_path(good.into(), "x"), Ok(good.to_owned()));
        }
        for bad in ["", "a", "./a", "/a/../b", "/..", "/a\0b", &format!("/{}", "a".repeat(PATH_BYTES))] {
            assert!(absolute_path((*bad).into(), "x").is_err(), "{bad:?}");
        }
        for good in ["a", "stdout-wk-0.txt", "a..b"] {
            assert_eq!(file_name(good.into(), "x"), Ok(good.to_owned()));
        }
        for bad in ["", ".", "..", ".acked", "a/b", "a\0", &"a".repeat(256)] {
            assert!(file_name((*bad).into(), "x").is_err(), "{bad:?}");
        }
    }
}
