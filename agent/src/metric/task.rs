//! What each task uses: from its cgroup (v2 or v1), and what that does not tell from its processes.
//!
//! Sources: the kernel's `admin-guide/cgroup-v2`, `admin-guide/cgroup-v1/*`, proc(5). Counters of a task
//! never go back, although a process that ends takes its own with it.

use std::collections::BTreeMap;
use std::path::Path;

use trainyard_core::id::AttemptId;

use super::procfile::{field, keyed, lines, read_into};
use super::{Context, Desc, Out, Probe, RunningTask, Source};

const CPU: Desc =
    Desc::counter("task_cpu_seconds_total", "Processor time used, by all processes together.", &["task"]);
const MEMORY: Desc =
    Desc::gauge("task_memory_resident_bytes", "Memory of its own that is not on disk.", &["task"]);
const THREADS: Desc = Desc::gauge("task_threads", "Threads of all processes.", &["task"]);
const READ: Desc = Desc::counter("task_io_read_bytes_total", "Bytes read from disks.", &["task"]);
const WRITTEN: Desc = Desc::counter("task_io_written_bytes_total", "Bytes written to disks.", &["task"]);

pub(super) const SOURCE: Source = Source {
    descs: &[&CPU, &MEMORY, &THREADS, &READ, &WRITTEN],
    start: || {
        Box::new(TaskUse {
            proc: "/proc".into(),
            highest: BTreeMap::new(),
            buffer: Vec::new(),
            units: Units::of_system(),
        })
    },
};

struct TaskUse {
    /// `/proc`; another directory in tests.
    proc: std::path::PathBuf,
    /// Per task: processor seconds, bytes read, bytes written.
    highest: BTreeMap<AttemptId, [f64; 3]>,
    buffer: Vec<u8>,
    units: Units,
}

impl Probe for TaskUse {
    fn sample(&mut self, context: &Context<'_>, out: &mut Out) {
        self.highest.retain(|attempt, _| context.running.iter().any(|task| task.attempt == *attempt));
        for task in context.running {
            let mut used = self.of_cgroup(task);
            if !used.is_complete() {
                used = used.or(self.of_processes(task));
            }
            let highest = self.highest.entry(task.attempt).or_default();
            let counters = [used.cpu_seconds, used.read_bytes, used.written_bytes];
            let name = task.attempt.to_string();
            let labels = [("task", name.as_str())];
            for ((desc, now), highest) in [&CPU, &READ, &WRITTEN].into_iter().zip(counters).zip(highest) {
                if let Some(now) = now {
                    *highest = highest.max(now);
                    out.push(desc, &labels, *highest);
                }
            }
            out.push_some(&MEMORY, &labels, used.resident_bytes);
            out.push_some(&THREADS, &labels, used.threads);
        }
    }
}

impl TaskUse {
    fn of_cgroup(&mut self, task: &RunningTask) -> Used {
        let mut used = Used::default();
        for directory in &task.cgroups {
            used = used.or(self.of_directory(directory));
        }
        used
    }

    /// What this directory tells, be it v2's or that of one v1 controller.
    fn of_directory(&mut self, directory: &Path) -> Used {
        let mut ask = |name: &str, parse: fn(&[u8]) -> Option<f64>| {
            read_into(&directory.join(name), &mut self.buffer).and_then(parse)
        };
        let mut used = Used {
            cpu_seconds: ask("cpu.stat", |file| keyed(file, "usage_usec").map(|usec| float(usec) / 1e6)),
            resident_bytes: ask("memory.stat", resident_of_memory_stat),
            threads: ask("pids.current", |file| {
                lines(file).next().and_then(|line| field(line, 0)).map(float)
            }),
            read_bytes: None,
            written_bytes: None,
        };
        if used.cpu_seconds.is_none() {
            used.cpu_seconds = ask("cpuacct.usage", |file| {
                lines(file).next().and_then(|line| field(line, 0)).map(|ns| float(ns) / 1e9)
            });
        }
        for (name, parse) in [
            ("io.stat", io_of_v2 as fn(&[u8]) -> (u64, u64)),
            ("blkio.throttle.io_service_bytes_recursive", io_of_v1),
        ] {
            if let Some(file) = read_into(&directory.join(name), &mut self.buffer) {
                let (read, written) = parse(file);
                used.read_bytes = Some(float(read));
                used.written_bytes = Some(float(written));
                break;
            }
        }
        used
    }

    fn of_processes(&mut self, task: &RunningTask) -> Used {
        let mut sum = Used::default();
        for pid in &task.pids {
            let directory = self.proc.join(pid.to_string());
            if let Some(stat) = read_into(&directory.join("stat"), &mut self.buffer).and_then(Stat::parse) {
                add(&mut sum.cpu_seconds, float(stat.ticks) / self.units.ticks_per_second);
                add(&mut sum.resident_bytes, float(stat.resident_pages) * self.units.page_bytes);
                add(&mut sum.threads, float(stat.threads));
            }
            // Readable for the user's own processes only, unless we are root.
            if let Some(io) = read_into(&directory.join("io"), &mut self.buffer) {
                add(&mut sum.read_bytes, float(keyed(io, "read_bytes:").unwrap_or(0)));
                add(&mut sum.written_bytes, float(keyed(io, "write_bytes:").unwrap_or(0)));
            }
        }
        sum
    }
}

/// What is known of one task at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Used {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<f64>,
    threads: Option<f64>,
    read_bytes: Option<f64>,
    written_bytes: Option<f64>,
}

impl Used {
    fn is_complete(&self) -> bool {
        [self.cpu_seconds, self.resident_bytes, self.threads, self.read_bytes].iter().all(Option::is_some)
    }

    /// What is missing here, from there.
    fn or(self, there: Used) -> Used {
        Used {
            cpu_seconds: self.cpu_seconds.or(there.cpu_seconds),
            resident_bytes: self.resident_bytes.or(there.resident_bytes),
            threads: self.threads.or(there.threads),
            read_bytes: self.read_bytes.or(there.read_bytes),
            written_bytes: self.written_bytes.or(there.written_bytes),
        }
    }
}

/// The system's units of `/proc/PID/stat`.
struct Units {
    ticks_per_second: f64,
    page_bytes: f64,
}

impl Units {
    fn of_system() -> Units {
        let ask = |what, otherwise: u32| {
            let value = nix::unistd::sysconf(what).ok().flatten().and_then(|value| u32::try_from(value).ok());
            f64::from(value.unwrap_or(otherwise))
        };
        Units {
            ticks_per_second: ask(nix::unistd::SysconfVar::CLK_TCK, 100),
            page_bytes: ask(nix::unistd::SysconfVar::PAGE_SIZE, 4096),
        }
    }
}

/// Of one process, with those of its children that it has waited for.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    ticks: u64,
    threads: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(file: &[u8]) -> Option<Stat> {
        // The name may hold blanks and parentheses: fields count from the last one.
        let end = file.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(file.get(end + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // proc(5) counts from 1 and the state is 3: utime 14 .. cstime 17, num_threads 20, rss 24.
        let number = |place: usize| -> Option<u64> { fields.get(place - 3)?.parse().ok() };
        let ticks = (14..=17).map(number).try_fold(0u64, |sum, ticks| Some(sum.saturating_add(ticks?)))?;
        Some(Stat { ticks, threads: number(20)?, resident_pages: number(24)? })
    }
}

/// v2 says `anon`; v1 `total_rss`, with all groups below.
fn resident_of_memory_stat(file: &[u8]) -> Option<f64> {
    keyed(file, "anon").or_else(|| keyed(file, "total_rss")).or_else(|| keyed(file, "rss")).map(float)
}

/// `8:0 rbytes=1 wbytes=2 rios=3 ...`, a line per device.
fn io_of_v2(file: &[u8]) -> (u64, u64) {
    let mut sum = (0u64, 0u64);
    for word in lines(file).flat_map(str::split_ascii_whitespace) {
        let number = |text: &str| text.parse().unwrap_or(0);
        if let Some(bytes) = word.strip_prefix("rbytes=") {
            sum.0 = sum.0.saturating_add(number(bytes));
        } else if let Some(bytes) = word.strip_prefix("wbytes=") {
            sum.1 = sum.1.saturating_add(number(bytes));
        }
    }
    sum
}

/// `8:0 Read 1`, `8:0 Write 2`, ... and at the end `Total 3`.
fn io_of_v1(file: &[u8]) -> (u64, u64) {
    let mut sum = (0u64, 0u64);
    for line in lines(file) {
        let bytes = field(line, 2).unwrap_or(0);
        match line.split_ascii_whitespace().nth(1) {
            Some("Read") => sum.0 = sum.0.saturating_add(bytes),
            Some("Write") => sum.1 = sum.1.saturating_add(bytes),
            Some(_) | None => {}
        }
    }
    sum
}

fn add(sum: &mut Option<f64>, value: f64) {
    *sum = Some(sum.unwrap_or(0.0) + value);
}

#[expect(clippy::cast_precision_loss, reason = "metrics are f64 on the wire: exact up to 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests;
