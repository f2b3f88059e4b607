//! What each task of a gang is, to the last variable: a plan leaves nothing to decide.

pub mod task;

pub use task::{Command, GangPlan, NodeGrant, NodePlan, PortSpace, TaskPlan};

/// Replaced by the planner.
#[derive(Debug)]
pub struct PlanInput<'a> {
    /// x
    pub spec: &'a crate::spec::JobSpec,
    /// x
    pub subscription: &'a str,
    /// x
    pub resource_group: &'a str,
    /// x
    pub workspace: &'a str,
    /// x
    pub experiment: &'a str,
    /// x
    pub job: &'a str,
    /// x
    pub uuid: &'a str,
    /// x
    pub gang: crate::id::GangNo,
}
/// Replaced by the planner.
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct PlanError;
/// Replaced by the planner.
pub fn plan(_: &PlanInput<'_>, _: &[NodeGrant], _: &task::ReservedPorts) -> Result<GangPlan, PlanError> {
    Err(PlanError)
}
