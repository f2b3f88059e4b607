//! The GPUs of this node: which there are, what they do, whether they are well.
//!
//! A GPU is known by its NVML UUID, never by an index; MIG devices are units of their own. Whoever asks
//! waits at most one deadline: a driver that hangs makes GPUs *unknown, with the reason*, and is asked
//! again only when it has answered. Nothing here decides what runs on a GPU.

mod call;
pub mod fake;
mod fault;
pub mod nvml;
#[cfg(test)]
mod nvml_test;
mod read;
mod share;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;
use trainyard_core::unit::{GpuUuid, WallMs};

pub use nvml::NvmlGpu;
pub use share::{Share, split};

/// GPUs of whatever origin, shared by all who ask.
pub type GpuHandle = Arc<dyn Gpu>;

/// What the agent needs to know about GPUs.
pub trait Gpu: Send + Sync {
    /// All units in PCI order. Blocks the thread, at most for one deadline: not for the agent's loop.
    fn list(&self) -> Listing;

    /// What each unit does now. Blocks like [`Gpu::list`].
    ///
    /// # Errors
    /// Why NVML gives no numbers.
    fn sample(&self) -> Result<Vec<Reading>, GpuProblem>;

    /// What is known to be wrong. Never blocks.
    fn health(&self) -> Health;

    /// A number that grows when [`Gpu::list`] or [`Gpu::health`] would now say something else.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// What NVML says of this machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// In PCI order, MIG devices in their GPU's place. While NVML tells nothing: as last known, each with a fault.
    pub gpus: Vec<Unit>,
    /// As `550.54.15`; empty if unknown.
    pub driver_version: String,
    /// As `12.4`; empty if unknown.
    pub cuda_version: String,
    /// Why no GPU work may come here.
    pub problem: Option<GpuProblem>,
}

/// One GPU, or one MIG device: what a task can be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// `GPU-...` or `MIG-...`.
    pub uuid: GpuUuid,
    /// Of a MIG device: its GPU.
    pub parent: Option<GpuUuid>,
    /// As `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// All of its memory.
    pub memory_bytes: u64,
    /// As `9.0`; empty if unknown.
    pub compute_capability: String,
    /// As `00000000:3B:00.0`; empty if unknown.
    pub pci_bus_id: String,
    /// Whether the GPU is cut into MIG devices.
    pub mig_enabled: bool,
    /// Active NVLinks; 0 for a MIG device.
    pub nvlinks: u32,
    /// Why no work may be placed on it.
    pub fault: Option<String>,
}

/// What one GPU does at one time. `None`: this GPU or driver does not tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// `GPU-...` or `MIG-...`.
    pub uuid: GpuUuid,
    /// Of a MIG device: its GPU, which has a reading of its own.
    pub parent: Option<GpuUuid>,
    /// Part of the time in which a kernel ran, 0 to 1.
    pub utilization_ratio: Option<f64>,
    /// Memory in use, of whomever.
    pub memory_used_bytes: Option<u64>,
    /// All memory.
    pub memory_total_bytes: Option<u64>,
    /// Power drawn.
    pub power_watts: Option<f64>,
    /// Of the chip.
    pub temperature_celsius: Option<f64>,
    /// Clock of the multiprocessors.
    pub sm_clock_hertz: Option<f64>,
    /// Clock of the memory.
    pub memory_clock_hertz: Option<f64>,
    /// Corrected ECC errors since the driver was loaded.
    pub ecc_corrected: Option<u64>,
    /// Uncorrected ECC errors since the driver was loaded.
    pub ecc_uncorrected: Option<u64>,
    /// Why clocks are held down.
    pub throttle: Option<Throttle>,
    /// Xid events since the agent has watched it.
    pub xids: u64,
    /// Processes with a compute context, pids as the host counts them.
    pub processes: Vec<GpuProcess>,
    /// Why no work may be placed on it.
    pub fault: Option<String>,
}

impl Reading {
    /// A reading that tells nothing yet.
    #[must_use]
    pub fn new(uuid: GpuUuid) -> Reading {
        Reading {
            uuid,
            parent: None,
            utilization_ratio: None,
            memory_used_bytes: None,
            memory_total_bytes: None,
            power_watts: None,
            temperature_celsius: None,
            sm_clock_hertz: None,
            memory_clock_hertz: None,
            ecc_corrected: None,
            ecc_uncorrected: None,
            throttle: None,
            xids: 0,
            processes: Vec::new(),
            fault: None,
        }
    }
}

/// A process on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuProcess {
    /// As the host counts it.
    pub pid: u32,
    /// Its memory on this GPU; `None` where the driver does not tell (WDDM, some containers).
    pub memory_bytes: Option<u64>,
}

/// Why clocks are below what they could be; the reasons that mean a loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    /// The power limit.
    pub sw_power_cap: bool,
    /// The hardware's own brake: heat or power.
    pub hw_slowdown: bool,
    /// The driver's temperature limit.
    pub sw_thermal_slowdown: bool,
    /// The hardware's temperature limit.
    pub hw_thermal_slowdown: bool,
    /// The power supply asked for it.
    pub hw_power_brake_slowdown: bool,
}

impl Throttle {
    /// Each reason's name in metrics, with its state.
    #[must_use]
    pub fn reasons(self) -> [(&'static str, bool); 5] {
        [
            ("sw_power_cap", self.sw_power_cap),
            ("hw_slowdown", self.hw_slowdown),
            ("sw_thermal_slowdown", self.sw_thermal_slowdown),
            ("hw_thermal_slowdown", self.hw_thermal_slowdown),
            ("hw_power_brake_slowdown", self.hw_power_brake_slowdown),
        ]
    }
}

/// Why NVML tells nothing. Its text goes to users as the node's `gpuProblem`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuProblem {
    /// There is no such library: a machine without the driver.
    #[error("no NVIDIA driver: NVML cannot be loaded ({0})")]
    Absent(String),
    /// The library is there, but cannot be used now; tried again later.
    #[error("NVML is not ready ({0})")]
    NotReady(String),
    /// A call has not come back; no other is made until it does.
    #[error("NVML hangs: busy since {} in {call}", iso(*.since))]
    Hangs {
        /// What was asked for.
        call: &'static str,
        /// Since when.
        since: WallMs,
    },
}

/// What is wrong with the GPUs of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// With all of them.
    pub problem: Option<GpuProblem>,
    /// With single units.
    pub faults: BTreeMap<GpuUuid, String>,
}

/// Processes that hold a context on one of these units: after a task's end there must be none of its own.
///
/// # Errors
/// Why nobody can tell: the units stay reserved then.
pub fn holders(gpu: &dyn Gpu, units: &[GpuUuid]) -> Result<Vec<(GpuUuid, GpuProcess)>, GpuProblem> {
    let of_units = gpu.sample()?.into_iter().filter(|reading| units.contains(&reading.uuid));
    Ok(of_units
        .flat_map(|reading| reading.processes.into_iter().map(move |process| (reading.uuid.clone(), process)))
        .collect())
}

/// This node's GPUs: all of the machine, or the given part. Nodes of one process share one NVML thread.
///
/// # Errors
/// No thread can be started.
pub fn open(library: Option<PathBuf>, share: Option<&[String]>) -> std::io::Result<GpuHandle> {
    static OPEN: Mutex<BTreeMap<Option<PathBuf>, Weak<NvmlGpu>>> = Mutex::new(BTreeMap::new());
    // A panic while it is held leaves the map as it was.
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let machine = match open.get(&library).and_then(Weak::upgrade) {
        Some(machine) => machine,
        None => {
            let options = nvml::Options { library: library.clone(), ..nvml::Options::default() };
            let machine = Arc::new(NvmlGpu::start(options)?);
            open.insert(library, Arc::downgrade(&machine));
            machine
        }
    };
    Ok(match share {
        None => machine,
        Some(uuids) => Arc::new(Share::new(machine, uuids.iter().cloned().map(GpuUuid))),
    })
}

fn iso(at: WallMs) -> String {
    match jiff::Timestamp::from_millisecond(at.0) {
        Ok(time) => time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Err(_) => format!("{} ms after 1970", at.0),
    }
}
