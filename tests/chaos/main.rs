//! The real program under SIGKILL and SIGSTOP: a coordinator, three agents and their shims are killed and stopped
//! at random while a client hands in jobs. Afterwards everything is compared with what the tasks themselves say.
//!
//! `CHAOS_SEED`, `CHAOS_KILLS`, `CHAOS_JOBS` and `CHAOS_REPORT` (a JSON file) set what `scripts/chaos` sets.

mod audit;
mod cases;
mod client;
mod evidence;
mod faults;
mod fence;
mod leftovers;
mod noise;
mod random;
mod report;
mod store;
mod workload;
