//! What a node says of itself beyond what placement needs: shown, never decided on.

use serde::Serialize;

/// A node's hardware and limits, as REST shows them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    /// Its host name.
    pub hostname: String,
    /// Its kernel's version.
    pub kernel: String,
    /// Its distribution.
    pub os: String,
    /// Logical CPUs.
    pub cpus: u32,
    /// Their model.
    pub cpu_model: String,
    /// RAM.
    pub memory_bytes: u64,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its GPUs, in PCI order.
    pub gpus: Vec<Gpu>,
    /// Of NVIDIA's driver; empty without one.
    pub driver_version: String,
    /// The highest CUDA version that the driver takes.
    pub cuda_version: String,
    /// Why it takes no GPU work; empty where NVML answers.
    pub gpu_problem: String,
    /// What its agent cannot do, in words.
    pub limitations: Vec<String>,
    /// Why the node takes no work, in its own words; empty: it does.
    pub degraded: String,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// Where it is mounted.
    pub mount_point: String,
    /// All of it.
    pub total_bytes: u64,
    /// What is free.
    pub available_bytes: u64,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// Its UUID.
    pub uuid: String,
    /// Its model.
    pub name: String,
    /// Its memory.
    pub memory_bytes: u64,
    /// `8.0`
    pub compute_capability: String,
    /// Its PCI address.
    pub pci_bus_id: String,
    /// Whether it is split.
    pub mig_enabled: bool,
    /// Active NVLinks.
    pub nvlinks: u32,
    /// Why no work may be placed on it; empty: healthy.
    pub fault: String,
    /// The job that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
}
