//! What must be durable, and what may then be done.

use serde::{Deserialize, Serialize};

use crate::id::{AttemptId, GangId, Generation};
use crate::plan::{Command, NodePlan};
use crate::session::{PrepareFailed, Report, TaskEnded};
use crate::unit::WallMs;

/// What follows from one event: first all of `commit`, then all of `then`.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct Step {
    /// To the journal, in order, before any of `then`.
    pub commit: Vec<Record>,
    /// Afterwards, in order.
    pub then: Vec<Effect>,
}

/// A line of the journal. Secrets are not written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Record {
    /// The kernel that the records below belong to.
    Booted {
        /// Its boot id.
        boot_id: String,
    },
    /// The highest generation obeyed.
    Generation(Generation),
    /// The coordinator heard of this node after this moment: what the next agent counts fences from until it has
    /// a contact of its own. Noted now and then, so it may be a little old.
    Contact {
        /// Of the boot-time clock.
        boot_ms: u64,
    },
    /// A gang was received.
    Planned {
        /// Which.
        gang: GangId,
        /// What to do, without secrets on disk.
        plan: Box<NodePlan>,
        /// Whether to start as soon as prepared.
        start_when_prepared: bool,
        /// 0: never fenced.
        lease_ms: u64,
    },
    /// It was stopped before its plan came: it must never be prepared.
    Barred(GangId),
    /// It is to end.
    Stopping {
        /// Which.
        gang: GangId,
        /// From TERM to KILL.
        grace_ms: u64,
    },
    /// The preparation is about to be started: at most once.
    PreparationIntended(GangId),
    /// The preparation went well: never run it again.
    PreparationDone(GangId),
    /// Every task of the gang is about to be started: at most once.
    StartIntended(GangId),
    /// An attempt runs.
    Started {
        /// Which.
        attempt: AttemptId,
        /// Its main process.
        pid: u32,
        /// When.
        at: WallMs,
    },
    /// An attempt has ended.
    Ended(Box<TaskEnded>),
    /// The coordinator has these ends on disk.
    Acked(Vec<AttemptId>),
    /// Nothing of it runs here any more.
    Over {
        /// Which.
        gang: GangId,
        /// Set if it could not be prepared.
        prepare_failed: Option<PrepareFailed>,
    },
    /// The coordinator has every outcome: the gang is forgotten, but for this.
    Released {
        /// Which.
        gang: GangId,
        /// Its temporary directory; empty if it never had a plan.
        job_temp: String,
        /// Directories whose files a client may still ask for.
        directories: Vec<String>,
        /// Whether `job_temp` is gone.
        wiped: bool,
    },
    /// An attempt survives SIGKILL.
    Stuck(AttemptId),
    /// Nothing is left of it.
    Gone(AttemptId),
    /// Temporary directories of released gangs are gone.
    Wiped {
        /// Which.
        job_temps: Vec<String>,
    },
}

impl Record {
    /// Whether it has to survive a power cut before its effects happen.
    ///
    /// The others survive the death of every process, since they are in the page cache; after a power
    /// cut nothing runs, so that nothing can be started twice or be forgotten by their loss.
    #[must_use]
    pub fn must_sync(&self) -> bool {
        match self {
            Record::StartIntended(_) if mutant!("start-intent-not-synced") => false,
            Record::Generation(_)
            | Record::Barred(_)
            | Record::Stopping { .. }
            | Record::PreparationIntended(_)
            | Record::StartIntended(_)
            | Record::Ended(_)
            | Record::Over { .. } => true,
            Record::Booted { .. }
            | Record::Contact { .. }
            | Record::Planned { .. }
            | Record::PreparationDone(_)
            | Record::Started { .. }
            | Record::Acked(_)
            | Record::Released { .. }
            // A power cut ends the most stubborn process.
            | Record::Stuck(_)
            | Record::Gone(_)
            | Record::Wiped { .. } => false,
        }
    }
}

/// What the driver does. Each may be repeated safely, but for [`Effect::Launch`], which never is.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Tell the coordinator.
    Report(Report),
    /// End the session.
    Disconnect {
        /// For the log.
        reason: String,
    },
    /// Upload what stands in the gang's spool, and what comes.
    OpenLogs {
        /// Which.
        gang: GangId,
    },
    /// Make directories, mounts and files, and check the ports; answered by `Event::SetUp`.
    SetUp {
        /// Which.
        gang: GangId,
        /// What.
        plan: Box<NodePlan>,
        /// Whether `job_temp` may hold remains of another job, to be removed first.
        stale_temp: bool,
    },
    /// Remove temporary directories of ended jobs, in the background; answered by `Event::Wiped`.
    Wipe {
        /// Which.
        job_temps: Vec<String>,
    },
    /// Copy the gang's spool to `std_dir`, and what comes.
    Mirror {
        /// Which.
        gang: GangId,
        /// Where to.
        std_dir: String,
    },
    /// Start an attempt; answered by `Event::Launched` or `Event::Ended`.
    Launch {
        /// Which.
        attempt: AttemptId,
        /// What.
        command: Box<Command>,
        /// When to end it if nothing renews it; absent: never.
        fence_boot_ms: Option<u64>,
    },
    /// Find out what became of an attempt; answered by `Event::Adopted`.
    Adopt {
        /// Which.
        attempt: AttemptId,
    },
    /// End an attempt.
    Stop {
        /// Which.
        attempt: AttemptId,
        /// From TERM to KILL.
        grace_ms: u64,
    },
    /// Move the fence of an attempt.
    Renew {
        /// Which.
        attempt: AttemptId,
        /// To when.
        fence_boot_ms: u64,
    },
    /// These files get no more bytes.
    EndLogs {
        /// Of which gang.
        gang: GangId,
        /// Names in its spool.
        files: Vec<String>,
    },
    /// Complete the files in `std_dir`, for a bounded time; answered by `Event::LogsClosed`.
    CloseLogs {
        /// Of which gang.
        gang: GangId,
    },
    /// Unmount, forget the shims, and remove the spool once it is uploaded; in the background.
    CleanUp {
        /// Which.
        gang: GangId,
        /// What was set up; absent if it never had a plan.
        plan: Option<Box<NodePlan>>,
        /// What was ever started of it.
        attempts: Vec<AttemptId>,
    },
    /// A line for `execution.log`.
    Note {
        /// Of which gang.
        gang: GangId,
        /// `step: text`
        text: String,
    },
}
