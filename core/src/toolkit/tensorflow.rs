//! TensorFlow: parameter servers and workers, each with the addresses of all.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::plan::role::{Program, Seat, Seating, Sees, split, spread};
use crate::plan::task::Role;
use crate::plan::{Gang, PlanError};
use crate::spec::limits;
use crate::unit::GpuUuid;

/// Settings of this toolkit. Source: docs/compat.md, "Toolkits".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "tensorFlowSettings")]
pub struct Settings {
    /// The script; variables are expanded.
    #[schemars(length(min = 1))]
    pub python_script_file_path: String,
    /// The interpreter; `python3`, else `python`, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub python_interpreter_path: Option<String>,
    /// Arguments of worker 0, in shell syntax.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master_command_line_args: Option<String>,
    /// Arguments of the other workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_command_line_args: Option<String>,
    /// Arguments of the parameter servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter_server_command_line_args: Option<String>,
    /// Number of workers; `nodeCount` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = crate::spec::limits::TASKS))]
    pub worker_count: Option<u32>,
    /// Number of parameter servers; 1 unless given or the job has one node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = crate::spec::limits::NODES))]
    pub parameter_server_count: Option<u32>,
}

/// Roles node by node, the parameter server first; ports in the same order.
///
/// Source: docs/compat.md, "TensorFlow roles" (observed: 3 nodes, 1 parameter server, 3 workers).
pub(crate) fn seat<'a>(settings: &'a Settings, gang: &mut Gang<'_>) -> Result<Seating<'a>, PlanError> {
    let (servers, workers) = counts(settings, gang)?;
    let mut chairs = Vec::with_capacity(servers + workers);
    let mut hosts = Hosts::default();
    for (node, here) in spread(workers, gang.grants).into_iter().enumerate() {
        let gpus = &gang.grants[node].gpus;
        if !gpus.is_empty() && here > gpus.len() {
            let allowed =
                format!("{here} of them would be on a node with {} GPUs; one GPU each is needed", gpus.len());
            let field = "tensorFlowSettings.workerCount".to_owned();
            return Err(PlanError::Count { field, value: workers, allowed });
        }
        if node < servers {
            chairs.push((node, Role::ParameterServer, hosts.servers.len(), Vec::new()));
            hosts.servers.push(gang.ports.take_address(node)?);
        }
        for gpus in split(gpus, here) {
            chairs.push((node, Role::Worker, hosts.workers.len(), gpus));
            hosts.workers.push(gang.ports.take_address(node)?);
        }
    }
    let cluster = hosts.cluster()?;
    let seats = chairs
        .into_iter()
        .map(|(node, role, index, gpus)| task(settings, node, role, index, gpus, &cluster))
        .collect();
    let (servers, workers) = (hosts.servers.join(","), hosts.workers.join(","));
    let env = vec![
        ("AZ_BATCHAI_PS_HOSTS", servers.clone()),
        ("AZ_BATCHAI_WORKER_HOSTS", workers.clone()),
        ("PS_HOSTS", servers),
        ("WORKER_HOSTS", workers),
    ];
    Ok(Seating { seats, env, notes: Vec::new() })
}

/// Parameter servers and workers, checked.
fn counts(settings: &Settings, gang: &Gang<'_>) -> Result<(usize, usize), PlanError> {
    let nodes = gang.grants.len();
    let workers = settings.worker_count.map_or(nodes, |count| count as usize);
    let servers = settings.parameter_server_count.map_or(usize::from(nodes > 1), |count| count as usize);
    if workers == 0 || workers > limits::TASKS as usize {
        let allowed = format!("1 to {} are allowed", limits::TASKS);
        return Err(PlanError::Count {
            field: "tensorFlowSettings.workerCount".to_owned(),
            value: workers,
            allowed,
        });
    }
    if servers > nodes {
        let allowed = format!("at most one per node is allowed, and the job has {nodes}");
        let field = "tensorFlowSettings.parameterServerCount".to_owned();
        return Err(PlanError::Count { field, value: servers, allowed });
    }
    Ok((servers, workers))
}

/// Addresses, by role and index.
#[derive(Default)]
struct Hosts {
    servers: Vec<String>,
    workers: Vec<String>,
}

impl Hosts {
    /// `cluster` of `TF_CONFIG`. A role without tasks is left out.
    fn cluster(&self) -> Result<serde_json::Value, PlanError> {
        let bytes: usize = self.servers.iter().chain(&self.workers).map(|host| host.len() + 3).sum();
        if bytes > limits::COMMAND_LINE_BYTES {
            let what = "the variable TF_CONFIG".to_owned();
            return Err(PlanError::TooLong { what, limit: limits::COMMAND_LINE_BYTES });
        }
        Ok(if self.servers.is_empty() {
            json!({ "worker": self.workers })
        } else {
            json!({ "ps": self.servers, "worker": self.workers })
        })
    }
}

fn task<'a>(
    settings: &'a Settings,
    node: usize,
    role: Role,
    index: usize,
    gpus: Vec<GpuUuid>,
    cluster: &serde_json::Value,
) -> Seat<'a> {
    let (kind, name, file_suffix, args) = if role == Role::ParameterServer {
        let args = &settings.parameter_server_command_line_args;
        ("ps", format!("ps-{index}"), format!("-ps-{index}"), args)
    } else {
        let (master, worker) = (&settings.master_command_line_args, &settings.worker_command_line_args);
        (
            "worker",
            format!("worker-{index}"),
            format!("-wk-{index}"),
            if index == 0 { master } else { worker },
        )
    };
    let config =
        json!({ "cluster": cluster, "task": { "type": kind, "index": index }, "environment": "cloud" });
    Seat {
        node,
        role,
        index: u32::try_from(index).expect("tasks are fewer than limits::TASKS"),
        name,
        file_suffix,
        gpus,
        sees: Sees::Own,
        env: vec![
            ("AZ_BATCHAI_TASK_INDEX", index.to_string()),
            ("TASK_INDEX", index.to_string()),
            ("TF_CONFIG", config.to_string()),
        ],
        program: Program::Script {
            key: "tensorFlowSettings",
            script: &settings.python_script_file_path,
            interpreter: settings.python_interpreter_path.as_deref(),
            args: args.as_deref().unwrap_or_default(),
        },
    }
}
