//! What a user can ask for. A spec is read from text at one door (`read`), checked whole (`check`), and
//! trusted from then on.

pub mod env;
pub mod job;
pub mod limits;
pub mod volumes;

pub use job::JobSpec;

/// Replaced by the spec's own list.
#[must_use]
pub fn not_built(_spec: &JobSpec) -> Vec<String> {
    vec![]
}
