//! Planted bugs, each one line behind `mutant!`, built in with `--cfg mutants` only. The simulator must catch every
//! one: what it cannot catch it does not check.
//!
//! They stand in the real cores, but for two: the order of commit and effects, and the writing of the journal, are
//! the drivers' affair, and so stand in the simulator's models of those.

/// A planted bug: its name, as in `mutant!("...")`, and what is wrong then.
pub type Mutant = (&'static str, &'static str);

/// All of them.
pub const ALL: &[Mutant] = &[
    ("answered-but-not-stored", "a submit is answered, and its job is not in the transaction"),
    ("effects-before-commit", "effects leave before their transaction is on disk"),
    ("submit-not-idempotent", "a repeated submit makes a second job"),
    ("finished-name-forgotten", "the name of a finished job is given away"),
    ("cancel-of-queued-forgotten", "a cancel of a waiting job only notes the wish"),
    ("requeued-though-cancelled", "a cancelled job gets another gang"),
    ("gang-starts-half", "tasks start as soon as one node is prepared"),
    ("failure-stops-nothing", "the end of one task leaves the others running"),
    ("nodes-freed-early", "nodes and GPUs are free as soon as the outcome is decided"),
    ("infrastructure-uses-retries", "a lost node consumes the user's retries"),
    ("busy-node-offered", "a node that has a gang is offered to another"),
    ("ports-not-reserved", "ports of live gangs are given again"),
    ("unreachable-is-lost", "a node that cannot be reached counts as lost at once"),
    ("lease-shorter-than-fence", "the coordinator's lease ends before the shim's fence"),
    ("kept-attempts-expire", "attempts that must be kept expire"),
    ("recovery-frees-nodes", "after a restart the coordinator forgets which node is whose"),
    ("recovery-loses-secrets", "after a restart plans are sent without their secrets"),
    ("prepare-not-repeated", "a Prepare that was lost is not sent again"),
    ("stop-not-repeated", "a Stop that was lost is not sent again"),
    ("release-not-repeated", "a Release that was lost is not sent again"),
    ("dead-gang-not-stopped", "a gang that nobody wants any more goes on"),
    ("epoch-not-checked", "the agent obeys commands of earlier sessions"),
    ("journal-not-written", "the agent's journal stays empty"),
    ("start-intent-not-synced", "that a gang was started may be lost with the power"),
    ("released-forgotten", "a gang that was released is taken for a new one"),
    ("started-twice", "a second Start starts again"),
    ("gang-ends-with-its-first-task", "the gang is said to have ended while tasks run"),
    ("stop-during-launch-forgotten", "a Stop that comes during a launch is lost"),
    ("starts-without-secrets", "after a restart of the agent a gang starts without its secrets"),
    ("never-fenced", "attempts get no fence"),
    ("orphan-not-fenced", "an attempt that lost agent and shim at once is not fenced"),
    ("shim-does-not-fence", "the shim lets its task live beyond the lease"),
    ("renewal-lifts-fence", "a renewal lifts the fence instead of moving it"),
    ("finished-before-empty", "the shim reports the end while processes are left, which frees their GPUs"),
    ("exit-record-not-written", "the shim tells the exit, and does not write it"),
    ("leftovers-not-killed", "processes left over are not killed"),
    ("term-is-never-followed-by-kill", "a task that ignores SIGTERM lives on"),
];

/// How a mutant was caught.
#[cfg(mutants)]
#[derive(Clone, Debug)]
pub struct Kill {
    /// The first seed that caught it.
    pub seed: u64,
    /// By which invariant.
    pub violation: crate::check::Violation,
}

/// The first of these seeds that catches this mutant.
#[cfg(mutants)]
#[must_use]
pub fn hunt(name: &'static str, seeds: std::ops::RangeInclusive<u64>, faults: usize) -> Option<Kill> {
    trainyard_core::mutant::choose(name);
    let kill = seeds.into_iter().find_map(|seed| {
        let violation = crate::report::one(seed, faults).violation?;
        Some(Kill { seed, violation })
    });
    trainyard_core::mutant::choose("");
    kill
}
