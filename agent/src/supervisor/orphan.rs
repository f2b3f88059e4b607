//! The task of an attempt whose shim was killed: the agent watches its processes until none is left, and does
//! what the shim would have done about a stop or the fence. It ends nothing by itself, unless the attempt's
//! exit record says that it is over, or its main process has gone. How the program ends cannot be seen from here: the exit is unknown.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use tokio::sync::mpsc;
use trainyard_core::id::AttemptId;
use trainyard_core::shim::{Attempt, Cause, Effect, Event, ExitRecord, Started};
use trainyard_core::unit::{Exit, WallMs};

use super::cgroup::AttemptCgroups;
use super::live::sleep_until;
use super::{Order, Shared, ShimEvent, boot_now, process, sys, wall_now};

/// How often processes are listed where they cannot be waited for (no descriptor is to be had), in ms.
const LIST_AGAIN_MS: u64 = 1_000;

/// Why an exit is unknown.
pub(super) const UNSEEN: &str = "the shim was killed: nobody saw how the task ended";

/// How the processes of an attempt are found without its shim.
pub(super) enum Tracked {
    /// By its cgroups.
    Groups(AttemptCgroups),
    /// By the session of its main process. What left that session is not found.
    Session(Started),
    /// Not at all: it never started.
    Nothing,
}

impl Tracked {
    /// The processes that run.
    pub(super) fn members(&self) -> BTreeSet<u32> {
        let mut found = BTreeSet::new();
        match self {
            Tracked::Groups(groups) => {
                groups.tracking().for_each(|dir| process::add_group_members(dir, &mut found));
            }
            Tracked::Session(started) if is_foreign(started) => {}
            Tracked::Session(started) => {
                process::add_session_members(started.pid, &mut found);
                if process::is_shim(started.shim_pid) {
                    process::add_descendants(started.shim_pid, &mut found);
                }
            }
            Tracked::Nothing => {}
        }
        found
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members().is_empty()
    }

    fn kill(&self) {
        if let Tracked::Groups(AttemptCgroups { v2: Some(dir), .. }) = self
            && fs::write(dir.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        process::signal_all(|| self.members(), libc::SIGKILL);
    }

    /// Ends everything and waits for it. For launches that have failed.
    pub(super) async fn end_all(&self) {
        while let Some(waiting) = self.wait_for_one(None) {
            self.kill();
            tokio::select! {
                () = waiting => {}
                () = tokio::time::sleep(Duration::from_millis(LIST_AGAIN_MS)) => {}
            }
        }
    }

    /// Ready when one of the processes has ended, the main one if it runs; `None` if there is none.
    fn wait_for_one(&self, main: Option<u32>) -> Option<impl Future<Output = ()> + use<>> {
        let handle = process::any_handle(main, || self.members());
        match handle {
            Ok(None) => None,
            Ok(Some(handle)) => Some(wait(Ok(handle))),
            Err(error) => Some(wait(Err(error))),
        }
    }
}

async fn wait(handle: io::Result<OwnedFd>) {
    let waited = match handle {
        Ok(handle) => sys::pidfd_wait(handle).await,
        Err(error) => Err(error),
    };
    if let Err(error) = waited {
        tracing::warn!(%error, "cannot wait for a process");
        tokio::time::sleep(Duration::from_millis(LIST_AGAIN_MS)).await;
    }
}

/// Whether the number of the main process has been taken over by another one.
fn is_foreign(started: &Started) -> bool {
    process::start_time_ticks(started.pid).is_some_and(|ticks| ticks != started.start_time_ticks)
}

/// An attempt without its shim.
pub(super) struct Orphan {
    id: AttemptId,
    attempt: Attempt,
    started: Option<Started>,
    /// What the shim had written before it was killed.
    record: Option<ExitRecord>,
    is_unkillable_told: bool,
    /// Why it ended, once its main process was seen to be gone.
    cause: Option<Cause>,
}

impl Orphan {
    /// Of a predecessor.
    pub(super) fn found(id: AttemptId, started: Option<Started>, record: Option<ExitRecord>) -> Orphan {
        let (pid, at) = started.map_or_else(|| (0, wall_now()), |started| (started.pid, started.at));
        Orphan::of_shadow(id, Attempt::new(id, pid, at, boot_now(), None), started, record)
    }

    /// Of a shim that has just been killed.
    pub(super) fn of_shadow(
        id: AttemptId,
        attempt: Attempt,
        started: Option<Started>,
        record: Option<ExitRecord>,
    ) -> Orphan {
        Orphan { id, attempt, started, record, is_unkillable_told: false, cause: None }
    }

    /// Until nothing of it is left, or the supervisor ends.
    pub(super) async fn run(mut self, shared: Arc<Shared>, mut orders: mpsc::Receiver<Order>) {
        let tracked = shared.tracked(self.id);
        if let Some(record) = &self.record {
            // The main process has ended before: what is left is killed, as the shim was about to do.
            let (exit, at) = (record.exit, record.ended);
            let ended = Event::MainEnded { exit, at, oom_kills: 0, leftovers: 1 };
            self.step(ended, &shared, &tracked);
        }
        let main = self.started.map(|started| started.pid);
        let mut is_sweeping = self.record.is_some();
        while let Some(waiting) = tracked.wait_for_one(main) {
            // Nobody saw how the main process ended, but it has: what is left over is killed, as the shim does it.
            if !is_sweeping && self.main_is_gone() {
                is_sweeping = true;
                let at = wall_now();
                let ended = Event::MainEnded { exit: Exit::Unknown, at, oom_kills: 0, leftovers: 1 };
                self.step(ended, &shared, &tracked);
            }
            let event = tokio::select! {
                () = waiting => continue,
                order = orders.recv() => match order {
                    Some(Order::Stop { grace_ms }) => Event::Stop { grace_ms },
                    Some(Order::Renew(deadline)) => Event::Renew(deadline),
                    None => return,
                },
                () = sleep_until(self.attempt.next_wake()) => Event::Woke,
            };
            self.step(event, &shared, &tracked);
        }
        let record = match self.record.take() {
            Some(record) => record,
            None => shared.keep(self.unknown_end()),
        };
        shared.ended(self.id, record);
    }

    fn step(&mut self, event: Event, shared: &Shared, tracked: &Tracked) {
        for effect in self.attempt.step(boot_now(), event) {
            match effect {
                Effect::Terminate => process::signal_all(|| tracked.members(), libc::SIGTERM),
                Effect::Kill => tracked.kill(),
                Effect::TellUnkillable if !self.is_unkillable_told => {
                    self.is_unkillable_told = true;
                    shared.send(ShimEvent::Unkillable { attempt: self.id });
                }
                Effect::WriteRecord(seen) => self.cause = Some(seen.cause),
                // The shim's own record stands.
                Effect::TellUnkillable | Effect::Finish(_) => {}
            }
        }
    }

    /// Whether the main process is known to have ended.
    fn main_is_gone(&self) -> bool {
        self.started.is_some_and(|started| is_foreign(&started) || !process::is_running(started.pid))
    }

    fn unknown_end(&mut self) -> ExitRecord {
        let mut record = lost(self.id, self.started, wall_now(), UNSEEN);
        let ended = Event::MainEnded { exit: Exit::Unknown, at: record.ended, oom_kills: 0, leftovers: 0 };
        for effect in self.attempt.step(boot_now(), ended) {
            if let Effect::WriteRecord(seen) = effect {
                self.cause.get_or_insert(seen.cause);
            }
        }
        if let Some(cause) = self.cause.filter(|cause| *cause != Cause::Itself) {
            record.cause = cause;
        }
        record
    }
}

/// The record of an attempt that ended unseen.
pub(super) fn lost(id: AttemptId, started: Option<Started>, at: WallMs, reason: &str) -> ExitRecord {
    ExitRecord {
        attempt: id,
        exit: Exit::Unknown,
        cause: Cause::Lost,
        pid: started.map_or(0, |started| started.pid),
        started: started.map_or(WallMs(0), |started| started.at),
        ended: at,
        ran_ms: 0,
        leftovers: 0,
        message: reason.to_owned(),
    }
}
