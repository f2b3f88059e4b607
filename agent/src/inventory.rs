//! What this node is: one file per fact, put together into the message that `Hello` carries.
//!
//! Facts come from `sysinfo`, which is asked for one thing at a time and dropped; GPUs from NVML. A fact that
//! cannot be had is left empty, never a failure. Numbers that change are metrics, not inventory: sampling does
//! without `sysinfo`, because it reads its few files every few seconds into buffers that it keeps, while
//! `sysinfo` opens and allocates anew each time (and reads `/proc/cpuinfo` and each interface's folder besides).

mod cpu;
mod disk;
mod gpu;
mod host;
mod memory;
mod network;
mod room;

use trainyard_proto::v1::Inventory;

use crate::gpu::GpuHandle;

pub use room::problem;

/// Looks at everything anew. Blocks (files, disks and NVML up to their deadlines): not for the agent's loop.
///
/// `limitations`: what this agent cannot do here, in words, as `no cgroups: not root`.
#[must_use]
pub fn collect(gpu: &GpuHandle, limitations: Vec<String>) -> Inventory {
    let gpus = gpu::look(&**gpu);
    let cpu = cpu::look();
    Inventory {
        hostname: host::hostname(),
        kernel: host::kernel(),
        os: host::os(),
        cpus: cpu.count,
        cpu_model: cpu.model,
        memory_bytes: memory::total_bytes(),
        disks: disk::look(),
        addresses: network::addresses(),
        gpus: gpus.gpus,
        driver_version: gpus.driver_version,
        cuda_version: gpus.cuda_version,
        gpu_problem: gpus.problem,
        limitations,
        // Known to whoever knows the root folder: see `problem`.
        degraded: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::gpu::fake::Fake;

    #[test]
    fn this_machine_has_the_facts_that_every_machine_has() {
        let handle: GpuHandle = Arc::new(Fake::absent());
        let inventory = collect(&handle, vec!["no cgroups: not root".to_owned()]);
        assert_ne!(inventory.hostname, "");
        assert_ne!(inventory.kernel, "");
        assert!(inventory.cpus > 0);
        assert!(inventory.memory_bytes > 64 << 20, "{}", inventory.memory_bytes);
        assert!(inventory.disks.iter().any(|disk| disk.mount_point == "/" && disk.total_bytes > 0));
        assert_eq!(inventory.gpu_problem, "no NVIDIA driver: NVML cannot be loaded (no such file)");
        assert_eq!(inventory.limitations, ["no cgroups: not root"]);
    }

    #[test]
    fn a_faulty_gpu_says_why() {
        let fake = Fake::with_gpus(2);
        fake.set_fault("GPU-fake-1", "Xid 79");
        let inventory = collect(&(Arc::new(fake) as GpuHandle), Vec::new());
        let faults: Vec<&str> = inventory.gpus.iter().map(|gpu| gpu.fault.as_str()).collect();
        assert_eq!(faults, ["", "Xid 79"]);
        assert_eq!(
            (inventory.driver_version.as_str(), inventory.cuda_version.as_str()),
            ("550.54.15", "12.4")
        );
        assert_eq!(inventory.gpu_problem, "");
    }
}
