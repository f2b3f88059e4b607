//! GPUs that exist only here, for tests of what stands above NVML. They fail on demand.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use trainyard_core::unit::GpuUuid;

use super::{Gpu, GpuProblem, Health, Listing, Reading, Unit};

/// GPUs named `GPU-fake-0`, `GPU-fake-1`, ...
pub struct Fake {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

struct State {
    listing: Listing,
    readings: Vec<Reading>,
}

impl Fake {
    /// A machine with so many GPUs of 16 GiB.
    #[must_use]
    pub fn with_gpus(count: u32) -> Fake {
        let unit = |index: u32| Unit {
            uuid: GpuUuid(format!("GPU-fake-{index}")),
            parent: None,
            name: "Fake GPU".to_owned(),
            memory_bytes: 16 << 30,
            compute_capability: "9.0".to_owned(),
            pci_bus_id: format!("00000000:{:02X}:00.0", index + 1),
            mig_enabled: false,
            nvlinks: 0,
            fault: None,
        };
        let gpus: Vec<Unit> = (0..count).map(unit).collect();
        let readings = gpus.iter().map(|unit| Reading::new(unit.uuid.clone())).collect();
        let listing = Listing {
            gpus,
            driver_version: "550.54.15".to_owned(),
            cuda_version: "12.4".to_owned(),
            problem: None,
        };
        Fake { state: Mutex::new(State { listing, readings }), changes: watch::Sender::new(0) }
    }

    /// A machine without a driver.
    #[must_use]
    pub fn absent() -> Fake {
        let fake = Fake::with_gpus(0);
        fake.set_problem(Some(GpuProblem::Absent("no such file".to_owned())));
        fake
    }

    /// From now on NVML tells nothing, for this reason; `None`: it works again.
    pub fn set_problem(&self, problem: Option<GpuProblem>) {
        self.state().listing.problem = problem;
        self.changed();
    }

    /// Marks one GPU as faulty.
    pub fn set_fault(&self, uuid: &str, fault: &str) {
        for unit in &mut self.state().listing.gpus {
            if unit.uuid.0 == uuid {
                unit.fault = Some(fault.to_owned());
            }
        }
        self.changed();
    }

    /// What the next samples say.
    pub fn set_readings(&self, readings: Vec<Reading>) {
        self.state().readings = readings;
    }

    fn changed(&self) {
        self.changes.send_modify(|number| *number += 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gpu for Fake {
    fn list(&self) -> Listing {
        self.state().listing.clone()
    }

    fn sample(&self) -> Result<Vec<Reading>, GpuProblem> {
        let state = self.state();
        match &state.listing.problem {
            Some(problem) => Err(problem.clone()),
            None => Ok(state.readings.clone()),
        }
    }

    fn health(&self) -> Health {
        let state = self.state();
        let fault = |unit: &Unit| unit.fault.clone().map(|fault| (unit.uuid.clone(), fault));
        Health {
            problem: state.listing.problem.clone(),
            faults: state.listing.gpus.iter().filter_map(fault).collect(),
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
