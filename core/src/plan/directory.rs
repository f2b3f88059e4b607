//! Directories of a job on one node: which must exist, and the variables that name them.

use std::collections::BTreeMap;

use super::order::{Definition, order};
use super::path::{self, Layout};
use super::task::HostMount;
use super::{Gang, PlanError, env};
use crate::mount;
use crate::spec::JobSpec;

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
/// Paths may use each other's variables and the user's, in any order that leads nowhere in a circle.
pub(super) fn resolve(
    gang: &Gang<'_>,
    node: usize,
    variables: &BTreeMap<String, String>,
) -> Result<Directories, PlanError> {
    let (spec, layout, segment) = (gang.input.spec, &gang.layouts[node], gang.input.segment());
    let named = named(spec);
    let users = &spec.environment_variables;
    let definitions: Vec<Definition<'_>> =
        users.iter().map(env::definition).chain(named.iter().map(Named::definition)).collect();

    let mut scope = variables.clone();
    spec.secrets.iter().for_each(|secret| drop(scope.remove(&secret.name)));
    let mut found = BTreeMap::new();
    for place in order(&definitions)? {
        if let Some(variable) = users.get(place) {
            env::add_to_path_scope(variable, &mut scope)?;
        } else {
            let named = &named[place - users.len()];
            let path = named.resolve(&segment, &scope, spec)?;
            scope.insert(named.variable.clone(), path.clone());
            found.insert(named.variable.clone(), path);
        }
    }

    let host_mounts = mount::host_mounts(spec, &gang.grants[node], layout, &scope)?;
    let mut directories = own_directories(gang, node, layout, &host_mounts);
    let mut mounted_directories = Vec::new();
    for named in named.iter().filter(|named| named.is_written()) {
        let (field, path) = (named.field.clone(), found[&named.variable].clone());
        match host_mounts.iter().find(|mount| path::is_in(&path, &mount.target)) {
            Some(mount) if mount.read_only => return Err(PlanError::ReadOnlyVolume { field, path }),
            Some(_) => add(&mut mounted_directories, path),
            None => add(&mut directories, path),
        }
    }
    let std_dir = found[STD_DIR].clone();
    Ok(Directories { variables: found, std_dir, directories, host_mounts, mounted_directories })
}

const STD_DIR: &str = "AZ_BATCHAI_STDOUTERR_DIR";

/// A directory of the spec that a variable names.
struct Named<'a> {
    field: String,
    variable: String,
    text: &'a str,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Logs,
    Input,
    /// With the suffix, and its field.
    Output(Option<(&'a str, String)>),
}

/// The logs first, then inputs, then outputs.
fn named(spec: &JobSpec) -> Vec<Named<'_>> {
    let logs = Named {
        field: "stdOutErrPathPrefix".to_owned(),
        variable: STD_DIR.to_owned(),
        text: &spec.std_out_err_path_prefix,
        kind: Kind::Logs,
    };
    let inputs = spec.input_directories.iter().enumerate().map(|(i, input)| Named {
        field: format!("inputDirectories[{i}].path"),
        variable: format!("AZ_BATCHAI_INPUT_{}", input.id),
        text: &input.path,
        kind: Kind::Input,
    });
    let outputs = spec.output_directories.iter().enumerate().map(|(i, output)| {
        let suffix = output.path_suffix.as_deref().filter(|suffix| !suffix.is_empty());
        Named {
            field: format!("outputDirectories[{i}].pathPrefix"),
            variable: format!("AZ_BATCHAI_OUTPUT_{}", output.id),
            text: &output.path_prefix,
            kind: Kind::Output(suffix.map(|suffix| (suffix, format!("outputDirectories[{i}].pathSuffix")))),
        }
    });
    std::iter::once(logs).chain(inputs).chain(outputs).collect()
}

impl Named<'_> {
    fn definition(&self) -> Definition<'_> {
        Definition { name: &self.variable, text: self.text }
    }

    fn is_written(&self) -> bool {
        match self.kind {
            Kind::Logs | Kind::Output(_) => true,
            Kind::Input => false,
        }
    }

    fn resolve(
        &self,
        segment: &str,
        scope: &BTreeMap<String, String>,
        spec: &JobSpec,
    ) -> Result<String, PlanError> {
        let path = path::resolve(&self.field, self.text, scope, spec)?;
        match &self.kind {
            Kind::Input => Ok(path),
            Kind::Logs => path::below(&self.field, &path, &format!("{segment}/stdouterr")),
            Kind::Output(suffix) => {
                let outputs = path::below(&self.field, &path, &format!("{segment}/outputs"))?;
                match suffix {
                    Some((suffix, field)) => path::below(field, &outputs, suffix),
                    None => Ok(outputs),
                }
            }
        }
    }
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
