//! Removes what is beyond the limits an operator has set: a small part at a time, through the one writer, so that
//! nobody waits for it. Says in the log what went.
//!
//! Task: one loop, which ends with the process.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use trainyard_core::coordinator::Now;
use trainyard_core::unit::WallMs;

use crate::clock::Clock;
use crate::config::Retention;
use crate::driver::{Driver, Unavailable};
use crate::store::Limits;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(60);
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// How far the wall clock may run away from the monotonic one before nothing is removed by age any more.
const JUMP_MS: i64 = 60 * 60 * 1000;

pub(crate) fn start(retention: Retention, driver: Driver, clock: Arc<dyn Clock>) -> JoinHandle<()> {
    let began = clock.now();
    tokio::spawn(async move {
        let mut trusted = true;
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            ticks.tick().await;
            let now = clock.now();
            if trusted && has_jumped(began, now) {
                tracing::warn!("the wall clock has jumped: jobs are not removed by age until the next start");
                trusted = false;
            }
            let limits = limits(&retention, now.wall, trusted);
            if limits != Limits::default() && remove(&driver, limits).await == Err(Unavailable::Stopped) {
                return;
            }
        }
    })
}

/// Removes batch after batch, until nothing is left to remove.
async fn remove(driver: &Driver, limits: Limits) -> Result<(), Unavailable> {
    let (mut jobs, mut events) = (0, 0);
    let (mut first, mut last) = (None, None);
    let ended = loop {
        match driver.expire(limits).await {
            Ok(expired) if expired.is_empty() => break Ok(()),
            Ok(expired) => {
                jobs += expired.jobs.len();
                events += expired.events;
                first = first.or(expired.jobs.first().copied());
                last = expired.jobs.last().copied().or(last);
            }
            // A full disk: again at the next look.
            Err(why) => break Err(why),
        }
    };
    if let (Some(first), Some(last)) = (first, last) {
        tracing::info!(jobs, %first, %last, "jobs that ended long ago were removed, with their logs");
    }
    if events > 0 {
        tracing::info!(events, "old entries of the event log were removed");
    }
    ended
}

fn limits(retention: &Retention, now: WallMs, trusted: bool) -> Limits {
    let days = i64::try_from(retention.days).unwrap_or(i64::MAX);
    Limits {
        ended_before: (days > 0 && trusted)
            .then(|| WallMs(now.0.saturating_sub(days.saturating_mul(DAY_MS)))),
        jobs: (retention.jobs > 0).then_some(retention.jobs),
        events: (retention.events > 0).then_some(retention.events),
    }
}

/// A wall clock that somebody has set forward would make everything old at once.
fn has_jumped(began: Now, now: Now) -> bool {
    let ticks = i64::try_from(now.tick.0.saturating_sub(began.tick.0)).unwrap_or(i64::MAX);
    (now.wall.0 - began.wall.0 - ticks).abs() > JUMP_MS
}

#[cfg(test)]
mod tests {
    use trainyard_core::unit::Tick;

    use super::*;

    #[test]
    fn zero_means_without_limit_and_an_untrusted_clock_removes_nothing() {
        let retention = Retention { days: 2, jobs: 3, events: 4 };
        let now = WallMs(10 * DAY_MS);
        let all = Limits { ended_before: Some(WallMs(8 * DAY_MS)), jobs: Some(3), events: Some(4) };
        assert_eq!(limits(&retention, now, true), all);
        assert_eq!(limits(&retention, now, false), Limits { ended_before: None, ..all });
        assert_eq!(limits(&Retention { days: 0, jobs: 0, events: 0 }, now, true), Limits::default());
    }

    #[test]
    fn fault_29_a_clock_that_jumps_makes_no_job_old() {
        let at = |tick: u64, wall: i64| Now { tick: Tick(tick), wall: WallMs(wall) };
        assert!(!has_jumped(at(0, 5), at(90 * DAY_MS as u64, 90 * DAY_MS + 6)));
        assert!(has_jumped(at(0, 0), at(1_000, 365 * DAY_MS)));
        assert!(has_jumped(at(0, 365 * DAY_MS), at(1_000, 0)));
    }
}
