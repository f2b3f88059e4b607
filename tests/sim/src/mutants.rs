//! Planted bugs, each one line in a core behind `mutant!`, built in with `--cfg mutants` only. The simulator must
//! catch every one: what it cannot catch it does not check.

/// A planted bug.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// Its name, as in `mutant!("...")`.
    pub name: &'static str,
    /// What is wrong then.
    pub bug: &'static str,
}

/// All of them.
pub const ALL: &[Mutant] = &[];
