//! Planted bugs, to see whether the simulator finds them. They are built in with `--cfg mutants` only; otherwise
//! `mutant!("name")` is a plain `false`, and not even the name is in the binary.

/// Whether the planted bug of this name is chosen.
#[cfg(mutants)]
#[macro_export]
macro_rules! mutant {
    ($name:literal) => {
        $crate::mutant::is_on($name)
    };
}

/// Whether the planted bug of this name is chosen: there is none in this build.
#[cfg(not(mutants))]
#[macro_export]
macro_rules! mutant {
    ($name:literal) => {
        false
    };
}

#[cfg(mutants)]
thread_local! {
    static CHOSEN: std::cell::Cell<&'static str> = const { std::cell::Cell::new("") };
}

/// Chooses a bug for this thread; an empty name: none.
#[cfg(mutants)]
pub fn choose(name: &'static str) {
    CHOSEN.set(name);
}

/// Whether this bug is chosen on this thread.
#[cfg(mutants)]
#[must_use]
pub fn is_on(name: &str) -> bool {
    CHOSEN.get() == name
}
