//! GPUs, as the wire has them.

use trainyard_proto::v1;

use crate::gpu::{Gpu, Unit};

/// All that the inventory says of GPUs.
pub(super) struct Gpus {
    pub(super) gpus: Vec<v1::Gpu>,
    pub(super) driver_version: String,
    pub(super) cuda_version: String,
    /// Empty: none.
    pub(super) problem: String,
}

pub(super) fn look(gpu: &dyn Gpu) -> Gpus {
    let listing = gpu.list();
    Gpus {
        gpus: listing.gpus.into_iter().map(to_wire).collect(),
        driver_version: listing.driver_version,
        cuda_version: listing.cuda_version,
        problem: listing.problem.map(|problem| problem.to_string()).unwrap_or_default(),
    }
}

fn to_wire(unit: Unit) -> v1::Gpu {
    v1::Gpu {
        uuid: unit.uuid.0,
        name: unit.name,
        memory_bytes: unit.memory_bytes,
        compute_capability: unit.compute_capability,
        pci_bus_id: unit.pci_bus_id,
        mig_enabled: unit.mig_enabled,
        nvlinks: unit.nvlinks,
        fault: unit.fault.unwrap_or_default(),
    }
}
