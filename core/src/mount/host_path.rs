//! A directory of the node. The agent binds it as root; otherwise it makes a symbolic link.

use std::collections::BTreeMap;

use crate::plan::path::{self, Layout};
use crate::plan::task::HostMount;
use crate::plan::{NodeGrant, PlanError};
use crate::spec::JobSpec;
use crate::spec::volumes::HostPath;

pub(super) fn mount(
    field: &str,
    volume: &HostPath,
    spec: &JobSpec,
    grant: &NodeGrant,
    layout: &Layout,
    scope: &BTreeMap<String, String>,
) -> Result<HostMount, PlanError> {
    if volume.read_only && !grant.privileged {
        let field = format!("{field}.readOnly");
        return Err(PlanError::ReadOnlyNeedsRoot { field, node: grant.node.clone() });
    }
    let relative = &volume.relative_mount_path;
    Ok(HostMount {
        source: path::resolve(&format!("{field}.path"), &volume.path, scope, spec)?,
        target: path::below(&format!("{field}.relativeMountPath"), &layout.job_mounts, relative)?,
        read_only: volume.read_only,
    })
}
