//! The environment of every process of a gang. The table is explained in docs/environment.md.
//!
//! Later wins: the node's base, what the plan defines, secrets, the user's variables.

use std::collections::BTreeMap;

use super::order::{Definition, order};
use super::role::{Seat, Seating, Sees};
use super::{Gang, PlanError};
use crate::spec::env::{EnvironmentVariable, SecretVariable};
use crate::spec::expand::{expand, expand_known, variables_in};
use crate::spec::{JobSpec, limits};
use crate::text::Secret;

/// Bytes of argv and environment of one process together: half of what Linux takes with its default stack
/// limit of 8 MiB.
const PROCESS_BYTES: usize = 1024 * 1024;

/// Variables that are never shown, by name.
type SecretEnv = BTreeMap<String, Secret>;

/// Decides environments.
pub(super) struct Environment<'a> {
    pub(super) gang: &'a Gang<'a>,
    pub(super) seating: &'a Seating<'a>,
    /// The user's variables, each after those it needs.
    user_order: Vec<usize>,
}

/// Which process of a node.
pub(super) enum Process<'a> {
    Preparation,
    Task(&'a Seat<'a>),
}

impl<'a> Environment<'a> {
    pub(super) fn new(gang: &'a Gang<'a>, seating: &'a Seating<'a>) -> Result<Environment<'a>, PlanError> {
        let variables = &gang.input.spec.environment_variables;
        let user_order = order(&variables.iter().map(definition).collect::<Vec<Definition<'_>>>())?;
        Ok(Environment { gang, seating, user_order })
    }

    /// What every process on this node gets and no path of the spec changes.
    pub(super) fn of_node(&self, node: usize) -> BTreeMap<String, String> {
        let Gang { input, grants, layouts, shared_temp, ports } = self.gang;
        let (grant, layout) = (&grants[node], &layouts[node]);
        let addresses: Vec<&str> = grants.iter().map(|grant| grant.address.as_str()).collect();
        let gpus = grant.gpus.len().to_string();
        let table = [
            ("AZ_BATCHAI_ROOT", layout.root.clone()),
            ("AZ_BATCHAI_MOUNT_ROOT", layout.mounts.clone()),
            ("AZ_BATCHAI_JOB_MOUNT_ROOT", layout.job_mounts.clone()),
            ("AZ_BATCHAI_JOB_TEMP", layout.job_temp.clone()),
            ("AZ_BATCHAI_JOB_TEMP_DIR", layout.jobs.clone()),
            ("AZ_BATCHAI_MPI_HOST_FILE", layout.hostfile.clone()),
            ("AZ_BATCHAI_MPI_MASTER_NODE", grants[0].address.clone()),
            ("AZ_BATCHAI_NUM_GPUS", gpus.clone()),
            ("AZ_BATCHAI_NUM_GPUS_PER_NODE", gpus),
            ("AZ_BATCH_HOST_LIST", addresses.join(",")),
            ("AZ_BATCH_NODE_LIST", addresses.join(";")),
            ("AZ_BATCH_JOB_ID", input.job.to_owned()),
            ("TRAINYARD_JOB", input.job.to_owned()),
            ("TRAINYARD_GANG", input.gang.to_string()),
            ("TRAINYARD_NODE", grant.node.to_string()),
            ("TRAINYARD_NODE_GPUS", uuids(&grant.gpus)),
        ];
        let mut variables = grant.base_environment.clone();
        variables.extend(owned(table));
        let optional = [
            ("AZ_BATCHAI_SHARED_JOB_TEMP", shared_temp.clone()),
            ("AZ_BATCH_MASTER_NODE", ports.master_address()),
        ];
        variables.extend(owned(optional.into_iter().filter_map(|(name, value)| Some((name, value?)))));
        variables
    }

    /// The whole environment of a process: shown, and secret. `variables` is what its node defines.
    pub(super) fn of_process(
        &self,
        node: usize,
        variables: &BTreeMap<String, String>,
        process: &Process<'_>,
    ) -> Result<(BTreeMap<String, String>, SecretEnv), PlanError> {
        let mut env = variables.clone();
        env.extend(owned(self.seating.env.iter().cloned()));
        match process {
            Process::Preparation => {
                env.insert("TRAINYARD_TASK".to_owned(), "job_prep".to_owned());
            }
            Process::Task(seat) => {
                env.insert("TRAINYARD_TASK".to_owned(), seat.name.clone());
                env.extend(owned(seat.env.iter().cloned()));
            }
        }
        if let Some(visible) = self.visible_gpus(node, process) {
            env.insert("CUDA_VISIBLE_DEVICES".to_owned(), visible);
        }
        let spec = self.gang.input.spec;
        let secret_env = secrets(spec)?;
        for name in secret_env.keys() {
            env.remove(name);
        }
        for i in &self.user_order {
            add_user_variable(*i, &spec.environment_variables[*i], &mut env, &secret_env)?;
        }
        Ok((env, secret_env))
    }

    /// `CUDA_VISIBLE_DEVICES`: the GPUs that the process sees. `None`: leave it as it is, nobody here has a GPU.
    fn visible_gpus(&self, node: usize, process: &Process<'_>) -> Option<String> {
        let Gang { grants, input, .. } = self.gang;
        let boot_id = &grants[node].port_space.boot_id;
        // Local nodes share a machine: one without GPUs must not see those of another.
        let machine_has_gpus =
            grants.iter().any(|grant| grant.port_space.boot_id == *boot_id && !grant.gpus.is_empty());
        let none_wanted = input.spec.resources.is_some_and(|resources| resources.gpus_per_node == Some(0));
        let own = match process {
            Process::Preparation => &grants[node].gpus,
            Process::Task(seat) => match seat.sees {
                Sees::Own => &seat.gpus,
                Sees::OfNode => &grants[node].gpus,
            },
        };
        (machine_has_gpus || none_wanted).then(|| uuids(own))
    }

    /// What a user should know of the environment on this node.
    pub(super) fn notes(&self, node: usize) -> Vec<String> {
        let Gang { grants, input, shared_temp, ports, .. } = self.gang;
        let mut notes = Vec::new();
        let skipped: Vec<String> = ports.skipped(node).iter().map(ToString::to_string).collect();
        if !skipped.is_empty() {
            notes.push(format!("ports skipped, in use or given to another job: {}", skipped.join(", ")));
        }
        if shared_temp.is_none() {
            notes.push(
                "AZ_BATCHAI_SHARED_JOB_TEMP is not set: the nodes of this job are not on one machine"
                    .to_owned(),
            );
        }
        let by_user = input.spec.environment_variables.iter().any(|v| v.name == "CUDA_VISIBLE_DEVICES")
            || input.spec.secrets.iter().any(|v| v.name == "CUDA_VISIBLE_DEVICES");
        if by_user && !grants[node].gpus.is_empty() {
            notes.push(
                "CUDA_VISIBLE_DEVICES is set by the job itself: the GPUs of a task are not enforced"
                    .to_owned(),
            );
        }
        notes
    }
}

/// The variable as one that needs others.
pub(super) fn definition(variable: &EnvironmentVariable) -> Definition<'_> {
    Definition { name: &variable.name, text: &variable.value }
}

/// Adds a variable of the user to what paths may use, if it needs no more than that itself.
pub(super) fn add_to_path_scope(
    variable: &EnvironmentVariable,
    scope: &mut BTreeMap<String, String>,
) -> Result<(), PlanError> {
    if grows_beyond(&variable.value, scope, limits::COMMAND_LINE_BYTES) {
        return Err(too_long(&variable.name));
    }
    match expand(&variable.value, scope) {
        Ok(value) => scope.insert(variable.name.clone(), value),
        // It needs what only a process has, or nothing has: a path that uses it is an error then.
        Err(_) => scope.remove(&variable.name),
    };
    Ok(())
}

fn secrets(spec: &JobSpec) -> Result<SecretEnv, PlanError> {
    let secret = |(i, secret): (usize, &SecretVariable)| {
        check_name(&format!("secrets[{i}].name"), &secret.name)?;
        let Some(value) = &secret.value else {
            return Err(PlanError::NotBuilt { features: vec![format!("secrets[{i}].valueSecretReference")] });
        };
        if value.expose().contains('\0') {
            return Err(PlanError::Nul { field: format!("secrets[{i}].value") });
        }
        Ok((secret.name.clone(), value.clone()))
    };
    spec.secrets.iter().enumerate().map(secret).collect()
}

/// The value may use what the plan defines and other variables of the user; other names stay as written.
fn add_user_variable(
    i: usize,
    variable: &EnvironmentVariable,
    env: &mut BTreeMap<String, String>,
    secret_env: &SecretEnv,
) -> Result<(), PlanError> {
    let EnvironmentVariable { name, value } = variable;
    let field = format!("environmentVariables[{i}].value");
    check_name(&format!("environmentVariables[{i}].name"), name)?;
    if secret_env.contains_key(name) {
        return Err(PlanError::SecretAgain { name: name.clone() });
    }
    if value.contains('\0') {
        return Err(PlanError::Nul { field });
    }
    if let Some(secret) = variables_in(value).find(|name| secret_env.contains_key(*name)) {
        return Err(PlanError::SecretInText { field, value: value.clone(), name: secret.to_owned() });
    }
    if grows_beyond(value, env, limits::COMMAND_LINE_BYTES) {
        return Err(too_long(name));
    }
    env.insert(name.clone(), expand_known(value, env));
    Ok(())
}

/// Whether the text would be longer than this after expansion. Asked before: a thousand variables that each
/// double the one before must not fill the memory.
pub(super) fn grows_beyond(text: &str, scope: &BTreeMap<String, String>, limit: usize) -> bool {
    let values = variables_in(text).filter_map(|name| scope.get(name)).map(String::len).sum::<usize>();
    let written = variables_in(text).map(|name| name.len() + "${}".len()).sum::<usize>();
    values + text.len().saturating_sub(written) > limit
}

/// Refuses what `execve` would.
pub(super) fn check_size(
    argv: &[String],
    env: &BTreeMap<String, String>,
    secret_env: &SecretEnv,
) -> Result<(), PlanError> {
    let mut total: usize = argv.iter().map(String::len).sum();
    let secret = secret_env.iter().map(|(name, value)| (name, value.expose().len()));
    for (name, length) in env.iter().map(|(name, value)| (name, value.len())).chain(secret) {
        if name.len() + length > limits::COMMAND_LINE_BYTES {
            return Err(too_long(name));
        }
        total += name.len() + length;
    }
    if total > PROCESS_BYTES {
        let what = "the command line with all variables".to_owned();
        return Err(PlanError::TooLong { what, limit: PROCESS_BYTES });
    }
    Ok(())
}

fn check_name(field: &str, name: &str) -> Result<(), PlanError> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(PlanError::BadVariableName { field: field.to_owned(), name: name.to_owned() });
    }
    Ok(())
}

fn too_long(name: &str) -> PlanError {
    PlanError::TooLong { what: format!("the variable {name}"), limit: limits::COMMAND_LINE_BYTES }
}

fn owned<'n>(
    variables: impl IntoIterator<Item = (&'n str, String)>,
) -> impl Iterator<Item = (String, String)> {
    variables.into_iter().map(|(name, value)| (name.to_owned(), value))
}

fn uuids(gpus: &[crate::unit::GpuUuid]) -> String {
    gpus.iter().map(|gpu| gpu.0.as_str()).collect::<Vec<&str>>().join(",")
}
