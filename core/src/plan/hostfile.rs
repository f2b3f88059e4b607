//! The hostfile of MPI: one line per node, in the order of the grants.

use super::NodeGrant;
use super::path::Layout;
use super::task::PlannedFile;

/// `address slots=n`; n is the number of GPUs, at least 1. Source: docs/compat.md, "Toolkits" (inferred).
pub(super) fn planned(grants: &[NodeGrant], layout: &Layout) -> PlannedFile {
    let content =
        grants.iter().map(|grant| format!("{} slots={}\n", grant.address, grant.gpus.len().max(1))).collect();
    PlannedFile { path: layout.hostfile.clone(), content }
}
