//! Pauses between tries: anything up to a bound that is doubled from 50 ms to 5 s (full jitter), so that a
//! thousand agents do not come back at once.

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
        self.next_of(chance())
    }

    /// For one who was sent away: it will take a while until another try can help.
    pub(super) fn longest(&mut self) -> Duration {
        self.pause = LAST;
        LAST.mul_f64(0.5 + 0.5 * chance())
    }

    /// `chance`: from 0 to 1.
    fn next_of(&mut self, chance: f64) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LAST);
        pause.mul_f64(chance)
    }
}

fn chance() -> f64 {
    // Without randomness there is no jitter, and nothing else is lost.
    f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut backoff = Backoff::new();
        let mut bound = FIRST;
        for _ in 0..20 {
            assert_eq!(backoff.next_of(1.0), bound);
            bound = (bound * 2).min(LAST);
        }
        assert_eq!(backoff.next_of(0.0), Duration::ZERO);
        assert!(backoff.next() <= LAST);
        assert!(backoff.longest() >= LAST / 2);
    }

    /// splitmix64, from 0 to 1.
    fn draw(state: &mut u64) -> f64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// When each of 1,000 agents gets through, counted from the coordinator's return.
    fn returns(outage: Duration, seed: u64) -> Vec<Duration> {
        (0..1_000)
            .map(|agent| {
                let (mut random, mut backoff) = (seed ^ (agent << 32), Backoff::new());
                let mut at = Duration::ZERO;
                while at < outage {
                    at += backoff.next_of(draw(&mut random));
                }
                at - outage
            })
            .collect()
    }

    #[test]
    fn fault_03_a_thousand_agents_are_back_soon_and_not_all_at_once() {
        for seed in 1..=20 {
            for outage in [10, 60, 600].map(Duration::from_secs) {
                let mut returns = returns(outage, seed);
                returns.sort();
                let last = returns.last().copied().unwrap_or_default();
                assert!(last < Duration::from_secs(60), "seed {seed}, {outage:?}: the last after {last:?}");
                // 5 s are 50 times 100 ms: 20 agents each if they were spread evenly.
                let window = Duration::from_millis(100);
                for (i, start) in returns.iter().enumerate() {
                    let together = returns[i..].iter().take_while(|at| **at <= *start + window).count();
                    assert!(together < 80, "seed {seed}, {outage:?}: {together} within 100 ms at {start:?}");
                }
            }
        }
    }
}
