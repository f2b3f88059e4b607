//! What breaks, and when: data made from the seed, so that a run can be repeated with fewer faults.

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// Between two faults on average, ms.
const PAUSE_MS: u64 = 10_000;

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// When, in simulated ms.
    pub at_ms: u64,
    /// Which node, where one is concerned (modulo their number).
    pub node: u8,
    /// How long, in ms, where that means something.
    pub for_ms: u64,
    /// Which of several (modulo their number).
    pub pick: u32,
    /// What.
    pub kind: Kind,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $weight:literal,)*) => {
        /// Kinds of faults.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub enum Kind { $($(#[$doc])* $name,)* }

        impl Kind {
            /// Every kind, and how often it is drawn beside the others.
            pub const ALL: &'static [(Kind, u32)] = &[$((Kind::$name, $weight),)*];

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Kind::$name => stringify!($name),)* }
            }
        }
    };
}

kinds! {
    /// SIGKILL of the coordinator, restarted after a while.
    CoordinatorKill = 6,
    /// It dies at its next commit, before anything is on disk.
    CoordinatorKillBeforeCommit = 6,
    /// It dies at its next commit, with everything on disk and nothing sent.
    CoordinatorKillAfterCommit = 6,
    /// SIGSTOP of the coordinator.
    CoordinatorStop = 3,
    /// No space for its database.
    DiskFull = 2,
    /// Its disk takes seconds for a commit.
    SlowDisk = 3,
    /// SIGKILL of an agent.
    AgentKill = 10,
    /// It dies at its next commit, with a part of the records written and nothing done.
    AgentKillBeforeEffects = 8,
    /// It dies just after the first of its next effects.
    AgentKillAmidEffects = 8,
    /// SIGSTOP of an agent.
    AgentStop = 4,
    /// SIGKILL of a shim.
    ShimKill = 5,
    /// SIGKILL of an agent and of one of its shims at once.
    AgentAndShimKill = 4,
    /// The same on a node that is cut off.
    CutOffOrphan = 3,
    /// SIGSTOP of a shim.
    ShimStop = 3,
    /// A node, or in one-machine mode the machine, loses power.
    PowerCut = 3,
    /// A whole node stands still.
    Freeze = 4,
    /// Nothing passes between a node and the coordinator.
    Partition = 8,
    /// Nothing passes from the node to the coordinator.
    PartitionUp = 4,
    /// Nothing passes from the coordinator to the node.
    PartitionDown = 4,
    /// The connection is reset.
    Reset = 6,
    /// Messages take seconds.
    SlowNetwork = 4,
    /// A command of the past comes again.
    ReplayCommand = 8,
    /// Reports of the past come again.
    ReplayReports = 8,
    /// A wall clock jumps by a day.
    ClockJump = 2,
    /// A GPU is lost, for a while.
    GpuLost = 3,
    /// The next set-up on a node fails.
    SetupFails = 3,
    /// The next set-up on a node finds a port taken.
    PortTaken = 3,
    /// The next start on a node fails.
    LaunchFails = 3,
    /// A task cannot be killed for a while (a dead mount).
    Unkillable = 2,
    /// The kernel ends a task for memory.
    OutOfMemory = 2,
}

/// The faults of a seed, in order of time.
#[must_use]
pub fn plan(seed: u64, count: usize) -> Vec<Fault> {
    let mut rng = Rng::with_seed(seed ^ 0xfa17);
    let total: u32 = Kind::ALL.iter().map(|(_, weight)| weight).sum();
    let mut at_ms = 5_000;
    let mut faults = Vec::with_capacity(count);
    // Some runs have many faults close together, others long silences between them.
    let pause_ms = [PAUSE_MS / 4, PAUSE_MS, PAUSE_MS * 2][rng.usize(..3)];
    while faults.len() < count {
        at_ms += rng.u64(1..pause_ms * 2);
        let mut left = rng.u32(..total);
        let kind = Kind::ALL.iter().find(|(_, weight)| {
            let here = left < *weight;
            left = left.saturating_sub(*weight);
            here
        });
        let kind = kind.map_or(Kind::Reset, |(kind, _)| *kind);
        // Most are short; some outlast a lease.
        let for_ms = match rng.u8(..10) {
            0..=4 => rng.u64(1..3_000),
            5..=7 => rng.u64(3_000..60_000),
            _ => rng.u64(60_000..240_000),
        };
        faults.push(Fault { at_ms, node: rng.u8(..), for_ms, pick: rng.u32(..), kind });
    }
    faults
}
