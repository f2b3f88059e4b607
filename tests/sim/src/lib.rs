//! A seeded simulator: the real cores of coordinator, agent and shim, with everything around them (network, disks,
//! clocks, processes, clients) made of data, so that a night of crashes takes a fraction of a second.
//!
//! One seed gives one run, to the byte. `fault` is the plan of what breaks, `workload` what clients want, `world`
//! the event loop and the models of the drivers, `check` the invariants of docs/reliability.md, `coverage` what
//! happened at all, `shrink` finds the few faults that a violation needs, `mutants` the bugs that must be caught.

pub mod check;
pub mod coverage;
pub mod fault;
pub mod mutants;
pub mod report;
pub mod shrink;
pub mod workload;
pub mod world;

use fault::Fault;

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Decides everything that is not given below.
    pub seed: u64,
    /// How many faults to plan; about one every ten simulated seconds.
    pub faults: usize,
    /// These faults instead of planned ones.
    pub plan: Option<Vec<Fault>>,
    /// Whether to keep a line per event.
    pub trace: bool,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The first invariant that did not hold.
    pub violation: Option<check::Violation>,
    /// The plan that was run.
    pub plan: Vec<Fault>,
    /// What happened how often.
    pub coverage: coverage::Coverage,
    /// Of everything that happened, in order.
    pub hash: u64,
    /// A line per event, if asked for.
    pub trace: Vec<String>,
    /// Simulated time, ms.
    pub simulated_ms: u64,
    /// Events handled.
    pub events: u64,
    /// Faults that took effect.
    pub injected: u64,
}

/// Runs one seed.
#[must_use]
pub fn run(options: &Options) -> Outcome {
    let plan = options.plan.clone().unwrap_or_else(|| fault::plan(options.seed, options.faults));
    world::World::new(options, &plan).run(plan)
}
