//! Identifiers: newtypes that print as people say them (`7.2.0` is job 7, second gang, rank 0).

use std::fmt;
use std::str::FromStr;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "full", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(
    /// The serial number of a job in its coordinator's database; never reused.
    JobId(u64)
);
number_id!(
    /// Which try of a job this is: 1, 2, ...
    GangNo(u32)
);
number_id!(
    /// The place of a task in its gang, from 0.
    Rank(u32)
);
impl Rank {
    /// The job preparation of a node: an attempt like any other, but no task of the gang.
    pub const PREPARATION: Rank = Rank(u32::MAX);
}

number_id!(
    /// Grows with each registration of a node, so that stale messages are refused.
    Epoch(u64)
);
number_id!(
    /// Grows with each start of the coordinator; agents refuse commands of a lower one.
    Generation(u64)
);

/// One try of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "full", derive(serde::Serialize, serde::Deserialize))]
pub struct GangId {
    /// The job.
    pub job: JobId,
    /// The try.
    pub gang: GangNo,
}

impl GangId {
    /// The attempt of the task of this rank.
    #[must_use]
    pub fn attempt(self, rank: Rank) -> AttemptId {
        AttemptId { job: self.job, gang: self.gang, rank }
    }
}

impl fmt::Display for GangId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.job, self.gang)
    }
}

/// One execution of one task. It starts at most once, ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "full", derive(serde::Serialize, serde::Deserialize))]
pub struct AttemptId {
    /// The job.
    pub job: JobId,
    /// The try of the job.
    pub gang: GangNo,
    /// The task within the gang.
    pub rank: Rank,
}

impl AttemptId {
    /// The gang that this attempt belongs to.
    #[must_use]
    pub fn gang_id(self) -> GangId {
        GangId { job: self.job, gang: self.gang }
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.job, self.gang, self.rank)
    }
}

/// The text is not of the form `job.gang.rank`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnAttemptId;

impl fmt::Display for NotAnAttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an attempt id: three numbers joined by dots are expected, as in `7.1.0`")
    }
}

impl std::error::Error for NotAnAttemptId {}

impl FromStr for AttemptId {
    type Err = NotAnAttemptId;

    fn from_str(text: &str) -> Result<Self, NotAnAttemptId> {
        fn number<T: FromStr>(part: Option<&str>) -> Result<T, NotAnAttemptId> {
            let part = part.filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
            part.and_then(|p| p.parse().ok()).ok_or(NotAnAttemptId)
        }
        let mut parts = text.split('.');
        let id = AttemptId {
            job: JobId(number(parts.next())?),
            gang: GangNo(number(parts.next())?),
            rank: Rank(number(parts.next())?),
        };
        if parts.next().is_some() { Err(NotAnAttemptId) } else { Ok(id) }
    }
}

/// The name of a node, unique in its coordinator: `node-0` for local nodes, else the host's name.
///
/// Made only from text that [`crate::text::Name`] accepts or that an agent's own configuration holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "full", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct NodeId(pub String);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempt_ids_read_back_what_they_print() {
        let id = AttemptId { job: JobId(7), gang: GangNo(2), rank: Rank(0) };
        assert_eq!(id.to_string(), "7.2.0");
        assert_eq!("7.2.0".parse(), Ok(id));
        for bad in ["", "7", "7.2", "7.2.0.1", "7.-2.0", "+7.2.0", "a.b.c", "7..0", "7.2.99999999999"] {
            assert_eq!(bad.parse::<AttemptId>(), Err(NotAnAttemptId), "{bad:?}");
        }
    }
}
