//! The only clock of the coordinator: monotonic time decides, wall time is shown.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use trainyard_core::coordinator::Now;
use trainyard_core::unit::{Tick, WallMs};

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Both times, read once.
    fn now(&self) -> Now;
}

/// The system's clocks. Ticks count from its making.
#[derive(Debug)]
pub struct RealClock {
    start: Instant,
}

impl RealClock {
    /// Starts at tick 0.
    #[must_use]
    pub fn new() -> RealClock {
        RealClock { start: Instant::now() }
    }
}

impl Default for RealClock {
    fn default() -> RealClock {
        RealClock::new()
    }
}

impl Clock for RealClock {
    fn now(&self) -> Now {
        let tick = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { tick: Tick(tick), wall: wall_now() }
    }
}

/// The wall clock.
#[must_use]
pub(crate) fn wall_now() -> WallMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A clock that stands still until it is told to go on.
#[derive(Debug, Default)]
pub struct ManualClock(Mutex<Now>);

impl ManualClock {
    /// At tick 0, at this wall time.
    #[must_use]
    pub fn new(wall: WallMs) -> ManualClock {
        ManualClock(Mutex::new(Now { tick: Tick(0), wall }))
    }

    /// Goes on by so many milliseconds.
    pub fn advance(&self, ms: u32) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.tick = now.tick.plus_ms(u64::from(ms));
        now.wall = WallMs(now.wall.0 + i64::from(ms));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
