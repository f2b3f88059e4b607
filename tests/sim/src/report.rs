//! Many seeds on all processors, summed up.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::check::Violation;
use crate::coverage::Coverage;
use crate::fault::Kind;
use crate::{Options, Outcome, run};

/// What many runs gave.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Runs.
    pub seeds: u64,
    /// Faults that took effect.
    pub faults: u64,
    /// Events handled.
    pub events: u64,
    /// Simulated time, ms.
    pub simulated_ms: u64,
    /// What happened how often.
    pub coverage: Coverage,
    /// By seed: what did not hold.
    pub violations: BTreeMap<u64, Violation>,
}

impl Summary {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.faults += outcome.injected;
        self.events += outcome.events;
        self.simulated_ms += outcome.simulated_ms;
        self.coverage.add(&outcome.coverage);
        if let Some(violation) = outcome.violation {
            self.violations.insert(seed, violation);
        }
    }

    /// Faults by kind, as a table of text.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        for (kind, _) in Kind::ALL {
            let name = format!("fault: {}", kind.name());
            let count = self.coverage.counts().get(&name).copied().unwrap_or(0);
            text.push_str(&format!("  {:32} {count:>10}\n", kind.name()));
        }
        text
    }
}

/// How many seeds to run.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// So many.
    Seeds(u64),
    /// As many as it takes for so many faults.
    Faults(u64),
}

/// Runs seeds from `first` on; stops early at the first violation if `stop` says so. A panic is a violation.
pub fn many(
    first: u64,
    until: Until,
    faults: usize,
    stop: bool,
    progress: impl Fn(&Summary) + Sync,
) -> Summary {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (next, over) = (AtomicU64::new(first), AtomicBool::new(false));
    let sum = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if matches!(until, Until::Seeds(seeds) if seed >= first + seeds) {
                        return;
                    }
                    let outcome = one(seed, faults);
                    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    sum.add(seed, outcome);
                    progress(&sum);
                    let enough = matches!(until, Until::Faults(faults) if sum.faults >= faults);
                    if enough || (stop && !sum.violations.is_empty()) {
                        over.store(true, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// One seed; a panic of a core is a violation like any other.
#[must_use]
pub fn one(seed: u64, faults: usize) -> Outcome {
    let options = Options { seed, faults, ..Options::default() };
    match catch_unwind(AssertUnwindSafe(|| run(&options))) {
        Ok(outcome) => outcome,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Outcome {
                violation: Some(Violation { at_ms: 0, invariant: "panic", text: text.unwrap_or_default() }),
                plan: Vec::new(),
                coverage: Coverage::default(),
                hash: 0,
                trace: Vec::new(),
                simulated_ms: 0,
                events: 0,
                injected: 0,
            }
        }
    }
}
