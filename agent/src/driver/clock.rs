//! The agent's two clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use trainyard_core::agent::Now;
use trainyard_core::unit::WallMs;

/// Both clocks now.
pub(crate) fn now() -> Now {
    Now { boot_ms: boot_ms(), wall: wall() }
}

/// The boot-time clock in ms: it never goes back, and goes on while the machine sleeps.
pub(crate) fn boot_ms() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux that runs this has CLOCK_BOOTTIME");
    let ms = time.tv_sec() * 1000 + time.tv_nsec() / 1_000_000;
    u64::try_from(ms).expect("time since boot is not negative")
}

/// The wall clock, for display.
pub(crate) fn wall() -> WallMs {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMs(i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX))
}
