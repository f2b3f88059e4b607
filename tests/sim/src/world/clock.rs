//! Clocks that run at their own rates and jump.

use trainyard_core::unit::{Tick, WallMs};

/// 2026-01-01 in ms: only so that times look like times.
const EPOCH_MS: i64 = 1_767_225_600_000;

/// The clocks of one machine.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// Simulated time of the boot.
    booted: u64,
    /// Parts of 100,000 that its clock is faster than the simulation's.
    rate: i64,
    /// Of the wall clock, ms.
    pub(crate) wall_offset: i64,
}

impl Clock {
    pub(crate) fn new(rate: i64, wall_offset: i64) -> Clock {
        Clock { booted: 0, rate, wall_offset }
    }

    pub(crate) fn reboot(&mut self, now: u64) {
        self.booted = now;
    }

    /// Since boot, ms; goes on while the machine stands still.
    pub(crate) fn boot_ms(&self, now: u64) -> u64 {
        let since = now.saturating_sub(self.booted);
        since.saturating_add_signed((since as i64).saturating_mul(self.rate) / 100_000) + 1_000
    }

    /// The simulated time at which the boot clock shows this at the earliest.
    pub(crate) fn when(&self, boot_ms: u64) -> u64 {
        let since = boot_ms.saturating_sub(1_000);
        let mut at =
            self.booted + since.saturating_add_signed(-((since as i64).saturating_mul(self.rate) / 100_000));
        while self.boot_ms(at) < boot_ms {
            at += 1;
        }
        at
    }

    pub(crate) fn tick(&self, now: u64) -> Tick {
        Tick(self.boot_ms(now))
    }

    pub(crate) fn wall(&self, now: u64) -> WallMs {
        WallMs(EPOCH_MS + now as i64 + self.wall_offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_the_boot_clock_is_found_again() {
        for rate in [-500, 0, 499] {
            let mut clock = Clock::new(rate, 0);
            clock.reboot(12_345);
            for boot_ms in [1_000, 1_001, 60_000, 123_456_789] {
                let at = clock.when(boot_ms);
                assert!(clock.boot_ms(at) >= boot_ms, "{rate} {boot_ms}");
                assert!(at <= 12_345 || clock.boot_ms(at - 2) < boot_ms, "{rate} {boot_ms}");
            }
        }
    }
}
