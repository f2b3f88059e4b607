//! NVML's thread over the fake library: the real loader, the real bindings, numbers out of a file.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use trainyard_core::unit::GpuUuid;

use super::nvml::{NvmlGpu, Options};
use super::{Gpu, GpuProblem, holders, open};

/// The library, compiled once a run.
fn compiled() -> &'static Path {
    static LIBRARY: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, library) = LIBRARY.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let library = directory.path().join("libfake-nvml.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/fake-nvml/fake_nvml.c");
        let mut cc = Command::new("cc");
        cc.args(["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .args([source, "-ldl"]);
        assert!(cc.status().expect("rustc needs cc too").success());
        (directory, library)
    });
    library
}

/// A machine of its own: its copy of the library has its own state and file.
struct Machine {
    directory: TempDir,
}

impl Machine {
    fn new(scene: Value) -> Machine {
        let machine = Machine { directory: tempfile::tempdir().unwrap() };
        std::fs::copy(compiled(), machine.library()).unwrap();
        machine.set(scene);
        machine
    }

    fn library(&self) -> PathBuf {
        self.directory.path().join("libnvidia-ml.so.1")
    }

    fn set(&self, scene: Value) {
        let beside = self.directory.path().join("next");
        std::fs::write(&beside, serde_json::to_vec_pretty(&scene).unwrap()).unwrap();
        std::fs::rename(&beside, self.directory.path().join("libnvidia-ml.so.1.json")).unwrap();
    }

    fn start(&self) -> NvmlGpu {
        self.start_with(Options { deadline: Duration::from_secs(60), ..Options::default() })
    }

    fn start_with(&self, options: Options) -> NvmlGpu {
        NvmlGpu::start(Options { library: Some(self.library()), retry: Duration::ZERO, ..options }).unwrap()
    }
}

fn gpu(index: u32) -> Value {
    json!({
        "uuid": format!("GPU-{index}"), "name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0",
        "memory": 85_899_345_920u64, "memory_used": 1_073_741_824u64, "utilisation": 37,
        "power": 312.5, "temperature": 61, "sm_clock": 1980, "memory_clock": 2619,
        "ecc_corrected": 3, "ecc_uncorrected": 0, "throttle_reasons": 4 | 64, "nvlinks": 18,
        "processes": [{"pid": 4242, "memory": 536_870_912}, {"pid": 4243}],
    })
}

fn uuids(gpu: &dyn Gpu) -> Vec<String> {
    gpu.list().gpus.into_iter().map(|unit| unit.uuid.0).collect()
}

#[test]
fn lists_what_the_driver_shows_in_pci_order() {
    let mut late = gpu(0);
    late["pci_bus_id"] = json!("00000000:C1:00.0");
    let machine =
        Machine::new(json!({"gpus": [late, gpu(1)], "driver_version": "535.1", "cuda_version": 12020}));
    let nvml = machine.start();
    let listing = nvml.list();
    assert_eq!(listing.problem, None);
    assert_eq!((listing.driver_version.as_str(), listing.cuda_version.as_str()), ("535.1", "12.2"));
    assert_eq!(uuids(&nvml), ["GPU-1", "GPU-0"]);
    let unit = &listing.gpus[0];
    assert_eq!(unit.name, "NVIDIA H100 80GB HBM3");
    assert_eq!(unit.memory_bytes, 85_899_345_920);
    assert_eq!(unit.compute_capability, "9.0");
    assert_eq!(unit.pci_bus_id, "00000000:02:00.0");
    assert_eq!((unit.mig_enabled, unit.nvlinks, &unit.fault), (false, 18, &None));
}

#[test]
fn samples_follow_the_driver() {
    let machine = Machine::new(json!({"gpus": [gpu(0)]}));
    let nvml = machine.start();
    let reading = &nvml.sample().unwrap()[0];
    assert_eq!(reading.uuid.0, "GPU-0");
    assert_eq!(reading.utilization_ratio, Some(0.37));
    assert_eq!(reading.memory_used_bytes, Some(1 << 30));
    assert_eq!(reading.memory_total_bytes, Some(80 << 30));
    assert_eq!(reading.power_watts, Some(312.5));
    assert_eq!(reading.temperature_celsius, Some(61.0));
    assert_eq!(reading.sm_clock_hertz, Some(1.98e9));
    assert_eq!(reading.memory_clock_hertz, Some(2.619e9));
    assert_eq!((reading.ecc_corrected, reading.ecc_uncorrected), (Some(3), Some(0)));
    let active: Vec<&str> =
        reading.throttle.unwrap().reasons().into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect();
    assert_eq!(active, ["sw_power_cap", "hw_thermal_slowdown"]);
    let processes: Vec<(u32, Option<u64>)> =
        reading.processes.iter().map(|p| (p.pid, p.memory_bytes)).collect();
    assert_eq!(processes, [(4242, Some(512 << 20)), (4243, None)]);

    let mut busy = gpu(0);
    busy["utilisation"] = json!(100);
    busy["processes"] = json!([]);
    machine.set(json!({"gpus": [busy]}));
    let reading = &nvml.sample().unwrap()[0];
    assert_eq!(reading.utilization_ratio, Some(1.0));
    assert_eq!(reading.processes, []);
    assert_eq!(holders(&nvml, &[GpuUuid("GPU-0".into())]).unwrap(), []);
}

#[test]
fn what_a_device_does_not_support_is_left_out() {
    let machine = Machine::new(json!({"gpus": [{"uuid": "GPU-old"}]}));
    let nvml = machine.start();
    let reading = &nvml.sample().unwrap()[0];
    assert_eq!(reading.utilization_ratio, None);
    assert_eq!(reading.power_watts, None);
    assert_eq!(reading.throttle, None);
    assert_eq!(nvml.list().gpus[0].nvlinks, 0);
    assert_eq!(nvml.health(), crate::gpu::Health::default());
}

#[test]
fn without_the_library_the_problem_is_said_in_words() {
    let nowhere = tempfile::tempdir().unwrap().path().join("libnvidia-ml.so.1");
    let nvml = NvmlGpu::start(Options { library: Some(nowhere), ..Options::default() }).unwrap();
    let listing = nvml.list();
    assert!(listing.gpus.is_empty());
    let problem = listing.problem.unwrap();
    assert!(matches!(problem, GpuProblem::Absent(_)), "{problem:?}");
    assert!(problem.to_string().starts_with("no NVIDIA driver: NVML cannot be loaded ("), "{problem}");
    assert_eq!(nvml.sample(), Err(problem.clone()));
    assert_eq!(nvml.health().problem, Some(problem));
}

#[test]
fn a_driver_that_becomes_ready_is_found() {
    let machine = Machine::new(json!({"init_fails": true, "gpus": [gpu(0)]}));
    let nvml = machine.start();
    assert!(matches!(nvml.list().problem, Some(GpuProblem::NotReady(_))));
    machine.set(json!({"gpus": [gpu(0)]}));
    // The first question is still answered out of the failed start, the second after a new one.
    drop(nvml.list());
    assert_eq!(nvml.list().problem, None);
    assert_eq!(uuids(&nvml), ["GPU-0"]);
}

#[test]
fn a_reloaded_driver_is_started_anew() {
    let machine = Machine::new(json!({"gpus": [gpu(0)]}));
    let nvml = machine.start();
    assert_eq!(uuids(&nvml), ["GPU-0"]);
    machine.set(json!({"gpus": [gpu(0)], "unloaded": true}));
    assert!(nvml.sample().is_err());
    // What was known stays listed; nothing may be placed on it.
    let listing = nvml.list();
    assert!(listing.problem.is_some());
    assert!(listing.gpus[0].fault.as_deref().unwrap().starts_with("unknown: NVML is not ready"));
    machine.set(json!({"gpus": [gpu(0), gpu(1)]}));
    drop(nvml.list());
    assert_eq!(uuids(&nvml), ["GPU-0", "GPU-1"]);
}

#[test]
fn a_lost_gpu_is_a_fault_of_that_gpu_only() {
    let machine = Machine::new(json!({"gpus": [gpu(0), gpu(1)]}));
    let nvml = machine.start();
    assert_eq!(uuids(&nvml), ["GPU-0", "GPU-1"]);
    let changes = nvml.changes();
    let before = *changes.borrow();
    let mut lost = gpu(0);
    lost["lost"] = json!(true);
    machine.set(json!({"gpus": [lost, gpu(1)]}));

    let readings = nvml.sample().unwrap();
    assert!(readings[0].fault.as_deref().unwrap().contains("lost"), "{:?}", readings[0].fault);
    assert_eq!(readings[1].fault, None);
    assert_eq!(readings[1].utilization_ratio, Some(0.37));
    assert!(*changes.borrow() > before);
    assert_eq!(nvml.health().faults.keys().map(|uuid| uuid.0.as_str()).collect::<Vec<_>>(), ["GPU-0"]);

    // It stays listed under its UUID, although NVML no longer gives it a handle.
    let listing = nvml.list();
    assert_eq!(listing.gpus.len(), 2);
    assert!(listing.gpus[0].fault.as_deref().unwrap().contains("lost"));
    assert_eq!(listing.gpus[1].fault, None);
    assert_eq!(listing.problem, None);
}

#[test]
fn a_critical_xid_is_a_fault_and_a_programs_xid_is_not() {
    let machine = Machine::new(json!({"gpus": [gpu(0), gpu(1)]}));
    let nvml = machine.start();
    assert_eq!(uuids(&nvml), ["GPU-0", "GPU-1"]);
    let (mut broken, mut misused) = (gpu(0), gpu(1));
    broken["xid"] = json!(79);
    misused["xid"] = json!(31);
    machine.set(json!({"gpus": [broken, misused]}));

    let readings = nvml.sample().unwrap();
    assert_eq!(
        readings[0].fault.as_deref(),
        Some("Xid 79: the GPU has fallen off the bus (reboot the node)")
    );
    assert_eq!(readings[1].fault, None);
    assert_eq!((readings[0].xids, readings[1].xids), (1, 1));
    assert_eq!(nvml.health().faults.len(), 1);
    // A fault does not heal by itself.
    machine.set(json!({"gpus": [gpu(0), gpu(1)]}));
    assert!(nvml.list().gpus[0].fault.is_some());
}

#[test]
fn events_are_seen_without_a_request() {
    let machine = Machine::new(json!({"gpus": [gpu(0)]}));
    let options = Options { events: Duration::from_millis(1), ..Options::default() };
    let nvml = machine.start_with(Options { deadline: Duration::from_secs(60), ..options });
    assert_eq!(uuids(&nvml), ["GPU-0"]);
    let mut changes = nvml.changes();
    changes.mark_unchanged();
    let mut broken = gpu(0);
    broken["xid"] = json!(48);
    machine.set(json!({"gpus": [broken]}));
    block_on(async { changes.changed().await.unwrap() });
    assert!(nvml.health().faults[&GpuUuid("GPU-0".into())].starts_with("Xid 48: "));
}

#[test]
fn a_hanging_driver_makes_gpus_unknown_and_blocks_nobody() {
    let machine = Machine::new(json!({"gpus": [gpu(0)]}));
    let nvml = machine.start_with(Options { deadline: Duration::from_millis(50), ..Options::default() });
    // The machine is loaded: the first answers may take longer than the tight deadline.
    while nvml.list().gpus.is_empty() || nvml.health().problem.is_some() {}
    machine.set(json!({"gpus": [gpu(0)], "hang_ms": 600_000}));
    let hangs = |problem: &GpuProblem| matches!(problem, GpuProblem::Hangs { .. });
    // On a loaded machine the thread may not even have begun within the first deadlines.
    let problem = (0..100).find_map(|_| nvml.sample().err().filter(hangs)).unwrap();
    assert!(problem.to_string().starts_with("NVML hangs: busy since "), "{problem}");

    // Later callers get the same answer, out of the same call: nothing is stacked up.
    for _ in 0..100 {
        assert_eq!(nvml.sample(), Err(problem.clone()));
    }
    let listing = nvml.list();
    assert_eq!(listing.problem, Some(problem.clone()));
    assert_eq!(listing.gpus.len(), 1);
    assert_eq!(listing.gpus[0].fault, Some(format!("unknown: {problem}")));
    assert_eq!(nvml.health().problem, Some(problem));

    let mut changes = nvml.changes();
    machine.set(json!({"gpus": [gpu(0)]}));
    block_on(async {
        while nvml.health().problem.is_some() {
            changes.changed().await.unwrap();
        }
    });
    assert_eq!(nvml.health(), crate::gpu::Health::default());
    assert_eq!(nvml.list().gpus[0].uuid.0, "GPU-0");
}

#[test]
fn local_nodes_share_one_machine() {
    let machine = Machine::new(json!({"gpus": [gpu(0), gpu(1)]}));
    let all = open(Some(machine.library()), None).unwrap();
    let second = open(Some(machine.library()), Some(&["GPU-1".to_owned()])).unwrap();
    assert_eq!(uuids(&*all), ["GPU-0", "GPU-1"]);
    assert_eq!(uuids(&*second), ["GPU-1"]);
    // What one of them finds wrong is known to the other: it is the same thread.
    let mut broken = gpu(1);
    broken["xid"] = json!(79);
    machine.set(json!({"gpus": [gpu(0), broken]}));
    drop(all.list());
    assert_eq!(second.health().faults.len(), 1);
}

#[test]
fn mig_devices_are_units_of_their_own() {
    let mut cut = gpu(0);
    cut["mig_enabled"] = json!(true);
    cut["mig"] = json!([
        {"uuid": "MIG-a", "memory": 10u64 << 30, "memory_used": 1 << 20, "processes": [{"pid": 7, "memory": 1 << 20}]},
        {"uuid": "MIG-b", "memory": 10u64 << 30, "memory_used": 0},
    ]);
    let machine = Machine::new(json!({"gpus": [cut.clone(), gpu(1)]}));
    let nvml = machine.start();
    let listing = nvml.list();
    let listed: Vec<(&str, bool)> = listing.gpus.iter().map(|u| (u.uuid.0.as_str(), u.mig_enabled)).collect();
    assert_eq!(listed, [("MIG-a", true), ("MIG-b", true), ("GPU-1", false)]);
    assert_eq!(listing.gpus[0].memory_bytes, 10 << 30);
    assert_eq!(listing.gpus[0].pci_bus_id, "00000000:01:00.0");

    let readings = nvml.sample().unwrap();
    let of = |uuid: &str| readings.iter().find(|reading| reading.uuid.0 == uuid).unwrap();
    assert_eq!(of("MIG-a").memory_used_bytes, Some(1 << 20));
    assert_eq!(of("MIG-a").processes.len(), 1);
    assert_eq!(of("MIG-a").power_watts, None);
    assert_eq!(of("GPU-0").power_watts, Some(312.5));
    assert_eq!(of("GPU-0").processes, []);

    // An Xid of the GPU is a fault of each of its parts.
    cut["xid"] = json!(95);
    machine.set(json!({"gpus": [cut, gpu(1)]}));
    nvml.sample().unwrap();
    let faulty: Vec<String> = nvml.health().faults.into_keys().map(|uuid| uuid.0).collect();
    assert_eq!(faulty, ["MIG-a", "MIG-b"]);

    // Without devices there is nothing to place on.
    let mut uncut = gpu(1);
    uncut["mig_enabled"] = json!(true);
    machine.set(json!({"gpus": [gpu(0), uncut]}));
    let listing = nvml.list();
    assert!(listing.gpus[1].fault.as_deref().unwrap().contains("no MIG device"));
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}
