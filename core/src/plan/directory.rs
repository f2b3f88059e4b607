//! Directories of a job on one node: which must exist, and the variables that name them.

use std::collections::BTreeMap;

use super::path::{self, Layout};
use super::task::HostMount;
use super::{Gang, PlanError, env};
use crate::mount;

/// What the paths of a spec come to on one node.
pub(super) struct Directories {
    /// `AZ_BATCHAI_STDOUTERR_DIR`, `AZ_BATCHAI_INPUT_<id>`, `AZ_BATCHAI_OUTPUT_<id>`.
    pub(super) variables: BTreeMap<String, String>,
    pub(super) std_dir: String,
    pub(super) directories: Vec<String>,
    pub(super) host_mounts: Vec<HostMount>,
    pub(super) mounted_directories: Vec<String>,
}

/// Expands every path of the spec for this node. `variables` are those that do not depend on paths.
///
/// A later path may use the variables of earlier ones: logs, then inputs, then outputs.
pub(super) fn resolve(
    gang: &Gang<'_>,
    node: usize,
    variables: &BTreeMap<String, String>,
) -> Result<Directories, PlanError> {
    let (spec, layout, segment) = (gang.input.spec, &gang.layouts[node], gang.input.segment());
    let mut scope = env::path_scope(spec, variables)?;
    let host_mounts = mount::host_mounts(spec, &gang.grants[node], layout, &scope)?;
    let mut found = BTreeMap::new();
    let mut written = Vec::new();

    let field = "stdOutErrPathPrefix";
    let prefix = path::resolve(field, &spec.std_out_err_path_prefix, &scope, spec)?;
    let std_dir = path::below(field, &prefix, &format!("{segment}/stdouterr"))?;
    define(&mut scope, &mut found, "AZ_BATCHAI_STDOUTERR_DIR".to_owned(), &std_dir);
    written.push((field.to_owned(), std_dir.clone()));

    for (i, input) in spec.input_directories.iter().enumerate() {
        let path = path::resolve(&format!("inputDirectories[{i}].path"), &input.path, &scope, spec)?;
        define(&mut scope, &mut found, format!("AZ_BATCHAI_INPUT_{}", input.id), &path);
    }
    for (i, output) in spec.output_directories.iter().enumerate() {
        let field = format!("outputDirectories[{i}].pathPrefix");
        let prefix = path::resolve(&field, &output.path_prefix, &scope, spec)?;
        let mut path = path::below(&field, &prefix, &format!("{segment}/outputs"))?;
        if let Some(suffix) = output.path_suffix.as_deref().filter(|suffix| !suffix.is_empty()) {
            path = path::below(&format!("outputDirectories[{i}].pathSuffix"), &path, suffix)?;
        }
        define(&mut scope, &mut found, format!("AZ_BATCHAI_OUTPUT_{}", output.id), &path);
        written.push((field, path));
    }

    let mut directories = own_directories(gang, node, layout, &host_mounts);
    let mut mounted_directories = Vec::new();
    for (field, path) in written {
        match host_mounts.iter().find(|mount| path::is_in(&path, &mount.target)) {
            Some(mount) if mount.read_only => return Err(PlanError::ReadOnlyVolume { field, path }),
            Some(_) => add(&mut mounted_directories, path),
            None => add(&mut directories, path),
        }
    }
    Ok(Directories { variables: found, std_dir, directories, host_mounts, mounted_directories })
}

fn define(
    scope: &mut BTreeMap<String, String>,
    found: &mut BTreeMap<String, String>,
    name: String,
    path: &str,
) {
    scope.insert(name.clone(), path.to_owned());
    found.insert(name, path.to_owned());
}

fn own_directories(gang: &Gang<'_>, node: usize, layout: &Layout, host_mounts: &[HostMount]) -> Vec<String> {
    let mut directories =
        [&layout.mounts, &layout.jobs, &layout.job_temp, &layout.job_mounts].map(String::clone).to_vec();
    // One node makes the common folder: another might make it just before this one empties its own.
    directories.extend(gang.shared_temp.clone().filter(|_| node == 0));
    for mount in host_mounts {
        if let Some((parent, _)) = mount.target.rsplit_once('/') {
            add(&mut directories, parent.to_owned());
        }
    }
    directories
}

fn add(list: &mut Vec<String>, path: String) {
    if !list.contains(&path) {
        list.push(path);
    }
}
