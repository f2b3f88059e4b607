//! The shape of a plan, and what planning needs to know of a node.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize, Serializer};

use crate::id::{NodeId, Rank};
use crate::text::Secret;
use crate::unit::{GpuUuid, Port};

/// Where ports are counted together: a boot of a machine and a network namespace on it.
///
/// Local nodes share one; many frameworks bind all interfaces, so their ports must differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortSpace {
    /// `/proc/sys/kernel/random/boot_id`
    pub boot_id: String,
    /// Inode of `/proc/self/ns/net`.
    pub network_namespace: u64,
}

/// What a job gets of one node, and what planning needs to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeGrant {
    /// The node.
    pub node: NodeId,
    /// The address that the other nodes reach it at, without port.
    pub address: String,
    /// The agent's root folder (`LS_root`), absolute.
    pub root: String,
    /// The GPUs that this job gets here, by UUID, in PCI order.
    pub gpus: Vec<GpuUuid>,
    /// Where its ports are counted.
    pub port_space: PortSpace,
    /// Variables that every process on this node gets: PATH, HOME, LANG, ...
    pub base_environment: BTreeMap<String, String>,
    /// Whether the agent can bind-mount and keep cgroups.
    pub privileged: bool,
}

/// Ports that no plan may use now, per port space: of live attempts, or found taken by an agent.
pub type ReservedPorts = BTreeMap<PortSpace, BTreeSet<Port>>;

/// One try of a job: everything that its agents need to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GangPlan {
    /// One entry per node, in the order of the grants.
    pub nodes: Vec<NodePlan>,
}

impl GangPlan {
    /// All tasks, by rank.
    pub fn tasks(&self) -> impl Iterator<Item = &TaskPlan> {
        self.nodes.iter().flat_map(|node| &node.tasks)
    }
}

/// What one agent does for one gang.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePlan {
    /// The node.
    pub node: NodeId,
    /// `AZ_BATCHAI_JOB_TEMP` on this node: absolute; removed when the node starts a later job.
    pub job_temp: String,
    /// Directories to make before anything runs, absolute, parents first, without those below a mount.
    pub directories: Vec<String>,
    /// Directories of the node to show elsewhere, after `directories`.
    pub host_mounts: Vec<HostMount>,
    /// Directories to make after the mounts (log and output directories lie on them), parents first.
    pub mounted_directories: Vec<String>,
    /// Files to write after the directories, as the hostfile of MPI.
    pub files: Vec<PlannedFile>,
    /// `AZ_BATCHAI_STDOUTERR_DIR`: absolute.
    pub std_dir: String,
    /// Name of the file in `std_dir` that tells each step: `execution.log`, or one per node.
    pub execution_log: String,
    /// Runs before the tasks of the gang start, on every node.
    pub preparation: Option<Command>,
    /// Ports that must be free on this node before the gang starts.
    pub ports: Vec<Port>,
    /// What is checked here before the start; absent: nothing beside the ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<Preflight>,
    /// The tasks on this node, by rank. May be empty: custom jobs run on the first node only.
    pub tasks: Vec<TaskPlan>,
    /// What the user should know of this plan, a sentence each: written to the execution log first.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What makes a node fit for a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Preflight {
    /// GPUs that must be there, without a fault and without uncorrected ECC errors.
    pub gpus: Vec<GpuUuid>,
    /// Directories that must be readable, absolute.
    pub directories: Vec<String>,
    /// Planned ports of the other nodes, `address:port`: somebody must answer there, even by a refusal.
    pub peers: Vec<String>,
    /// For each directory and peer, ms.
    pub timeout_ms: u64,
}

/// A directory of the node, shown at another place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostMount {
    /// Absolute.
    pub source: String,
    /// Absolute, below the job's mount root.
    pub target: String,
    /// Whether tasks may only read. Needs a privileged agent.
    pub read_only: bool,
}

/// A small file that the agent writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedFile {
    /// Absolute.
    pub path: String,
    /// Its text.
    pub content: String,
}

/// One program to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Command {
    /// The program by absolute path, then its arguments.
    pub argv: Vec<String>,
    /// The whole environment but the secrets; by name.
    pub env: BTreeMap<String, String>,
    /// Variables whose values never reach a disk, a log or an API; by name. `Serialize` gives the names.
    #[serde(skip_deserializing, serialize_with = "names")]
    pub secret_env: BTreeMap<String, Secret>,
    /// Working directory, absolute.
    pub cwd: String,
    /// File name of its stdout in `std_dir`.
    pub stdout: String,
    /// File name of its stderr in `std_dir`.
    pub stderr: String,
}

fn names<S: Serializer>(secrets: &BTreeMap<String, Secret>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(secrets.keys())
}

/// What a task is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Holds variables for the workers; never ends by itself.
    ParameterServer,
    /// Trains. Worker 0 of TensorFlow is the master.
    Worker,
    /// The one command of a custom job.
    Master,
}

/// One process tree on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskPlan {
    /// Its place in the gang.
    pub rank: Rank,
    /// What it is for.
    pub role: Role,
    /// Its place in its role, from 0.
    pub index: u32,
    /// How people name it: `worker-0`, `ps-0`, `master`.
    pub name: String,
    /// What runs.
    pub command: Command,
    /// GPUs of this task alone; empty where it has none.
    pub gpus: Vec<GpuUuid>,
}
