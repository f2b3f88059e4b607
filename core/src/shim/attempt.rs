//! The life of one attempt in its shim: events in, effects out. The driver only performs.

use super::fence::{BootMs, Fence, FenceDecision};
use super::ladder::{Act, Ladder};
use super::record::{Cause, ExitRecord, cut};
use crate::id::AttemptId;
use crate::unit::{Exit, WallMs};

/// A started attempt.
///
/// ```text
/// Running --main process ended--> Sweeping --nothing left--> Gone
///     \___________ended, nothing left______________________^
/// ```
#[derive(Clone, Debug)]
pub struct Attempt {
    id: AttemptId,
    pid: u32,
    started: WallMs,
    started_boot: BootMs,
    fence: Fence,
    ladder: Ladder,
    /// Who asked for the end first.
    asked: Option<Cause>,
    phase: Phase,
}

#[derive(Clone, Debug)]
enum Phase {
    Running,
    Sweeping(ExitRecord),
    Gone,
}

/// What happens to an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The agent wants it to end.
    Stop {
        /// From TERM to KILL, in ms; 0 kills at once.
        grace_ms: u64,
    },
    /// The agent moves the fence; `None` lifts it.
    Renew(Option<BootMs>),
    /// The main process was reaped.
    MainEnded {
        /// How it ended.
        exit: Exit,
        /// When.
        at: WallMs,
        /// How often the kernel's out-of-memory killer struck in its cgroup.
        oom_kills: u64,
        /// How many of its processes are still there.
        leftovers: u32,
    },
    /// The main process was reaped and no process is left.
    Empty,
    /// The time of [`Attempt::next_wake`] has come.
    Woke,
}

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// SIGTERM to every process of the attempt.
    Terminate,
    /// SIGKILL to every process of the attempt.
    Kill,
    /// Put this record in place. It is final.
    WriteRecord(ExitRecord),
    /// Tell the agent that SIGKILL does not help.
    TellUnkillable,
    /// Tell the agent the outcome, and exit: nothing of the attempt is left.
    Finish(ExitRecord),
}

impl Attempt {
    /// An attempt whose main process has just been started.
    #[must_use]
    pub fn new(id: AttemptId, pid: u32, started: WallMs, now: BootMs, deadline: Option<BootMs>) -> Attempt {
        Attempt {
            id,
            pid,
            started,
            started_boot: now,
            fence: Fence::new(deadline),
            ladder: Ladder::default(),
            asked: None,
            phase: Phase::Running,
        }
    }

    /// Applies one event.
    #[must_use]
    pub fn step(&mut self, now: BootMs, event: Event) -> Vec<Effect> {
        match event {
            Event::Stop { grace_ms } => {
                self.asked.get_or_insert(Cause::Stopped);
                let act = self.ladder.stop(now, grace_ms);
                effects(act)
            }
            Event::Renew(deadline) => {
                self.fence.renew(deadline);
                Vec::new()
            }
            Event::MainEnded { exit, at, oom_kills, leftovers } => {
                self.on_main_ended(now, exit, at, oom_kills, leftovers)
            }
            Event::Empty => self.on_empty(),
            Event::Woke => self.on_woke(now),
        }
    }

    /// When to wake; `None`: only when something happens.
    #[must_use]
    pub fn next_wake(&self) -> Option<BootMs> {
        let fence = match self.fence.decide(BootMs(0)) {
            FenceDecision::WakeAt(at) if !self.is_being_killed() => Some(at),
            FenceDecision::End if !self.is_being_killed() => Some(BootMs(0)),
            FenceDecision::WakeAt(_) | FenceDecision::End | FenceDecision::Never => None,
        };
        match (self.ladder.next_wake(), fence) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Whether the main process was reaped, so that the driver has to look whether anything is left.
    #[must_use]
    pub fn is_sweeping(&self) -> bool {
        matches!(self.phase, Phase::Sweeping(_))
    }

    /// The record, once the main process has ended and while others are still being ended.
    #[must_use]
    pub fn record(&self) -> Option<&ExitRecord> {
        match &self.phase {
            Phase::Sweeping(record) => Some(record),
            Phase::Running | Phase::Gone => None,
        }
    }

    fn on_woke(&mut self, now: BootMs) -> Vec<Effect> {
        if self.fence.decide(now) == FenceDecision::End
            && !self.is_being_killed()
            && !mutant!("shim-does-not-fence")
        {
            self.asked.get_or_insert(Cause::Fenced);
            let act = self.ladder.kill(now);
            return effects(act);
        }
        let act = self.ladder.tick(now);
        effects(act)
    }

    fn on_main_ended(
        &mut self,
        now: BootMs,
        exit: Exit,
        at: WallMs,
        oom_kills: u64,
        leftovers: u32,
    ) -> Vec<Effect> {
        if !matches!(self.phase, Phase::Running) {
            return Vec::new();
        }
        let record = ExitRecord {
            attempt: self.id,
            exit,
            cause: self.cause(exit, oom_kills),
            pid: self.pid,
            started: self.started,
            ended: at,
            ran_ms: now.0.saturating_sub(self.started_boot.0),
            leftovers,
            message: message(oom_kills, leftovers),
        };
        let mut effects = vec![Effect::WriteRecord(record.clone())];
        effects.retain(|_| !mutant!("exit-record-not-written"));
        if leftovers == 0 || mutant!("finished-before-empty") {
            self.phase = Phase::Gone;
            effects.push(Effect::Finish(record));
            return effects;
        }
        self.phase = Phase::Sweeping(record);
        // After a stop the others got SIGTERM too, and have the rest of the grace for their last checkpoint.
        let kills = !mutant!("leftovers-not-killed");
        if kills && self.ladder == Ladder::Standing && self.ladder.kill(now).is_some() {
            effects.push(Effect::Kill);
        }
        effects
    }

    fn on_empty(&mut self) -> Vec<Effect> {
        match std::mem::replace(&mut self.phase, Phase::Gone) {
            Phase::Sweeping(record) => vec![Effect::Finish(record)],
            // Empty is only said after the main process was reaped: its record comes first.
            Phase::Running => {
                self.phase = Phase::Running;
                Vec::new()
            }
            Phase::Gone => Vec::new(),
        }
    }

    fn cause(&self, exit: Exit, oom_kills: u64) -> Cause {
        match self.asked {
            Some(_) if matches!(self.ladder, Ladder::Unkillable { .. }) => Cause::Unkillable,
            Some(cause) => cause,
            None if oom_kills > 0 && !exit.is_success() => Cause::Oom,
            None => Cause::Itself,
        }
    }

    fn is_being_killed(&self) -> bool {
        match self.ladder {
            Ladder::Standing | Ladder::Terminating { .. } => false,
            Ladder::Killing { .. } | Ladder::Unkillable { .. } => true,
        }
    }
}

fn effects(act: Option<Act>) -> Vec<Effect> {
    match act {
        None => Vec::new(),
        Some(Act::Terminate) => vec![Effect::Terminate],
        Some(Act::Kill) => vec![Effect::Kill],
        Some(Act::GiveUp) => vec![Effect::Kill, Effect::TellUnkillable],
    }
}

fn message(oom_kills: u64, leftovers: u32) -> String {
    let oom = match oom_kills {
        0 => None,
        n => Some(format!("the out-of-memory killer ended {n} of its processes")),
    };
    let left = match leftovers {
        0 => None,
        n => Some(format!("{n} of its processes were still there when the main one ended")),
    };
    cut([oom, left].into_iter().flatten().collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{GangNo, JobId, Rank};
    use crate::shim::UNKILLABLE_AFTER_MS;

    fn attempt(deadline: Option<BootMs>) -> Attempt {
        let id = AttemptId { job: JobId(7), gang: GangNo(1), rank: Rank(0) };
        Attempt::new(id, 42, WallMs(1_000), BootMs(0), deadline)
    }

    fn ended(exit: Exit, leftovers: u32) -> Event {
        Event::MainEnded { exit, at: WallMs(2_000), oom_kills: 0, leftovers }
    }

    fn record(effects: &[Effect]) -> &ExitRecord {
        match &effects[0] {
            Effect::WriteRecord(record) => record,
            other => panic!("the record comes first, not {other:?}"),
        }
    }

    #[test]
    fn a_clean_end_writes_the_record_and_then_tells() {
        let mut a = attempt(None);
        let effects = a.step(BootMs(500), ended(Exit::Code(3), 0));
        let record = record(&effects).clone();
        assert_eq!((record.exit, record.cause, record.ran_ms), (Exit::Code(3), Cause::Itself, 500));
        assert_eq!(effects[1..], [Effect::Finish(record)]);
        assert_eq!(a.next_wake(), None);
    }

    #[test]
    fn leftovers_are_killed_after_the_record_is_written_and_before_the_agent_is_told() {
        let mut a = attempt(None);
        let effects = a.step(BootMs(1), ended(Exit::Code(0), 2));
        assert_eq!(record(&effects).leftovers, 2);
        assert_eq!(effects[1..], [Effect::Kill]);
        let wake = a.next_wake().expect("the kill is repeated");
        assert_eq!(a.step(wake, Event::Woke), [Effect::Kill]);
        assert!(matches!(a.step(wake, Event::Empty)[..], [Effect::Finish(_)]));
        assert_eq!(a.step(wake, Event::Empty), [], "told once");
    }

    #[test]
    fn leftovers_of_a_stopped_attempt_have_the_rest_of_the_grace() {
        let mut a = attempt(None);
        assert_eq!(a.step(BootMs(0), Event::Stop { grace_ms: 100 }), [Effect::Terminate]);
        let effects = a.step(BootMs(10), ended(Exit::Signal(15), 1));
        assert_eq!(record(&effects).cause, Cause::Stopped);
        assert_eq!(effects.len(), 1);
        assert_eq!(a.step(BootMs(100), Event::Woke), [Effect::Kill]);
    }

    #[test]
    fn the_fence_kills_at_once_even_during_a_grace() {
        let mut a = attempt(Some(BootMs(100)));
        assert_eq!(a.next_wake(), Some(BootMs(100)));
        assert_eq!(a.step(BootMs(50), Event::Renew(Some(BootMs(200)))), []);
        assert_eq!(a.step(BootMs(100), Event::Woke), []);
        assert_eq!(a.step(BootMs(200), Event::Woke), [Effect::Kill]);
        let effects = a.step(BootMs(201), ended(Exit::Signal(9), 0));
        assert_eq!(record(&effects).cause, Cause::Fenced);

        let mut a = attempt(Some(BootMs(100)));
        assert_eq!(a.step(BootMs(0), Event::Stop { grace_ms: 10_000 }), [Effect::Terminate]);
        assert_eq!(a.step(BootMs(100), Event::Woke), [Effect::Kill]);
    }

    #[test]
    fn an_oom_kill_is_the_cause_only_of_a_failure_that_nobody_asked_for() {
        let oom = |exit| Event::MainEnded { exit, at: WallMs(0), oom_kills: 1, leftovers: 0 };
        assert_eq!(record(&attempt(None).step(BootMs(0), oom(Exit::Signal(9)))).cause, Cause::Oom);
        assert_eq!(record(&attempt(None).step(BootMs(0), oom(Exit::Code(0)))).cause, Cause::Itself);
        let mut stopped = attempt(None);
        assert_eq!(stopped.step(BootMs(0), Event::Stop { grace_ms: 0 }), [Effect::Kill]);
        assert_eq!(record(&stopped.step(BootMs(0), oom(Exit::Signal(9)))).cause, Cause::Stopped);
    }

    #[test]
    fn what_survives_a_minute_of_kill_is_said_to_be_unkillable_once() {
        let mut a = attempt(None);
        let _kill = a.step(BootMs(0), Event::Stop { grace_ms: 0 });
        let mut told = 0;
        while a.next_wake().is_some_and(|wake| wake < BootMs(2 * UNKILLABLE_AFTER_MS)) {
            let now = a.next_wake().expect("checked above");
            told += a.step(now, Event::Woke).iter().filter(|e| **e == Effect::TellUnkillable).count();
        }
        assert_eq!(told, 1);
        let effects = a.step(BootMs(200_000), ended(Exit::Signal(9), 0));
        assert_eq!(record(&effects).cause, Cause::Unkillable);
    }
}
