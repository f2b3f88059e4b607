//! Tests of what is read of tasks: cgroup files and `/proc`, whatever they hold.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;
use trainyard_core::id::{AttemptId, GangNo, JobId, Rank};

use super::*;
use crate::gpu::fake::Fake;
use crate::metric::Tasks;

const ATTEMPT: AttemptId = AttemptId { job: JobId(7), gang: GangNo(1), rank: Rank(2) };

struct NoTasks;

impl Tasks for NoTasks {
    fn running(&self) -> Vec<RunningTask> {
        Vec::new()
    }
}

struct Bench {
    directory: TempDir,
    probe: TaskUse,
}

impl Bench {
    fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let units = Units { ticks_per_second: 100.0, page_bytes: 4096.0 };
        let proc = directory.path().join("proc");
        Bench { directory, probe: TaskUse { proc, highest: BTreeMap::new(), buffer: Vec::new(), units } }
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// CPU seconds, resident bytes, threads, bytes read, bytes written.
    fn sample(&mut self, pids: &[u32], cgroups: &[&str]) -> [Option<f64>; 5] {
        let cgroups = cgroups.iter().map(|name| self.path(name)).collect();
        let running = [RunningTask { attempt: ATTEMPT, pids: pids.to_vec(), cgroups }];
        let fake = Fake::with_gpus(0);
        let context = Context { gpu: &fake, running: &running, tasks: &NoTasks, root: Path::new("/") };
        let mut out = Out::default();
        self.probe.sample(&context, &mut out);
        [&CPU, &MEMORY, &THREADS, &READ, &WRITTEN].map(|desc| out.value(desc.name, &[("task", "7.1.2")]))
    }
}

fn stat(pid: u32, ticks: u64, threads: u64, pages: u64) -> String {
    format!(
        "{pid} (py (th) on) S 1 1 1 0 -1 4194560 1 2 3 4 {ticks} 10 5 5 20 0 {threads} 0 999 123456 {pages} 184 1 1\n"
    )
}

#[test]
fn a_v2_cgroup_tells_everything() {
    let mut bench = Bench::new();
    bench.write("cg/cpu.stat", "usage_usec 2500000\nuser_usec 1\nsystem_usec 2\n");
    bench.write("cg/memory.stat", "anon 1048576\nfile 4096\n");
    bench.write("cg/pids.current", "12\n");
    bench.write("cg/io.stat", "8:0 rbytes=100 wbytes=200 rios=1 wios=2\n8:16 rbytes=1 wbytes=2\n");
    assert_eq!(
        bench.sample(&[], &["cg"]),
        [Some(2.5), Some(1_048_576.0), Some(12.0), Some(101.0), Some(202.0)]
    );
}

#[test]
fn v1_controllers_are_put_together() {
    let mut bench = Bench::new();
    // v1's own cpu.stat tells of throttling only.
    bench.write("cpu/cpu.stat", "nr_periods 0\nnr_throttled 0\n");
    bench.write("cpuacct/cpuacct.usage", "1500000000\n");
    bench.write("memory/memory.stat", "cache 1\nrss 4096\ntotal_rss 8192\n");
    bench.write("pids/pids.current", "3\n");
    bench.write(
        "blkio/blkio.throttle.io_service_bytes_recursive",
        "8:0 Read 10\n8:0 Write 20\n8:0 Sync 5\n8:0 Total 30\nTotal 30\n",
    );
    assert_eq!(
        bench.sample(&[], &["cpu", "cpuacct", "memory", "pids", "blkio"]),
        [Some(1.5), Some(8192.0), Some(3.0), Some(10.0), Some(20.0)]
    );
}

#[test]
fn without_cgroups_the_processes_are_summed_up() {
    let mut bench = Bench::new();
    bench.write("proc/10/stat", &stat(10, 100, 4, 50));
    bench.write("proc/10/io", "rchar: 9\nwchar: 9\nread_bytes: 4096\nwrite_bytes: 8192\n");
    bench.write("proc/11/stat", &stat(11, 280, 1, 25));
    let expected = [Some(4.2), Some(75.0 * 4096.0), Some(5.0), Some(4096.0), Some(8192.0)];
    // Process 12 has ended already.
    assert_eq!(bench.sample(&[10, 11, 12], &[]), expected);
}

#[test]
fn what_a_cgroup_lacks_comes_from_the_processes() {
    let mut bench = Bench::new();
    bench.write("cg/pids.current", "7\n");
    bench.write("proc/10/stat", &stat(10, 80, 1, 1));
    assert_eq!(bench.sample(&[10], &["cg"]), [Some(1.0), Some(4096.0), Some(7.0), None, None]);
}

#[test]
fn counters_do_not_go_back_when_a_process_ends() {
    let mut bench = Bench::new();
    bench.write("proc/10/stat", &stat(10, 80, 1, 1));
    bench.write("proc/11/stat", &stat(11, 180, 1, 1));
    assert_eq!(bench.sample(&[10, 11], &[])[0], Some(3.0));
    assert_eq!(bench.sample(&[10], &[])[0], Some(3.0));
}

#[test]
fn a_task_without_a_trace_has_no_numbers() {
    assert_eq!(Bench::new().sample(&[4_000_000], &["none"]), [None; 5]);
}

#[test]
fn our_own_process_is_read() {
    let file = fs::read("/proc/self/stat").unwrap();
    let own = Stat::parse(&file).unwrap();
    assert!(own.threads >= 1);
    assert!(own.resident_pages > 0);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let named = [b"1 (x) ".as_slice(), &bytes].concat();
        assert_eq!(Stat::parse(&named), Stat::parse(&named));
        assert_eq!(Stat::parse(&bytes), Stat::parse(&bytes));
        assert_eq!(io_of_v1(&bytes), io_of_v1(&bytes));
        assert_eq!(io_of_v2(&bytes), io_of_v2(&bytes));
        assert_eq!(resident_of_memory_stat(&bytes), resident_of_memory_stat(&bytes));
    }

    #[test]
    fn any_name_of_a_process_is_survived(name in "[^\n]{0,30}", ticks in any::<u64>(), threads in any::<u64>()) {
        let file = format!("1 ({name}) R 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 {threads} 0 0 0 5 0");
        let parsed = Stat::parse(file.as_bytes());
        prop_assert_eq!(parsed, Some(Stat { ticks, threads, resident_pages: 5 }));
    }
}
