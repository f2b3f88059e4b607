//! The inventory of a node, from the wire to what REST shows and what placement needs.

use trainyard_core::session::{GpuFact, NodeFacts};
use trainyard_core::unit::GpuUuid;
use trainyard_proto::v1;

use crate::inventory::{Disk, Gpu, Inventory};

pub(super) fn inventory(wire: v1::Inventory) -> Inventory {
    Inventory {
        hostname: wire.hostname,
        kernel: wire.kernel,
        os: wire.os,
        cpus: wire.cpus,
        cpu_model: wire.cpu_model,
        memory_bytes: wire.memory_bytes,
        disks: wire.disks.into_iter().map(disk).collect(),
        addresses: wire.addresses,
        gpus: wire.gpus.into_iter().map(gpu).collect(),
        driver_version: wire.driver_version,
        cuda_version: wire.cuda_version,
        gpu_problem: wire.gpu_problem,
        limitations: wire.limitations,
        degraded: wire.degraded,
    }
}

fn disk(wire: v1::Disk) -> Disk {
    Disk {
        mount_point: wire.mount_point,
        total_bytes: wire.total_bytes,
        available_bytes: wire.available_bytes,
    }
}

fn gpu(wire: v1::Gpu) -> Gpu {
    Gpu {
        uuid: wire.uuid,
        name: wire.name,
        memory_bytes: wire.memory_bytes,
        compute_capability: wire.compute_capability,
        pci_bus_id: wire.pci_bus_id,
        mig_enabled: wire.mig_enabled,
        nvlinks: wire.nvlinks,
        fault: wire.fault,
        used_by: None,
    }
}

/// The facts of a node after its inventory has changed.
pub(super) fn facts(before: &NodeFacts, inventory: &v1::Inventory) -> NodeFacts {
    let gpus = inventory.gpus.iter();
    NodeFacts {
        gpus: gpus.map(|gpu| GpuFact { uuid: GpuUuid(gpu.uuid.clone()), fault: gpu.fault.clone() }).collect(),
        gpu_problem: inventory.gpu_problem.clone(),
        degraded: inventory.degraded.clone(),
        ..before.clone()
    }
}
