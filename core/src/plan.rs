//! What each task of a gang is, to the last variable: a plan leaves nothing to decide.

pub mod task;

pub use task::{Command, GangPlan, NodeGrant, NodePlan, PortSpace, TaskPlan};
