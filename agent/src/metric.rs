//! Numbers of this node over time: probes, one file per source, and the list of them.
//!
//! A probe describes its numbers ([`Desc`]) and writes them; [`sampler`] asks all probes on a thread of its
//! own and sends one batch per round. Metrics may be dropped, with a count, but hold up nothing (N4).

mod cpu;
mod desc;
mod disk;
mod filesystem;
mod gpu;
pub(crate) mod meminfo;
mod memory;
mod network;
mod procfile;
pub mod sampler;
mod task;

use std::path::{Path, PathBuf};
use std::time::Duration;

use trainyard_core::id::AttemptId;

pub use desc::{Desc, Kind, Out};
pub use sampler::{Config, Sampler};

use crate::gpu::Gpu;

/// One source of numbers.
pub trait Probe: Send {
    /// How often it is worth asking; zero: each round.
    fn period(&self) -> Duration {
        Duration::ZERO
    }

    /// Writes what it can find out now; what it cannot is left out.
    fn sample(&mut self, context: &Context<'_>, out: &mut Out);
}

/// What probes may look at.
pub struct Context<'a> {
    /// This node's GPUs.
    pub gpu: &'a dyn Gpu,
    /// The tasks that run now.
    pub running: &'a [RunningTask],
    /// Where the tasks come from, to ask for a pid that none of `running` names.
    pub tasks: &'a dyn Tasks,
    /// The node's root folder.
    pub root: &'a Path,
}

/// The tasks of this node, as the supervisor knows them.
pub trait Tasks: Send + Sync {
    /// All attempts that run now. Called from the sampler's thread; must not wait for long.
    fn running(&self) -> Vec<RunningTask>;

    /// Whose process this is.
    fn attempt_of(&self, pid: u32) -> Option<AttemptId> {
        self.running().iter().find(|task| task.pids.contains(&pid)).map(|task| task.attempt)
    }
}

/// One attempt that runs.
#[derive(Clone, Debug)]
pub struct RunningTask {
    /// Whose numbers these will be.
    pub attempt: AttemptId,
    /// All of its processes that are known, in any order.
    pub pids: Vec<u32>,
    /// Its directories in the cgroup file systems: one under v2, one per controller under v1, none without.
    pub cgroups: Vec<PathBuf>,
}

/// One source: what it tells, and how to start it.
pub struct Source {
    /// Every number that it can write.
    pub descs: &'static [&'static Desc],
    /// A probe that has seen nothing yet.
    pub start: fn() -> Box<dyn Probe>,
}

/// All sources. GPUs come last: they may take up to NVML's deadline.
pub const ALL: &[Source] = &[
    cpu::SOURCE,
    memory::SOURCE,
    disk::SOURCE,
    filesystem::SOURCE,
    network::SOURCE,
    task::SOURCE,
    gpu::SOURCE,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_plain_and_documented() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let page = std::fs::read_to_string(page).unwrap();
        let own = [&sampler::DROPPED];
        let descs: Vec<&Desc> = ALL.iter().flat_map(|source| source.descs).copied().chain(own).collect();
        let names: BTreeSet<&str> = descs.iter().map(|desc| desc.name).collect();
        assert_eq!(names.len(), descs.len());
        for desc in descs {
            assert!(desc.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            assert_eq!(desc.name.ends_with("_total"), desc.kind == Kind::Counter, "{}", desc.name);
            assert!(
                page.contains(&format!("`{}`", desc.name)),
                "docs/metrics.md does not know {}",
                desc.name
            );
            for label in desc.labels {
                assert!(
                    page.contains(&format!("`{label}`")),
                    "docs/metrics.md does not know the label {label}"
                );
            }
        }
    }
}
