//! What a user can ask for. A spec is read from text at one door (`read`), checked whole, and trusted from
//! then on.

pub mod env;
pub mod expand;
pub mod job;
pub mod limits;
mod not_built;
pub mod volumes;

pub use job::JobSpec;
pub use not_built::{NotBuilt, not_built};
