//! What tests with the real program need: the built `trainyard`, a place of their own for it, ways to wait for
//! something without sleeping blindly, and an end that leaves no process behind.
//!
//! Every process that a test starts carries the path of the test's [`Sandbox`] in its arguments, environment or
//! working directory: so what is left of it is found, and nothing else is ever signalled.

mod binary;
mod build;
mod daemon;
mod finished;
mod fleet;
mod groups;
mod jobs;
mod process;
mod rest;
mod sandbox;
mod up;
mod wait;

pub use binary::{fake_nvml, repository, shared, trainyard};
pub use daemon::Daemon;
pub use finished::Finished;
pub use fleet::Fleet;
pub use groups::{attempt_groups, groups_of};
pub use jobs::{custom, tensorflow, with};
pub use process::{Process, processes, processes_of, signal};
pub use rest::Rest;
pub use sandbox::Sandbox;
pub use up::Up;
pub use wait::{PATIENCE, until, until_ok};

/// Says that a test could not be run here, and why.
pub fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
