//! The decisions of the process that owns one attempt, and the words that it speaks with the agent.
//!
//! `attempt` is the state machine; `fence` and `ladder` are its two clocks; `record` is what remains of an
//! attempt; `wire` is the conversation. All of it is built without any dependency (no feature `full`), for
//! the small static binary. Nothing here signals, reads a clock or opens a file.

pub mod attempt;
pub mod fence;
pub mod ladder;
pub mod record;
pub mod wire;

pub use attempt::{Attempt, Effect, Event};
pub use fence::{BootMs, Fence, FenceDecision};
pub use ladder::{Act, Ladder};
pub use record::{Cause, ExitRecord};
pub use wire::{Cgroups, Credentials, Failed, Frames, FromShim, Launch, Started, Step, ToShim};

/// After so many ms of SIGKILL a process counts as unkillable (a D state on a dead mount, mostly).
pub const UNKILLABLE_AFTER_MS: u64 = 60_000;

/// Name of the control socket in an attempt's run directory.
pub const SOCKET_FILE: &str = "shim.sock";
/// Name of the exit record in an attempt's run directory.
pub const EXIT_FILE: &str = "exit";
/// Where the exit record is written before it is renamed.
pub const EXIT_TEMPORARY_FILE: &str = "exit.tmp";
/// Made empty just before the task is started, and filled with its pid just after.
pub const STARTED_FILE: &str = "started";
