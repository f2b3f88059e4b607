//! What the GPUs do, and for which task.

use std::collections::BTreeMap;

use trainyard_core::id::AttemptId;

use super::{Context, Desc, Out, Probe, Source};
use crate::gpu::Reading;

const UP: Desc = Desc::gauge("gpu_nvml_up", "1 if NVML gives numbers, 0 if not.", &[]);
const UTILIZATION: Desc =
    Desc::gauge("gpu_utilization_ratio", "Part of the time in which a kernel ran, 0 to 1.", &["gpu"]);
const MEMORY_USED: Desc = Desc::gauge("gpu_memory_used_bytes", "Memory in use, of whomever.", &["gpu"]);
const MEMORY_TOTAL: Desc = Desc::gauge("gpu_memory_total_bytes", "All memory.", &["gpu"]);
const POWER: Desc = Desc::gauge("gpu_power_watts", "Power drawn.", &["gpu"]);
const TEMPERATURE: Desc = Desc::gauge("gpu_temperature_celsius", "Temperature of the chip.", &["gpu"]);
const SM_CLOCK: Desc = Desc::gauge("gpu_sm_clock_hertz", "Clock of the multiprocessors.", &["gpu"]);
const MEMORY_CLOCK: Desc = Desc::gauge("gpu_memory_clock_hertz", "Clock of the memory.", &["gpu"]);
const ECC_CORRECTED: Desc = Desc::counter(
    "gpu_ecc_corrected_errors_total",
    "Corrected ECC errors since the driver was loaded.",
    &["gpu"],
);
const ECC_UNCORRECTED: Desc = Desc::counter(
    "gpu_ecc_uncorrected_errors_total",
    "Uncorrected ECC errors since the driver was loaded.",
    &["gpu"],
);
const XIDS: Desc =
    Desc::counter("gpu_xid_errors_total", "Xid events since the agent has watched it.", &["gpu"]);
const THROTTLED: Desc =
    Desc::gauge("gpu_throttled", "1 while clocks are held down for this reason, else 0.", &["gpu", "reason"]);
const FAULTY: Desc = Desc::gauge("gpu_faulty", "1 if no work may be placed on it, else 0.", &["gpu"]);
const PROCESS_MEMORY: Desc = Desc::gauge(
    "gpu_process_memory_used_bytes",
    "Memory of one process on one GPU; without task: it is none of ours.",
    &["gpu", "pid", "task"],
);

/// Processes told of per GPU; more than any GPU is shared by in practice.
const PROCESSES_MAX: usize = 64;

pub(super) const SOURCE: Source = Source {
    descs: &[
        &UP,
        &UTILIZATION,
        &MEMORY_USED,
        &MEMORY_TOTAL,
        &POWER,
        &TEMPERATURE,
        &SM_CLOCK,
        &MEMORY_CLOCK,
        &ECC_CORRECTED,
        &ECC_UNCORRECTED,
        &XIDS,
        &THROTTLED,
        &FAULTY,
        &PROCESS_MEMORY,
    ],
    start: || Box::new(Gpus),
};

struct Gpus;

impl Probe for Gpus {
    fn sample(&mut self, context: &Context<'_>, out: &mut Out) {
        let readings = match context.gpu.sample() {
            Ok(readings) => readings,
            Err(_the_inventory_says_why) => return out.push(&UP, &[], 0.0),
        };
        out.push(&UP, &[], 1.0);
        let mut owners = Owners::new(context);
        for reading in &readings {
            write(reading, out);
            for process in reading.processes.iter().take(PROCESSES_MAX) {
                let Some(bytes) = process.memory_bytes else { continue };
                let (pid, gpu) = (process.pid.to_string(), reading.uuid.0.as_str());
                match owners.of(process.pid) {
                    Some(attempt) => {
                        let labels = [("gpu", gpu), ("pid", &pid), ("task", &attempt.to_string())];
                        out.count(&PROCESS_MEMORY, &labels, bytes);
                    }
                    None => out.count(&PROCESS_MEMORY, &[("gpu", gpu), ("pid", &pid)], bytes),
                }
            }
        }
    }
}

fn write(reading: &Reading, out: &mut Out) {
    let gpu = [("gpu", reading.uuid.0.as_str())];
    out.push_some(&UTILIZATION, &gpu, reading.utilization_ratio);
    out.push_some(&POWER, &gpu, reading.power_watts);
    out.push_some(&TEMPERATURE, &gpu, reading.temperature_celsius);
    out.push_some(&SM_CLOCK, &gpu, reading.sm_clock_hertz);
    out.push_some(&MEMORY_CLOCK, &gpu, reading.memory_clock_hertz);
    let counts = [
        (&MEMORY_USED, reading.memory_used_bytes),
        (&MEMORY_TOTAL, reading.memory_total_bytes),
        (&ECC_CORRECTED, reading.ecc_corrected),
        (&ECC_UNCORRECTED, reading.ecc_uncorrected),
    ];
    for (desc, count) in counts {
        if let Some(count) = count {
            out.count(desc, &gpu, count);
        }
    }
    if reading.parent.is_none() {
        out.count(&XIDS, &gpu, reading.xids);
    }
    out.push(&FAULTY, &gpu, f64::from(u8::from(reading.fault.is_some())));
    for (reason, active) in reading.throttle.into_iter().flat_map(crate::gpu::Throttle::reasons) {
        out.push(&THROTTLED, &[("gpu", &reading.uuid.0), ("reason", reason)], f64::from(u8::from(active)));
    }
}

/// Whose process a pid is; made once a round, and only if a GPU has a process.
struct Owners<'a> {
    context: &'a Context<'a>,
    by_pid: Option<BTreeMap<u32, AttemptId>>,
}

impl<'a> Owners<'a> {
    fn new(context: &'a Context<'a>) -> Owners<'a> {
        Owners { context, by_pid: None }
    }

    fn of(&mut self, pid: u32) -> Option<AttemptId> {
        let running = self.context.running;
        let by_pid = self.by_pid.get_or_insert_with(|| {
            running.iter().flat_map(|task| task.pids.iter().map(|pid| (*pid, task.attempt))).collect()
        });
        by_pid.get(&pid).copied().or_else(|| self.context.tasks.attempt_of(pid))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use trainyard_core::id::{AttemptId, GangNo, JobId, Rank};
    use trainyard_core::unit::GpuUuid;

    use super::*;
    use crate::gpu::fake::Fake;
    use crate::gpu::{GpuProblem, GpuProcess, Throttle};
    use crate::metric::{RunningTask, Tasks};

    /// One task, whose child was started after the round had begun.
    struct OneTask;

    const ATTEMPT: AttemptId = AttemptId { job: JobId(7), gang: GangNo(1), rank: Rank(0) };

    impl Tasks for OneTask {
        fn running(&self) -> Vec<RunningTask> {
            vec![RunningTask { attempt: ATTEMPT, pids: vec![100, 101], cgroups: Vec::new() }]
        }
    }

    fn sample(fake: &Fake) -> Out {
        let early = vec![RunningTask { attempt: ATTEMPT, pids: vec![100], cgroups: Vec::new() }];
        let context = Context { gpu: fake, running: &early, tasks: &OneTask, root: Path::new("/") };
        let mut out = Out::default();
        Gpus.sample(&context, &mut out);
        out
    }

    #[test]
    fn memory_of_processes_is_matched_to_tasks() {
        let fake = Fake::with_gpus(1);
        let mut reading = Reading::new(GpuUuid("GPU-fake-0".into()));
        let process = |pid, memory_bytes| GpuProcess { pid, memory_bytes };
        reading.processes =
            vec![process(100, Some(10)), process(101, Some(20)), process(9, Some(30)), process(8, None)];
        fake.set_readings(vec![reading]);
        let out = sample(&fake);
        let memory = |labels: &[(&str, &str)]| out.value("gpu_process_memory_used_bytes", labels);
        assert_eq!(memory(&[("gpu", "GPU-fake-0"), ("pid", "100"), ("task", "7.1.0")]), Some(10.0));
        assert_eq!(memory(&[("gpu", "GPU-fake-0"), ("pid", "101"), ("task", "7.1.0")]), Some(20.0));
        assert_eq!(memory(&[("gpu", "GPU-fake-0"), ("pid", "9")]), Some(30.0));
        assert_eq!(memory(&[("gpu", "GPU-fake-0"), ("pid", "8")]), None);
    }

    #[test]
    fn what_a_gpu_tells_is_written_and_no_more() {
        let fake = Fake::with_gpus(2);
        let mut reading = Reading::new(GpuUuid("GPU-fake-0".into()));
        reading.utilization_ratio = Some(0.5);
        reading.ecc_uncorrected = Some(2);
        reading.fault = Some("broken".to_owned());
        reading.throttle = Some(Throttle { hw_slowdown: true, ..Throttle::default() });
        fake.set_readings(vec![reading]);
        let out = sample(&fake);
        let gpu = [("gpu", "GPU-fake-0")];
        assert_eq!(out.value("gpu_nvml_up", &[]), Some(1.0));
        assert_eq!(out.value("gpu_utilization_ratio", &gpu), Some(0.5));
        assert_eq!(out.value("gpu_ecc_uncorrected_errors_total", &gpu), Some(2.0));
        assert_eq!(out.value("gpu_faulty", &gpu), Some(1.0));
        assert_eq!(out.value("gpu_throttled", &[gpu[0], ("reason", "hw_slowdown")]), Some(1.0));
        assert_eq!(out.value("gpu_throttled", &[gpu[0], ("reason", "sw_power_cap")]), Some(0.0));
        assert_eq!(out.value("gpu_power_watts", &gpu), None);
        assert_eq!(out.value("gpu_ecc_corrected_errors_total", &gpu), None);
    }

    #[test]
    fn without_numbers_it_says_so() {
        let fake = Fake::with_gpus(1);
        fake.set_problem(Some(GpuProblem::NotReady("x".to_owned())));
        let out = sample(&fake);
        assert_eq!(out.value("gpu_nvml_up", &[]), Some(0.0));
        assert_eq!(out.samples.len(), 1);
    }
}
