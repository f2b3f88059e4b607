//! How an attempt is ended: TERM, after the grace KILL, and after a minute of KILL the word "unkillable".

use super::UNKILLABLE_AFTER_MS;
use super::fence::BootMs;

/// First pause between two kills, in ms; doubled each time. Forks that raced the first kill are met soon.
const FIRST_PAUSE_MS: u64 = 10;
/// Longest pause between two kills, in ms.
const LONGEST_PAUSE_MS: u64 = 2_000;

/// Where on the ladder an attempt stands.
///
/// ```text
/// Standing -> Terminating -> Killing -> Unkillable
///     \_______________________^
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ladder {
    /// Nobody has asked for its end.
    #[default]
    Standing,
    /// SIGTERM is sent.
    Terminating {
        /// When SIGKILL follows.
        kill_at: BootMs,
    },
    /// SIGKILL is sent, and sent again, until nothing is left.
    Killing {
        /// When to send it again.
        again_at: BootMs,
        /// The pause after that, in ms.
        pause_ms: u64,
        /// When to give up hope.
        give_up_at: BootMs,
    },
    /// It survives SIGKILL. Killing goes on, slowly.
    Unkillable {
        /// When to send SIGKILL again.
        again_at: BootMs,
    },
}

/// What to do to the attempt's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// SIGTERM to all.
    Terminate,
    /// SIGKILL to all.
    Kill,
    /// SIGKILL to all once more, and say that it does not help.
    GiveUp,
}

impl Ladder {
    /// Asks for the end with a grace. A second stop can only shorten the first one's grace.
    pub fn stop(&mut self, now: BootMs, grace_ms: u64) -> Option<Act> {
        if grace_ms == 0 {
            return self.kill(now);
        }
        let wanted = now.plus_ms(grace_ms);
        match *self {
            Ladder::Standing => {
                *self = Ladder::Terminating { kill_at: wanted };
                Some(Act::Terminate)
            }
            Ladder::Terminating { kill_at } => {
                *self = Ladder::Terminating { kill_at: kill_at.min(wanted) };
                None
            }
            Ladder::Killing { .. } | Ladder::Unkillable { .. } => None,
        }
    }

    /// Asks for the end at once.
    pub fn kill(&mut self, now: BootMs) -> Option<Act> {
        match *self {
            Ladder::Standing | Ladder::Terminating { .. } => {
                *self = Ladder::Killing {
                    again_at: now.plus_ms(FIRST_PAUSE_MS),
                    pause_ms: FIRST_PAUSE_MS * 2,
                    give_up_at: now.plus_ms(UNKILLABLE_AFTER_MS),
                };
                Some(Act::Kill)
            }
            Ladder::Killing { .. } | Ladder::Unkillable { .. } => None,
        }
    }

    /// What is due by now.
    pub fn tick(&mut self, now: BootMs) -> Option<Act> {
        match *self {
            Ladder::Standing => None,
            Ladder::Terminating { kill_at }
                if now >= kill_at && !mutant!("term-is-never-followed-by-kill") =>
            {
                self.kill(now)
            }
            Ladder::Terminating { .. } => None,
            Ladder::Killing { give_up_at, .. } if now >= give_up_at => {
                *self = Ladder::Unkillable { again_at: now.plus_ms(LONGEST_PAUSE_MS) };
                Some(Act::GiveUp)
            }
            Ladder::Killing { again_at, pause_ms, give_up_at } if now >= again_at => {
                *self = Ladder::Killing {
                    again_at: now.plus_ms(pause_ms).min(give_up_at),
                    pause_ms: (pause_ms * 2).min(LONGEST_PAUSE_MS),
                    give_up_at,
                };
                Some(Act::Kill)
            }
            Ladder::Unkillable { again_at } if now >= again_at => {
                *self = Ladder::Unkillable { again_at: now.plus_ms(LONGEST_PAUSE_MS) };
                Some(Act::Kill)
            }
            Ladder::Killing { .. } | Ladder::Unkillable { .. } => None,
        }
    }

    /// When to call [`Ladder::tick`] next.
    #[must_use]
    pub fn next_wake(self) -> Option<BootMs> {
        match self {
            Ladder::Standing => None,
            Ladder::Terminating { kill_at } => Some(kill_at),
            Ladder::Killing { again_at, give_up_at, .. } => Some(again_at.min(give_up_at)),
            Ladder::Unkillable { again_at } => Some(again_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn term_then_kill_then_unkillable() {
        let mut ladder = Ladder::default();
        assert_eq!(ladder.next_wake(), None);
        assert_eq!(ladder.stop(BootMs(0), 1_000), Some(Act::Terminate));
        assert_eq!(ladder.tick(BootMs(999)), None);
        assert_eq!(ladder.tick(BootMs(1_000)), Some(Act::Kill));
        let (mut kills, mut gave_up_at) = (0, None);
        while gave_up_at.is_none() {
            let now = ladder.next_wake().expect("the ladder has a next rung");
            match ladder.tick(now) {
                Some(Act::Kill) => kills += 1,
                Some(Act::GiveUp) => gave_up_at = Some(now),
                Some(Act::Terminate) | None => panic!("neither belongs here"),
            }
        }
        assert_eq!(gave_up_at, Some(BootMs(1_000 + UNKILLABLE_AFTER_MS)));
        assert!((20..60).contains(&kills), "{kills} kills in a minute");
        assert!(ladder.next_wake().is_some(), "killing goes on");
    }

    #[test]
    fn a_second_stop_only_shortens() {
        let mut ladder = Ladder::default();
        ladder.stop(BootMs(0), 1_000);
        assert_eq!(ladder.stop(BootMs(10), 5_000), None);
        assert_eq!(ladder.next_wake(), Some(BootMs(1_000)));
        assert_eq!(ladder.stop(BootMs(10), 100), None);
        assert_eq!(ladder.next_wake(), Some(BootMs(110)));
        assert_eq!(ladder.stop(BootMs(20), 0), Some(Act::Kill));
        assert_eq!(ladder.kill(BootMs(21)), None, "it is being killed already");
    }
}
