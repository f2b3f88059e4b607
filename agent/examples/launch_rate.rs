//! How fast attempts start and end through the supervisor, beside `xargs -P2 -n1 /bin/true`.
//!
//! Wall-clock ratios mean little on a busy machine; the ratio of processor time (ours, the shims' and the tasks')
//! holds there too.
//!
//! Nothing is removed between the rounds: ext4 makes files slowly just after many were deleted. `TMPDIR` chooses
//! the file system.
//!
//! `cargo run -p trainyard-agent --example launch_rate -- PATH_OF_SHIM [COUNT]`; prints ratios, asserts nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use trainyard_agent::supervisor::{
    AttemptLimits, CgroupMode, ShimEvent, Supervisor, SupervisorConfig, write_shim,
};
use trainyard_core::id::{AttemptId, GangNo, JobId, Rank};
use trainyard_core::shim::Launch;

const ROUNDS: u32 = 5;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = || std::io::Error::other("usage: launch_rate PATH_OF_SHIM [COUNT]");
    let shim = PathBuf::from(arguments.next().ok_or_else(usage)?);
    let count = arguments.next().map_or(Ok(500), |text| text.parse().map_err(|_| usage()))?;
    let root = tempfile::tempdir()?;
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        let before = processor_ticks()?;
        let xargs = run_xargs(count)?;
        let xargs_ticks = processor_ticks()? - before;
        let none = CgroupMode::None { reason: String::new() };
        let before = processor_ticks()?;
        let (plain, _) = run_shims(&root.path().join(format!("plain-{round}")), &shim, none, count).await?;
        let plain_ticks = processor_ticks()? - before;
        let kept = CgroupMode::detect(&root.path().join(format!("kept-{round}")));
        let (grouped, memory) =
            run_shims(&root.path().join(format!("kept-{round}")), &shim, kept, count).await?;
        println!(
            "round {round}: xargs {xargs:?} for {count}; ratio {:.2} without cgroups, {:.2} with; \
             {:.2} of processor time; {memory}",
            xargs.as_secs_f64() / plain.took.as_secs_f64(),
            xargs.as_secs_f64() / grouped.took.as_secs_f64(),
            xargs_ticks / plain_ticks,
        );
        rounds.extend([plain, grouped]);
    }
    for round in rounds {
        round.clean_up().await?;
    }
    Ok(())
}

struct Round {
    took: Duration,
    supervisor: Arc<Supervisor>,
    groups: CgroupMode,
    count: u64,
}

impl Round {
    async fn clean_up(self) -> std::io::Result<()> {
        for n in 0..=self.count {
            self.supervisor.forget(launch_id(n)).await?;
        }
        self.groups.remove_roots();
        Ok(())
    }
}

/// Processor time of this process and of all that it has reaped, and they in turn.
fn processor_ticks() -> std::io::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    Ok(after_name.split(' ').skip(11).take(4).filter_map(|ticks| ticks.parse::<f64>().ok()).sum())
}

fn run_xargs(count: u64) -> std::io::Result<Duration> {
    let begun = Instant::now();
    let mut xargs = Command::new("/usr/bin/xargs");
    xargs.args(["-P2", "-n1", "/bin/true"]).stdin(Stdio::piped());
    let mut child = xargs.spawn()?;
    let numbers: String = (0..count).map(|n| format!("{n}\n")).collect();
    if let Some(mut stdin) = child.stdin.take() {
        std::io::Write::write_all(&mut stdin, numbers.as_bytes())?;
    }
    child.wait()?;
    Ok(begun.elapsed())
}

/// Two at once, from launch to `Ended`; also the private memory of one shim that waits.
async fn run_shims(
    root: &Path,
    shim: &Path,
    cgroups: CgroupMode,
    count: u64,
) -> std::io::Result<(Round, String)> {
    let (sender, mut events) = mpsc::unbounded_channel();
    let shim = write_shim(root, &std::fs::read(shim)?)?;
    let groups = cgroups.clone();
    let config =
        SupervisorConfig { run_dir: root.join("run"), shim, cgroups, limits: AttemptLimits::default() };
    let supervisor = Arc::new(Supervisor::new(config, sender)?);
    let begun = Instant::now();
    let (mut next, mut running) = (0, 0);
    while next < count || running > 0 {
        while running < 2 && next < count {
            let launch = launch(root, next, &["/bin/true"]);
            let supervisor = supervisor.clone();
            tokio::spawn(async move { supervisor.launch(launch).await.map_err(|e| e.in_words()) });
            (next, running) = (next + 1, running + 1);
        }
        if let Some(ShimEvent::Ended { .. }) = events.recv().await {
            running -= 1;
        }
    }
    let took = begun.elapsed();
    let launch = launch(root, count, &["/bin/sleep", "1000"]);
    let attempt = launch.attempt;
    let started = supervisor.launch(launch).await.map_err(|e| std::io::Error::other(e.in_words()))?;
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", started.shim_pid))?;
    let private = smaps.lines().filter(|line| line.starts_with("Private_") || line.starts_with("Pss:"));
    let private =
        private.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
    supervisor.stop(attempt, 0).map_err(std::io::Error::other)?;
    while !matches!(events.recv().await, Some(ShimEvent::Ended { .. }) | None) {}
    Ok((Round { took, supervisor, groups, count }, private.join(", ")))
}

fn launch_id(job: u64) -> AttemptId {
    AttemptId { job: JobId(job), gang: GangNo(1), rank: Rank(0) }
}

fn launch(root: &Path, job: u64, argv: &[&str]) -> Launch {
    let bytes = |path: PathBuf| path.into_os_string().into_encoded_bytes();
    Launch {
        attempt: launch_id(job),
        argv: argv.iter().map(|text| text.as_bytes().to_vec()).collect(),
        env: std::env::vars_os().map(|(n, v)| (n.into_encoded_bytes(), v.into_encoded_bytes())).collect(),
        cwd: b"/".to_vec(),
        stdout: bytes(root.join(format!("{job}.out"))),
        stderr: bytes(root.join(format!("{job}.err"))),
        credentials: None,
        deadline: None,
        umask: 0o022,
    }
}
