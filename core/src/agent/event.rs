//! What can happen to a node, as data.

use crate::id::{AttemptId, Epoch, GangId, Generation};
use crate::session::{Command, TaskEnded, Welcome};
use crate::unit::{Port, WallMs};

/// The clocks at an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// The boot-time clock in ms: it goes on while the machine sleeps, and fences are counted on it.
    pub boot_ms: u64,
    /// The wall clock, for display.
    pub wall: WallMs,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The agent has started, with what the journal held. Comes first, once.
    Restarted {
        /// Of the running kernel.
        boot_id: String,
    },
    /// A Hello was made from the present state; reports from now on belong behind it.
    Greeted {
        /// The boot-time clock at that moment.
        boot_ms: u64,
    },
    /// The coordinator has answered the Hello.
    Welcomed(Welcome),
    /// The session is gone.
    Disconnected,
    /// The coordinator has answered a heartbeat.
    HeartbeatAcked {
        /// The boot-time clock that the heartbeat bore.
        boot_ms: u64,
    },
    /// A command has come.
    Commanded {
        /// Of the message's envelope.
        generation: Generation,
        /// Of the message's envelope.
        epoch: Epoch,
        /// What to do.
        command: Command,
    },
    /// The directories, mounts, files and ports of a gang are ready, or are not.
    SetUp {
        /// Which.
        gang: GangId,
        /// What went wrong.
        problem: Option<SetupProblem>,
    },
    /// An attempt runs.
    Launched {
        /// Which.
        attempt: AttemptId,
        /// Its main process.
        pid: u32,
        /// When.
        at: WallMs,
    },
    /// An attempt has ended, or could not be started; its cause says which. Nothing of it is left.
    Ended(Box<TaskEnded>),
    /// An attempt survives SIGKILL. It counts as ended, but its processes are there; `Ended` follows if they
    /// ever go.
    Stuck(Box<TaskEnded>),
    /// What became of an attempt while no agent ran.
    Adopted {
        /// Which.
        attempt: AttemptId,
        /// What was found.
        found: Found,
    },
    /// The files of a gang are complete in its `std_dir`, or were not in time.
    LogsClosed {
        /// Which.
        gang: GangId,
    },
    /// Temporary directories of ended jobs are gone.
    Wiped {
        /// Which.
        job_temps: Vec<String>,
    },
}

/// Why a gang could not be set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetupProblem {
    /// A directory, file or mount could not be made: in words.
    Failed(String),
    /// These ports are taken.
    PortsTaken(Vec<Port>),
    /// A check of the node found it unfit: in words.
    Preflight(String),
}

/// What a new agent found of an attempt that an earlier one intended to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It runs, or what is left of it is being ended.
    Running {
        /// Its main process and start, if that can be told.
        started: Option<(u32, WallMs)>,
    },
    /// Its exit record is there, or one that says that nobody saw the exit.
    Ended(Box<TaskEnded>),
    /// It never came to a start, and never will.
    NeverStarted,
}
