//! Questions to a loaded NVML, one device after the other. Runs on NVML's thread only.
//!
//! A question that a device does not support gives `None`, never a failure of the whole; a lost device
//! becomes a fault of that device, and stays listed under its UUID.

use std::collections::{BTreeMap, BTreeSet};

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::event::EventSet;
use nvml_wrapper::{Device, Nvml, cuda_driver_version_major, cuda_driver_version_minor};
use trainyard_core::unit::GpuUuid;

use super::{GpuProcess, Listing, Reading, Throttle, Unit, fault};

/// NVML's own constant: more links than any GPU has.
const NVLINKS_MAX: u32 = 18;
/// Events taken from one device at a time: a storm must not hold up the thread.
const EVENTS_MAX: usize = 64;

/// NVML must be started anew.
pub(super) struct Lost(pub(super) NvmlError);

/// What is known while one library is loaded; faults are forgotten with it.
pub(super) struct Session<'n> {
    nvml: &'n Nvml,
    driver_version: String,
    cuda_version: String,
    devices: Vec<Known<'n>>,
    events: BTreeMap<GpuUuid, EventSet<'n>>,
    faults: BTreeMap<GpuUuid, String>,
    xids: BTreeMap<GpuUuid, u64>,
    /// A handle was refused: devices were cut anew, so list first.
    stale: bool,
}

struct Known<'n> {
    device: Device<'n>,
    unit: Unit,
    /// False for a GPU whose MIG devices are listed in its stead.
    placeable: bool,
}

impl<'n> Session<'n> {
    pub(super) fn new(nvml: &'n Nvml) -> Session<'n> {
        let cuda = nvml.sys_cuda_driver_version();
        Session {
            nvml,
            driver_version: nvml.sys_driver_version().unwrap_or_default(),
            cuda_version: cuda
                .map(|v| format!("{}.{}", cuda_driver_version_major(v), cuda_driver_version_minor(v)))
                .unwrap_or_default(),
            devices: Vec::new(),
            events: BTreeMap::new(),
            faults: BTreeMap::new(),
            xids: BTreeMap::new(),
            stale: false,
        }
    }

    /// What was last found, with the faults as of now.
    pub(super) fn listing(&self) -> Listing {
        let gpus = self.devices.iter().filter(|known| known.placeable).map(|known| {
            let mut unit = known.unit.clone();
            if let Some(fault) = self.fault_of(&unit) {
                unit.fault = Some(fault.to_owned());
            }
            unit
        });
        Listing {
            gpus: gpus.collect(),
            driver_version: self.driver_version.clone(),
            cuda_version: self.cuda_version.clone(),
            problem: None,
        }
    }

    /// Finds all devices anew.
    pub(super) fn list(&mut self) -> Result<(), Lost> {
        self.stale = false;
        let count = self.nvml.device_count().map_err(Lost)?;
        let mut gpus = Vec::new();
        for index in 0..count {
            match self.nvml.device_by_index(index).and_then(|device| Ok((device.uuid()?, device))) {
                Ok((uuid, device)) => {
                    gpus.push(Known { unit: unit_of(&device, uuid, None), device, placeable: true })
                }
                Err(error) if must_restart(&error) => return Err(Lost(error)),
                // Its UUID is not to be had: if it was known, it is found missing below.
                Err(error) => tracing::warn!("GPU at index {index} does not answer: {error}"),
            }
        }
        self.keep_missing(&mut gpus);
        gpus.sort_by(|a, b| a.unit.pci_bus_id.cmp(&b.unit.pci_bus_id));
        self.devices = gpus.into_iter().flat_map(with_instances).collect();
        self.watch_events();
        Ok(())
    }

    /// A GPU that was there and is not found now is lost, not gone.
    fn keep_missing(&mut self, gpus: &mut Vec<Known<'n>>) {
        let found: BTreeSet<GpuUuid> = gpus.iter().map(|known| known.unit.uuid.clone()).collect();
        for mut known in self.devices.drain(..) {
            if known.unit.parent.is_none() && !found.contains(&known.unit.uuid) {
                self.faults.entry(known.unit.uuid.clone()).or_insert_with(|| fault::LOST.to_owned());
                known.placeable = true;
                gpus.push(known);
            }
        }
    }

    fn watch_events(&mut self) {
        let wanted = EventTypes::CRITICAL_XID_ERROR | EventTypes::DOUBLE_BIT_ECC_ERROR;
        for known in &self.devices {
            let uuid = &known.unit.uuid;
            if known.unit.parent.is_some() || self.events.contains_key(uuid) {
                continue;
            }
            let types = known.device.supported_event_types().unwrap_or(EventTypes::empty()) & wanted;
            if types.is_empty() {
                continue;
            }
            // A set per device: one that refuses does not blind the others.
            let set = self.nvml.create_event_set();
            match set
                .and_then(|set| known.device.register_events(types, set).map_err(|refused| refused.error))
            {
                Ok(set) => drop(self.events.insert(uuid.clone(), set)),
                Err(error) => tracing::warn!("no Xid events of {uuid}: {error}"),
            }
        }
    }

    /// Takes the events that have come; waits for none.
    pub(super) fn drain_events(&mut self) {
        for (uuid, set) in &self.events {
            for _ in 0..EVENTS_MAX {
                let event = match set.wait(0) {
                    Ok(event) => event,
                    Err(NvmlError::GpuLost) => {
                        self.faults.entry(uuid.clone()).or_insert_with(|| fault::LOST.to_owned());
                        break;
                    }
                    // Timeout: there is none. Any other error is seen again by the next question.
                    Err(_none) => break,
                };
                let number = match event.event_data {
                    Some(XidError::Value(number)) => Some(number),
                    Some(XidError::Unknown) | None => None,
                };
                *self.xids.entry(uuid.clone()).or_default() += u64::from(event.event_data.is_some());
                let found = if event.event_type.contains(EventTypes::DOUBLE_BIT_ECC_ERROR) {
                    Some(fault::DOUBLE_BIT_ECC.to_owned())
                } else {
                    number.and_then(fault::of_xid)
                };
                match found {
                    Some(text) => {
                        tracing::error!("{uuid}: {text}");
                        self.faults.entry(uuid.clone()).or_insert(text);
                    }
                    None => tracing::info!("{uuid}: Xid {number:?}: a program's error"),
                }
            }
        }
    }

    /// What each device does now.
    pub(super) fn sample(&mut self) -> Result<Vec<Reading>, Lost> {
        if self.stale {
            self.list()?;
        }
        let mut readings = Vec::with_capacity(self.devices.len());
        let mut faults = Vec::new();
        for known in &self.devices {
            let mut answers = Answers::default();
            let mut reading = reading_of(known, &mut answers);
            if let Some(error) = answers.restart {
                return Err(Lost(error));
            }
            self.stale |= answers.stale;
            if let Some(text) = answers.fault {
                let gpu = known.unit.parent.as_ref().unwrap_or(&known.unit.uuid);
                faults.push((gpu.clone(), text));
            }
            reading.xids = self.xids.get(&known.unit.uuid).copied().unwrap_or(0);
            readings.push(reading);
        }
        for (uuid, text) in faults {
            self.faults.entry(uuid).or_insert_with(|| text.to_owned());
        }
        for (reading, known) in readings.iter_mut().zip(&self.devices) {
            reading.fault =
                self.fault_of(&known.unit).map(str::to_owned).or_else(|| known.unit.fault.clone());
        }
        Ok(readings)
    }

    fn fault_of(&self, unit: &Unit) -> Option<&str> {
        self.faults.get(unit.parent.as_ref().unwrap_or(&unit.uuid)).map(String::as_str)
    }
}

/// A GPU, or instead of it its MIG devices; then it stays for its power and temperature.
fn with_instances(mut gpu: Known<'_>) -> Vec<Known<'_>> {
    if !gpu.unit.mig_enabled {
        return vec![gpu];
    }
    let slots = gpu.device.mig_device_count().unwrap_or(0);
    let instances: Vec<Known<'_>> = (0..slots)
        .filter_map(|slot| {
            // An empty slot answers `NotFound`.
            let device = gpu.device.mig_device_by_index(slot).ok()?;
            let unit = unit_of(&device, device.uuid().ok()?, Some(&gpu.unit));
            Some(Known { device, unit, placeable: true })
        })
        .collect();
    if instances.is_empty() {
        gpu.unit.fault = Some(fault::MIG_WITHOUT_INSTANCES.to_owned());
    } else {
        gpu.placeable = false;
    }
    let mut all = vec![gpu];
    all.extend(instances);
    all
}

fn unit_of(device: &Device<'_>, uuid: String, parent: Option<&Unit>) -> Unit {
    let capability = |device: &Device<'_>| device.cuda_compute_capability();
    let active = |link: &u32| device.link_wrapper_for(*link).is_active().unwrap_or(false);
    Unit {
        uuid: GpuUuid(uuid),
        parent: parent.map(|gpu| gpu.uuid.clone()),
        name: device.name().unwrap_or_default(),
        memory_bytes: device.memory_info().map(|memory| memory.total).unwrap_or_default(),
        compute_capability: match parent {
            Some(gpu) => gpu.compute_capability.clone(),
            None => capability(device).map(|c| format!("{}.{}", c.major, c.minor)).unwrap_or_default(),
        },
        pci_bus_id: match parent {
            Some(gpu) => gpu.pci_bus_id.clone(),
            None => device.pci_info().map(|pci| pci.bus_id).unwrap_or_default(),
        },
        mig_enabled: parent.is_some() || device.mig_mode().is_ok_and(|mode| mode.current == 1),
        nvlinks: match parent {
            Some(_) => 0,
            None => u32::try_from((0..NVLINKS_MAX).filter(active).count()).unwrap_or(0),
        },
        fault: None,
    }
}

fn reading_of(known: &Known<'_>, answers: &mut Answers) -> Reading {
    let device = &known.device;
    let mut reading = Reading::new(known.unit.uuid.clone());
    reading.parent.clone_from(&known.unit.parent);
    if let Some(memory) = answers.take(device.memory_info()) {
        reading.memory_used_bytes = Some(memory.used);
        reading.memory_total_bytes = Some(memory.total);
    }
    // Under MIG each process is told by the device that it runs on.
    if known.placeable {
        let process = |p: nvml_wrapper::struct_wrappers::device::ProcessInfo| GpuProcess {
            pid: p.pid,
            memory_bytes: match p.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            },
        };
        reading.processes = answers
            .take(device.running_compute_processes())
            .unwrap_or_default()
            .into_iter()
            .map(process)
            .collect();
    }
    if known.unit.parent.is_some() {
        return reading;
    }
    reading.utilization_ratio =
        answers.take(device.utilization_rates()).map(|rates| f64::from(rates.gpu) / 100.0);
    reading.power_watts = answers.take(device.power_usage()).map(|milliwatts| f64::from(milliwatts) / 1000.0);
    reading.temperature_celsius = answers.take(device.temperature(TemperatureSensor::Gpu)).map(f64::from);
    let hertz = |megahertz: u32| f64::from(megahertz) * 1e6;
    reading.sm_clock_hertz = answers.take(device.clock_info(Clock::SM)).map(hertz);
    reading.memory_clock_hertz = answers.take(device.clock_info(Clock::Memory)).map(hertz);
    reading.ecc_corrected =
        answers.take(device.total_ecc_errors(MemoryError::Corrected, EccCounter::Volatile));
    reading.ecc_uncorrected =
        answers.take(device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile));
    reading.throttle = answers.take(device.current_throttle_reasons()).map(|reasons| Throttle {
        sw_power_cap: reasons.contains(ThrottleReasons::SW_POWER_CAP),
        hw_slowdown: reasons.contains(ThrottleReasons::HW_SLOWDOWN),
        sw_thermal_slowdown: reasons.contains(ThrottleReasons::SW_THERMAL_SLOWDOWN),
        hw_thermal_slowdown: reasons.contains(ThrottleReasons::HW_THERMAL_SLOWDOWN),
        hw_power_brake_slowdown: reasons.contains(ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN),
    });
    reading
}

/// What the errors of one device's answers mean; an unsupported question means nothing.
#[derive(Default)]
struct Answers {
    fault: Option<&'static str>,
    stale: bool,
    restart: Option<NvmlError>,
}

impl Answers {
    fn take<T>(&mut self, answer: Result<T, NvmlError>) -> Option<T> {
        match answer {
            Ok(value) => return Some(value),
            Err(NvmlError::GpuLost) => self.fault = Some(fault::LOST),
            Err(NvmlError::ResetRequired) => self.fault = Some(fault::RESET_REQUIRED),
            Err(NvmlError::InvalidArg | NvmlError::NotFound) => self.stale = true,
            Err(error) if must_restart(&error) => self.restart = Some(error),
            Err(_unsupported) => {}
        }
        None
    }
}

/// The driver was unloaded or replaced under us.
fn must_restart(error: &NvmlError) -> bool {
    matches!(error, NvmlError::Uninitialized | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch)
}
