//! Every maximum of a spec, with unit and reason.

/// Bytes of a spec document: REST body and job file. A job with every field full stays far below.
pub const SPEC_BYTES: usize = 1024 * 1024;
/// Levels of nesting of a spec document. The deepest real field lies at level 6.
pub const SPEC_DEPTH: usize = 32;
/// Nodes of one job: 100 per cluster in Batch AI; ten times as many here.
pub const NODES: u32 = 1000;
/// Tasks of one job.
pub const TASKS: u32 = 10_000;
/// GPUs of one node: no machine has more, counted as MIG slices.
pub const GPUS_PER_NODE: u32 = 256;
/// Bytes of one command line or other text of a spec: Linux refuses a single argument of 128 KiB or more.
pub const COMMAND_LINE_BYTES: usize = 120 * 1024;
/// Environment variables and secrets of one job together.
pub const ENVIRONMENT_VARIABLES: usize = 1000;
/// Entries of each list of directories or volumes.
pub const DIRECTORIES: usize = 100;
/// Bytes of one path after expansion: Linux's `PATH_MAX` less the closing NUL.
pub const PATH_BYTES: usize = 4095;
/// The longest `maxWallClockTime`: ten years. Longer ones are slips of the pen.
pub const WALL_CLOCK: jiff::SignedDuration = jiff::SignedDuration::from_hours(3660 * 24);
/// Retries of one job.
pub const RETRIES: u32 = 100;
/// Seconds of a job's lease: shorter ones end work at every hiccup of a network, longer ones at none.
pub const LEASE_SECONDS: (u32, u32) = (10, 24 * 60 * 60);
