//! The shim that this binary carries, so that one file deploys. `build.rs` makes it; the agent writes it out.

/// A static executable for this machine's architecture.
pub(crate) static SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/trainyard-shim"));
