//! Where things lie on a node, and the checks that every path of a plan passes.

use std::collections::BTreeMap;

use super::{NodeGrant, PlanError, PlanInput, env};
use crate::spec::expand::{UndefinedVariable, expand};
use crate::spec::{JobSpec, limits};

/// The folders of a job on one node, absolute.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// The agent's root folder.
    pub(crate) root: String,
    /// Mounts of the cluster.
    pub(crate) mounts: String,
    /// Temporary folders of all jobs.
    pub(crate) jobs: String,
    /// The temporary folder of this job.
    pub(crate) job_temp: String,
    /// Mounts of this job.
    pub(crate) job_mounts: String,
    /// The hostfile of MPI.
    pub(crate) hostfile: String,
}

impl Layout {
    pub(super) fn new(input: &PlanInput<'_>, grant: &NodeGrant) -> Result<Layout, PlanError> {
        let root = absolute("the agent's root folder", &grant.root)?;
        let base = if root == "/" { "" } else { &root };
        let jobs = format!("{base}/jobs");
        let job_temp = format!("{jobs}/{}/{}/{}", input.workspace, input.experiment, input.job);
        Ok(Layout {
            mounts: format!("{base}/mounts"),
            job_mounts: format!("{job_temp}/mounts"),
            hostfile: format!("{job_temp}/hostfile"),
            jobs,
            job_temp,
            root,
        })
    }
}

/// Every name of the job becomes one folder: it must be one.
pub(super) fn check_names(input: &PlanInput<'_>) -> Result<(), PlanError> {
    let names = [
        ("subscription", input.subscription),
        ("resource group", input.resource_group),
        ("workspace", input.workspace),
        ("experiment", input.experiment),
        ("job", input.job),
        ("uuid", input.uuid),
    ];
    for (what, name) in names {
        if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
            return Err(PlanError::BadName { what, name: name.to_owned() });
        }
    }
    Ok(())
}

/// The absolute path that a field of the spec means.
pub(crate) fn resolve(
    field: &str,
    text: &str,
    scope: &BTreeMap<String, String>,
    spec: &JobSpec,
) -> Result<String, PlanError> {
    absolute(field, &expanded(field, text, scope, spec)?)
}

/// The text with its variables replaced; it may be a relative path.
pub(super) fn expanded(
    field: &str,
    text: &str,
    scope: &BTreeMap<String, String>,
    spec: &JobSpec,
) -> Result<String, PlanError> {
    if text.contains('\0') {
        return Err(PlanError::Nul { field: field.to_owned() });
    }
    if env::grows_beyond(text, scope, limits::PATH_BYTES) {
        return Err(PlanError::too_long_path(field));
    }
    expand(text, scope).map_err(|UndefinedVariable { name }| {
        let (field, value) = (field.to_owned(), text.to_owned());
        if spec.secrets.iter().any(|secret| secret.name == name) {
            PlanError::SecretInText { field, value, name }
        } else {
            PlanError::UndefinedVariable { field, value, name }
        }
    })
}

/// The path without `//`, `/./` and a trailing `/`.
fn absolute(field: &str, path: &str) -> Result<String, PlanError> {
    if !path.starts_with('/') {
        return Err(PlanError::RelativePath { field: field.to_owned(), path: path.to_owned() });
    }
    Ok(format!("/{}", names(field, path)?.join("/")))
}

/// The path below `base` that a field means: `relative` holds no variable.
pub(crate) fn below(field: &str, base: &str, relative: &str) -> Result<String, PlanError> {
    let names = names(field, relative)?;
    if relative.starts_with('/') || names.is_empty() {
        return Err(PlanError::NotRelativePath { field: field.to_owned(), path: relative.to_owned() });
    }
    let path = format!("{}/{}", base.trim_end_matches('/'), names.join("/"));
    if path.len() > limits::PATH_BYTES { Err(PlanError::too_long_path(field)) } else { Ok(path) }
}

fn names<'a>(field: &str, path: &'a str) -> Result<Vec<&'a str>, PlanError> {
    if path.len() > limits::PATH_BYTES {
        return Err(PlanError::too_long_path(field));
    }
    if path.contains('\0') {
        return Err(PlanError::Nul { field: field.to_owned() });
    }
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    if names.contains(&"..") {
        return Err(PlanError::UpwardPath { field: field.to_owned(), path: path.to_owned() });
    }
    Ok(names)
}

/// Whether the path is the folder or lies in it. Both are absolute and without `//`.
pub(crate) fn is_in(path: &str, folder: &str) -> bool {
    folder == "/" || path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
