//! Plans: what a gang is on one node.

use std::collections::BTreeMap;

use trainyard_core::id::{NodeId, Rank};
use trainyard_core::plan::task::{HostMount, PlannedFile, Role};
use trainyard_core::plan::{Command, NodePlan, Preflight, TaskPlan};
use trainyard_core::text::Secret;
use trainyard_core::unit::{GpuUuid, Port};

use super::{WireError, absolute_path, file_name};
use crate::v1;

impl From<NodePlan> for v1::NodePlan {
    fn from(plan: NodePlan) -> v1::NodePlan {
        v1::NodePlan {
            node: plan.node.0,
            job_temp: plan.job_temp,
            directories: plan.directories,
            host_mounts: plan.host_mounts.into_iter().map(Into::into).collect(),
            mounted_directories: plan.mounted_directories,
            files: plan.files.into_iter().map(Into::into).collect(),
            std_dir: plan.std_dir,
            execution_log: plan.execution_log,
            preparation: plan.preparation.map(Into::into),
            ports: plan.ports.into_iter().map(|port| u32::from(port.0)).collect(),
            tasks: plan.tasks.into_iter().map(Into::into).collect(),
            notes: plan.notes,
            preflight: plan.preflight.map(Into::into),
        }
    }
}

impl TryFrom<v1::NodePlan> for NodePlan {
    type Error = WireError;

    fn try_from(plan: v1::NodePlan) -> Result<NodePlan, WireError> {
        Ok(NodePlan {
            node: NodeId(plan.node),
            job_temp: absolute_path(plan.job_temp, "job_temp")?,
            directories: absolute_paths(plan.directories, "directories")?,
            host_mounts: plan.host_mounts.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            mounted_directories: absolute_paths(plan.mounted_directories, "mounted_directories")?,
            files: plan.files.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            std_dir: absolute_path(plan.std_dir, "std_dir")?,
            execution_log: file_name(plan.execution_log, "execution_log")?,
            preparation: plan.preparation.map(TryInto::try_into).transpose()?,
            ports: plan.ports.into_iter().map(port).collect::<Result<_, _>>()?,
            tasks: plan.tasks.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            notes: plan.notes,
            preflight: plan.preflight.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<Preflight> for v1::Preflight {
    fn from(preflight: Preflight) -> v1::Preflight {
        v1::Preflight {
            gpus: preflight.gpus.into_iter().map(|gpu| gpu.0).collect(),
            directories: preflight.directories,
            peers: preflight.peers,
            timeout_ms: preflight.timeout_ms,
        }
    }
}

impl TryFrom<v1::Preflight> for Preflight {
    type Error = WireError;

    fn try_from(preflight: v1::Preflight) -> Result<Preflight, WireError> {
        Ok(Preflight {
            gpus: preflight.gpus.into_iter().map(GpuUuid).collect(),
            directories: absolute_paths(preflight.directories, "preflight.directories")?,
            peers: preflight.peers,
            timeout_ms: preflight.timeout_ms,
        })
    }
}

impl From<HostMount> for v1::HostMount {
    fn from(mount: HostMount) -> v1::HostMount {
        v1::HostMount { source: mount.source, target: mount.target, read_only: mount.read_only }
    }
}

impl TryFrom<v1::HostMount> for HostMount {
    type Error = WireError;

    fn try_from(mount: v1::HostMount) -> Result<HostMount, WireError> {
        Ok(HostMount {
            source: absolute_path(mount.source, "host_mounts.source")?,
            target: absolute_path(mount.target, "host_mounts.target")?,
            read_only: mount.read_only,
        })
    }
}

impl From<PlannedFile> for v1::PlannedFile {
    fn from(file: PlannedFile) -> v1::PlannedFile {
        v1::PlannedFile { path: file.path, content: file.content }
    }
}

impl TryFrom<v1::PlannedFile> for PlannedFile {
    type Error = WireError;

    fn try_from(file: v1::PlannedFile) -> Result<PlannedFile, WireError> {
        Ok(PlannedFile { path: absolute_path(file.path, "files.path")?, content: file.content })
    }
}

impl From<TaskPlan> for v1::TaskPlan {
    fn from(task: TaskPlan) -> v1::TaskPlan {
        v1::TaskPlan {
            rank: task.rank.0,
            role: v1::Role::from(task.role).into(),
            index: task.index,
            name: task.name,
            command: Some(task.command.into()),
            gpus: task.gpus.into_iter().map(|gpu| gpu.0).collect(),
        }
    }
}

impl TryFrom<v1::TaskPlan> for TaskPlan {
    type Error = WireError;

    fn try_from(task: v1::TaskPlan) -> Result<TaskPlan, WireError> {
        if task.rank == u32::MAX {
            // The rank of the preparation: a task that bore it would share its run folder.
            return Err(WireError::OutOfRange("tasks.rank", i64::from(task.rank)));
        }
        Ok(TaskPlan {
            rank: Rank(task.rank),
            role: v1::Role::try_from(task.role)
                .map_err(|_| WireError::Unspecified("tasks.role"))?
                .try_into()?,
            index: task.index,
            name: task.name,
            command: super::need(task.command, "tasks.command")?.try_into()?,
            gpus: task.gpus.into_iter().map(GpuUuid).collect(),
        })
    }
}

impl From<Role> for v1::Role {
    fn from(role: Role) -> v1::Role {
        match role {
            Role::ParameterServer => v1::Role::ParameterServer,
            Role::Worker => v1::Role::Worker,
            Role::Master => v1::Role::Master,
        }
    }
}

impl TryFrom<v1::Role> for Role {
    type Error = WireError;

    fn try_from(role: v1::Role) -> Result<Role, WireError> {
        match role {
            v1::Role::Unspecified => Err(WireError::Unspecified("tasks.role")),
            v1::Role::ParameterServer => Ok(Role::ParameterServer),
            v1::Role::Worker => Ok(Role::Worker),
            v1::Role::Master => Ok(Role::Master),
        }
    }
}

impl From<Command> for v1::Command {
    fn from(command: Command) -> v1::Command {
        v1::Command {
            argv: command.argv,
            env: command.env.into_iter().map(|(name, value)| v1::EnvVar { name, value }).collect(),
            secret_env: command
                .secret_env
                .into_iter()
                .map(|(name, value)| v1::EnvVar { name, value: value.expose().to_owned() })
                .collect(),
            cwd: command.cwd,
            stdout: command.stdout,
            stderr: command.stderr,
        }
    }
}

impl TryFrom<v1::Command> for Command {
    type Error = WireError;

    fn try_from(command: v1::Command) -> Result<Command, WireError> {
        let whole = command.argv.first().is_some_and(|program| program.starts_with('/'));
        if !whole || command.argv.iter().any(|argument| argument.contains('\0')) {
            return Err(WireError::BadCommandLine("argv"));
        }
        let secret_env = variables(command.secret_env, "secret_env")?;
        Ok(Command {
            argv: command.argv,
            env: variables(command.env, "env")?,
            secret_env: secret_env.into_iter().map(|(name, value)| (name, Secret::new(value))).collect(),
            cwd: absolute_path(command.cwd, "cwd")?,
            stdout: file_name(command.stdout, "stdout")?,
            stderr: file_name(command.stderr, "stderr")?,
        })
    }
}

fn variables(list: Vec<v1::EnvVar>, field: &'static str) -> Result<BTreeMap<String, String>, WireError> {
    list.into_iter()
        .map(|v1::EnvVar { name, value }| {
            let fits = !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
            if fits { Ok((name, value)) } else { Err(WireError::BadVariable(field, super::shortened(&name))) }
        })
        .collect()
}

fn absolute_paths(paths: Vec<String>, field: &'static str) -> Result<Vec<String>, WireError> {
    paths.into_iter().map(|path| absolute_path(path, field)).collect()
}

pub(super) fn port(number: u32) -> Result<Port, WireError> {
    u16::try_from(number)
        .ok()
        .filter(|number| *number != 0)
        .map(Port)
        .ok_or(WireError::OutOfRange("ports", i64::from(number)))
}
