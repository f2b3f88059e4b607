//! Pauses between tries: doubled from 50 ms to 5 s, each shortened by chance so that a thousand agents do
//! not come back at once.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(5);

/// The next pause.
#[derive(Debug)]
pub(super) struct Backoff {
    pause: Duration,
}

impl Backoff {
    pub(super) fn new() -> Backoff {
        Backoff { pause: FIRST }
    }

    pub(super) fn next(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LAST);
        jittered(pause)
    }

    pub(super) fn longest(&mut self) -> Duration {
        self.pause = LAST;
        jittered(LAST)
    }
}

/// Between a half and all of it.
fn jittered(pause: Duration) -> Duration {
    // Without randomness there is no jitter, and nothing else is lost.
    let chance = getrandom::u32().unwrap_or(u32::MAX);
    pause.mul_f64(0.5 + 0.5 * f64::from(chance) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut backoff = Backoff::new();
        let mut nominal = FIRST;
        for _ in 0..20 {
            let pause = backoff.next();
            assert!(pause >= nominal / 2 && pause <= nominal, "{pause:?} at {nominal:?}");
            nominal = (nominal * 2).min(LAST);
        }
    }
}
