//! Until when an attempt may live without hearing anything: the lease as the shim sees it.

/// Milliseconds of `CLOCK_BOOTTIME`: counts while the machine sleeps, and never jumps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootMs(pub u64);

impl BootMs {
    /// This time plus so many milliseconds.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> BootMs {
        BootMs(self.0.saturating_add(ms))
    }
}

/// The deadline of an attempt; it only ever moves later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    deadline: Option<BootMs>,
}

/// What to do about a [`Fence`] now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceDecision {
    /// Nothing, ever.
    Never,
    /// Ask again at this time.
    WakeAt(BootMs),
    /// The lease is over: end the attempt at once.
    End,
}

impl Fence {
    /// `None`: never fenced.
    #[must_use]
    pub fn new(deadline: Option<BootMs>) -> Fence {
        Fence { deadline }
    }

    /// Takes a renewal. One that was overtaken by a later one changes nothing; `None` lifts the fence.
    pub fn renew(&mut self, deadline: Option<BootMs>) {
        self.deadline = match (self.deadline, deadline) {
            (Some(_), Some(_)) if mutant!("renewal-lifts-fence") => None,
            (Some(old), Some(new)) => Some(old.max(new)),
            (None, Some(new)) => Some(new),
            (Some(_) | None, None) => None,
        };
    }

    /// Whether the attempt has to end, and when to ask again.
    #[must_use]
    pub fn decide(self, now: BootMs) -> FenceDecision {
        match self.deadline {
            None => FenceDecision::Never,
            Some(deadline) if now >= deadline => FenceDecision::End,
            Some(deadline) => FenceDecision::WakeAt(deadline),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fence_ends_at_its_deadline_and_not_before() {
        let fence = Fence::new(Some(BootMs(100)));
        assert_eq!(fence.decide(BootMs(99)), FenceDecision::WakeAt(BootMs(100)));
        assert_eq!(fence.decide(BootMs(100)), FenceDecision::End);
        assert_eq!(Fence::new(None).decide(BootMs(u64::MAX)), FenceDecision::Never);
    }

    #[test]
    fn a_late_renewal_does_not_shorten_the_lease() {
        let mut fence = Fence::new(Some(BootMs(100)));
        fence.renew(Some(BootMs(300)));
        fence.renew(Some(BootMs(200)));
        assert_eq!(fence.decide(BootMs(250)), FenceDecision::WakeAt(BootMs(300)));
        fence.renew(None);
        assert_eq!(fence.decide(BootMs(400)), FenceDecision::Never);
    }
}
