//! The few faults that a violation needs: halves, then single faults, are left out as long as it stays.

use crate::fault::Fault;
use crate::{Options, Outcome, run};

/// Runs with fewer and fewer faults; the last outcome that still violates the same invariant.
#[must_use]
pub fn shrink(options: &Options, first: Outcome, mut progress: impl FnMut(usize)) -> Outcome {
    let Some(violation) = first.violation.clone() else { return first };
    let mut best = first;
    // The run ends at the violation: what comes after it has not happened.
    let mut plan: Vec<Fault> =
        best.plan.iter().filter(|fault| fault.at_ms <= violation.at_ms).copied().collect();
    if let Some(same) = attempt(options, &plan, violation.invariant) {
        best = same;
    } else {
        plan.clone_from(&best.plan);
    }
    let mut size = plan.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < plan.len() {
            let mut fewer = plan.clone();
            fewer.drain(at..(at + size).min(fewer.len()));
            match attempt(options, &fewer, violation.invariant) {
                Some(same) => {
                    best = same;
                    plan = fewer;
                    progress(plan.len());
                }
                None => at += size,
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    best
}

fn attempt(options: &Options, plan: &[Fault], invariant: &str) -> Option<Outcome> {
    let outcome = run(&Options { plan: Some(plan.to_vec()), ..options.clone() });
    outcome.violation.as_ref().is_some_and(|violation| violation.invariant == invariant).then_some(outcome)
}
