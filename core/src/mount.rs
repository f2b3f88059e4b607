//! Storage of a job on a node. This build shows directories of the node itself; a job that asks for another
//! kind is not planned at all (`spec::not_built`).

use std::collections::BTreeMap;

use crate::plan::path::{self, Layout};
use crate::plan::task::HostMount;
use crate::plan::{NodeGrant, PlanError};
use crate::spec::JobSpec;

mod host_path;

/// The mounts of a job on one node, in the order of the spec.
pub(crate) fn host_mounts(
    spec: &JobSpec,
    grant: &NodeGrant,
    layout: &Layout,
    scope: &BTreeMap<String, String>,
) -> Result<Vec<HostMount>, PlanError> {
    let mut mounts: Vec<HostMount> = Vec::new();
    for (i, volume) in spec.mount_volumes.iter().flat_map(|volumes| &volumes.host_paths).enumerate() {
        let field = format!("mountVolumes.hostPaths[{i}]");
        let mount = host_path::mount(&field, volume, spec, grant, layout, scope)?;
        let overlaps = |other: &HostMount| {
            path::is_in(&mount.target, &other.target) || path::is_in(&other.target, &mount.target)
        };
        if mounts.iter().any(overlaps) {
            let field = format!("{field}.relativeMountPath");
            return Err(PlanError::OverlappingMounts { field, path: volume.relative_mount_path.clone() });
        }
        mounts.push(mount);
    }
    Ok(mounts)
}
