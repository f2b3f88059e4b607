//! The simulator on the real cores: nothing is violated, everything is seen, and one seed is one run.

use trainyard_sim::report::{Until, many};
use trainyard_sim::{Options, fault, run, shrink};

/// So many faults are injected here; `trainyard-sim --total N` does as many as one likes.
const FAULTS: u64 = 100_000;

#[test]
fn a_hundred_thousand_faults_violate_nothing_and_leave_no_edge_unseen() {
    let summary = many(1, Until::Faults(FAULTS), 120, true, |_| {});
    println!("{} seeds, {} faults, {} events", summary.seeds, summary.faults, summary.events);
    print!("{}", summary.table());
    let again = summary.violations.iter().next().map(|(seed, violation)| {
        format!(
            "trainyard-sim --seed {seed} --shrink --trace shows: invariant {}: {}",
            violation.invariant, violation.text
        )
    });
    assert_eq!(again, None);
    assert!(summary.faults >= FAULTS);
    let missing = summary.coverage.missing();
    assert!(missing.is_empty(), "never seen: {missing:?}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 8, 16] {
        let options = Options { seed, faults: 60, trace: true, ..Options::default() };
        let (one, two) = (run(&options), run(&options));
        assert_eq!(one.trace, two.trace, "seed {seed}");
        assert_eq!((one.hash, one.events), (two.hash, two.events), "seed {seed}");
        assert!(one.trace.len() > 50, "seed {seed} has a trace of {} lines only", one.trace.len());
    }
}

#[test]
fn a_plan_is_data_and_a_run_without_faults_violates_nothing() {
    let plan = fault::plan(7, 40);
    let text = serde_json::to_string(&plan).expect("a plan has a text form");
    assert_eq!(serde_json::from_str::<Vec<fault::Fault>>(&text).expect("a plan"), plan);
    let options = Options { seed: 7, faults: 0, plan: Some(Vec::new()), trace: false };
    let outcome = run(&options);
    assert_eq!(outcome.violation, None);
    assert_eq!(outcome.injected, 0);
    // Nothing to shrink: what is whole comes back as it is.
    assert_eq!(shrink::shrink(&options, outcome.clone(), |_| {}).hash, outcome.hash);
}
