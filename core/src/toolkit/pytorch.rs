//! PyTorch: one process per rank, with the variables of `torch.distributed`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::role::{Program, Seat, Seating, Sees, split, spread};
use crate::plan::task::Role;
use crate::plan::{Gang, PlanError};
use crate::spec::limits;
use crate::unit::GpuUuid;

/// Settings of this toolkit. Source: docs/compat.md, "Toolkits".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "pyTorchSettings")]
pub struct Settings {
    /// The script; variables are expanded.
    #[schemars(length(min = 1))]
    pub python_script_file_path: String,
    /// The interpreter; `python3`, else `python`, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub python_interpreter_path: Option<String>,
    /// Arguments of the script, in shell syntax.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_line_args: Option<String>,
    /// Number of processes; `nodeCount` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = crate::spec::limits::TASKS))]
    pub process_count: Option<u32>,
    /// `TCP`, `Gloo` or `MPI`, in any case; extension: `NCCL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-choices" = ["TCP", "Gloo", "MPI", "NCCL"]))]
    pub communication_backend: Option<String>,
}

/// The backend where the job names none: it runs on every machine.
const DEFAULT_BACKEND: &str = "gloo";

/// Ranks in blocks, node by node.
pub(crate) fn seat<'a>(settings: &'a Settings, gang: &mut Gang<'_>) -> Result<Seating<'a>, PlanError> {
    let world = settings.process_count.map_or(gang.grants.len(), |count| count as usize);
    if world == 0 || world > limits::TASKS as usize {
        let allowed = format!("1 to {} are allowed", limits::TASKS);
        return Err(PlanError::Count {
            field: "pyTorchSettings.processCount".to_owned(),
            value: world,
            allowed,
        });
    }
    let mut seats = Vec::with_capacity(world);
    let mut notes = Vec::new();
    for (node, here) in spread(world, gang.grants).into_iter().enumerate() {
        let gpus = &gang.grants[node].gpus;
        if !gpus.is_empty() && here > gpus.len() {
            notes.push((
                node,
                format!("{here} processes for {} GPU(s): the last processes get none", gpus.len()),
            ));
        }
        for (local, gpus) in split(gpus, here).into_iter().enumerate() {
            let place = Place { rank: seats.len(), local, here, node };
            seats.push(place.seat(settings, gpus));
        }
    }
    let env = common(settings, gang, world)?;
    Ok(Seating { seats, env, notes })
}

/// Where a process is.
struct Place {
    rank: usize,
    /// Among the processes of its node.
    local: usize,
    /// Processes on its node.
    here: usize,
    node: usize,
}

impl Place {
    fn seat<'a>(&self, settings: &'a Settings, gpus: Vec<GpuUuid>) -> Seat<'a> {
        let rank = self.rank.to_string();
        Seat {
            node: self.node,
            role: Role::Worker,
            index: u32::try_from(self.rank).expect("ranks are fewer than limits::TASKS"),
            name: format!("worker-{rank}"),
            file_suffix: format!("-{rank}"),
            gpus,
            sees: Sees::OfNode,
            env: vec![
                ("AZ_BATCHAI_TASK_INDEX", rank.clone()),
                ("TASK_INDEX", rank.clone()),
                ("RANK", rank),
                ("LOCAL_RANK", self.local.to_string()),
                ("LOCAL_WORLD_SIZE", self.here.to_string()),
                ("GROUP_RANK", self.node.to_string()),
            ],
            program: Program::Script {
                key: "pyTorchSettings",
                script: &settings.python_script_file_path,
                interpreter: settings.python_interpreter_path.as_deref(),
                args: settings.command_line_args.as_deref().unwrap_or_default(),
            },
        }
    }
}

/// What all ranks are told: where to meet, and by what.
fn common(
    settings: &Settings,
    gang: &mut Gang<'_>,
    world: usize,
) -> Result<Vec<(&'static str, String)>, PlanError> {
    let backend = settings.communication_backend.as_deref().unwrap_or(DEFAULT_BACKEND).to_ascii_lowercase();
    let port = gang.ports.master()?;
    let meeting_file = match &gang.shared_temp {
        Some(shared) if backend != "tcp" => Some(format!("{shared}/{}", meeting_file_name(gang))),
        Some(_) | None => None,
    };
    let init_method = match meeting_file {
        Some(path) => format!("file://{path}"),
        None => format!("tcp://{}", gang.ports.address(0, port)),
    };
    Ok(vec![
        ("AZ_BATCHAI_PYTORCH_INIT_METHOD", init_method),
        ("AZ_BATCHAI_PYTORCH_BACKEND", backend),
        ("MASTER_ADDR", gang.grants[0].address.clone()),
        ("MASTER_PORT", port.to_string()),
        ("WORLD_SIZE", world.to_string()),
    ])
}

/// Never the same twice: a file that an earlier gang left would keep the new one from meeting.
fn meeting_file_name(gang: &Gang<'_>) -> String {
    format!("pytorch-init-{}-{}", gang.input.uuid, gang.input.gang)
}
