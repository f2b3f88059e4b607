//! A supervisor with a run directory of its own, and real shims. Built once, by the command of `cli/build.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use trainyard_agent::supervisor::{
    AttemptLimits, CgroupMode, LaunchError, ShimEvent, Supervisor, SupervisorConfig, write_shim,
};
use trainyard_core::id::{AttemptId, GangNo, JobId, Rank};
use trainyard_core::shim::{ExitRecord, Launch, Started};

/// The shim's bytes.
pub(crate) fn shim_binary() -> &'static [u8] {
    static BINARY: OnceLock<Vec<u8>> = OnceLock::new();
    BINARY.get_or_init(|| {
        let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../shim-test");
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .args([
                "build",
                "--quiet",
                "--package",
                "trainyard-shim",
                "--profile",
                "shim",
                "--target",
                &target,
            ])
            .arg("--target-dir")
            .arg(&target_dir)
            .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static\u{1f}-Crelocation-model=static");
        for name in ["RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"] {
            cargo.env_remove(name);
        }
        assert!(cargo.status().unwrap().success(), "the shim does not build");
        fs::read(target_dir.join(target).join("shim/trainyard-shim")).unwrap()
    })
}

/// A node's root with a supervisor.
pub(crate) struct Yard {
    pub(crate) root: tempfile::TempDir,
    pub(crate) supervisor: Supervisor,
    events: mpsc::UnboundedReceiver<ShimEvent>,
    config: SupervisorConfig,
    /// Events that a test has not asked for yet.
    waiting: Vec<ShimEvent>,
}

/// Every way of keeping processes together that this machine can do: always without cgroups, and with them.
pub(crate) fn modes() -> Vec<fn(&Path) -> CgroupMode> {
    let without = |_: &Path| CgroupMode::None { reason: "a test without".to_owned() };
    let probe = tempfile::tempdir().unwrap();
    let detected = CgroupMode::detect(probe.path());
    detected.remove_roots();
    match detected {
        CgroupMode::Kept(_) => vec![without, CgroupMode::detect],
        CgroupMode::None { reason } => {
            eprintln!("SKIPPED: the same with cgroups: {reason}");
            vec![without]
        }
    }
}

impl Yard {
    pub(crate) fn new(mode: fn(&Path) -> CgroupMode) -> Yard {
        Yard::with_limits(mode, AttemptLimits::default())
    }

    pub(crate) fn with_limits(mode: fn(&Path) -> CgroupMode, limits: AttemptLimits) -> Yard {
        let root = tempfile::tempdir().unwrap();
        // Longer than a socket's path may be.
        let deep = root.path().join("a-folder-with-a-long-name-".repeat(5));
        let config = SupervisorConfig {
            run_dir: deep.join("run"),
            shim: write_shim(&deep.join("bin"), shim_binary()).unwrap(),
            cgroups: mode(root.path()),
            limits,
        };
        let (sender, events) = mpsc::unbounded_channel();
        let supervisor = Supervisor::new(config.clone(), sender).unwrap();
        Yard { root, supervisor, events, config, waiting: Vec::new() }
    }

    /// As when the agent dies and starts again: the tasks of the old supervisor end, its events are lost.
    pub(crate) fn restart(&mut self) {
        let (sender, events) = mpsc::unbounded_channel();
        self.supervisor = Supervisor::new(self.config.clone(), sender).unwrap();
        self.events = events;
        self.waiting.clear();
    }

    pub(crate) fn has_cgroups(&self) -> bool {
        matches!(self.config.cgroups, CgroupMode::Kept(_))
    }

    /// A shell script as an attempt; `$D` is [`Yard::dir`].
    pub(crate) fn script(&self, script: &str) -> Launch {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let job = JobId(NEXT.fetch_add(1, Ordering::Relaxed));
        let attempt = AttemptId { job, gang: GangNo(1), rank: Rank(0) };
        let bytes = |path: PathBuf| path.into_os_string().into_encoded_bytes();
        let argv = ["/bin/sh", "-c", script].map(|text| text.as_bytes().to_vec()).to_vec();
        let dir = self.dir().to_str().unwrap().to_owned();
        let env = [("PATH", "/usr/bin:/bin"), ("D", dir.as_str())];
        Launch {
            attempt,
            argv,
            env: env.map(|(name, value)| (name.into(), value.into())).to_vec(),
            cwd: bytes(self.dir()),
            stdout: bytes(self.stdout_path(attempt)),
            stderr: bytes(self.dir().join(format!("{attempt}.err"))),
            credentials: None,
            deadline: None,
            umask: 0o027,
        }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.root.path().to_owned()
    }

    fn stdout_path(&self, attempt: AttemptId) -> PathBuf {
        self.dir().join(format!("{attempt}.out"))
    }

    pub(crate) fn stdout(&self, attempt: AttemptId) -> String {
        fs::read_to_string(self.stdout_path(attempt)).unwrap()
    }

    pub(crate) async fn launch(&self, launch: Launch) -> Result<Started, LaunchError> {
        self.supervisor.launch(launch).await
    }

    /// Launches a script; its attempt and its start.
    pub(crate) async fn run(&self, script: &str) -> (AttemptId, Started) {
        let launch = self.script(script);
        let attempt = launch.attempt;
        (attempt, self.launch(launch).await.unwrap())
    }

    /// Waits for the end of an attempt.
    pub(crate) async fn ended(&mut self, attempt: AttemptId) -> ExitRecord {
        loop {
            let is_it =
                |event: &ShimEvent| matches!(event, ShimEvent::Ended { attempt: a, .. } if *a == attempt);
            if let Some(at) = self.waiting.iter().position(is_it)
                && let ShimEvent::Ended { record, .. } = self.waiting.remove(at)
            {
                return record;
            }
            self.waiting.push(self.events.recv().await.unwrap());
        }
    }

    /// Everything that has happened so far and was not asked for.
    pub(crate) fn events(&mut self) -> Vec<ShimEvent> {
        while let Ok(event) = self.events.try_recv() {
            self.waiting.push(event);
        }
        std::mem::take(&mut self.waiting)
    }

    /// A named pipe in [`Yard::dir`].
    pub(crate) fn pipe(&self, name: &str) {
        nix::unistd::mkfifo(&self.dir().join(name), nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
    }

    /// What a task writes into a named pipe; waits for it.
    pub(crate) async fn hear(&self, name: &str) -> String {
        let path = self.dir().join(name);
        tokio::task::spawn_blocking(move || fs::read_to_string(path).unwrap())
            .await
            .unwrap()
            .trim()
            .to_owned()
    }

    /// Lets a task go on that reads a named pipe.
    pub(crate) async fn say(&self, name: &str) {
        let path = self.dir().join(name);
        tokio::task::spawn_blocking(move || fs::write(path, "go\n").unwrap()).await.unwrap();
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        for attempt in self.supervisor.list().unwrap_or_default() {
            for dir in self.config.cgroups.of(attempt).dirs() {
                // Of a test that has failed there may be processes left; what ended may not be gone yet.
                drop(fs::write(dir.join("cgroup.kill"), "1"));
                for _ in 0..1000 {
                    if fs::remove_dir(dir).is_ok() || !dir.exists() {
                        break;
                    }
                    std::thread::yield_now();
                }
            }
        }
        self.config.cgroups.remove_roots();
    }
}

/// Whether a process is there, and is no zombie.
pub(crate) fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Waits until a process that is no child of ours, or is reaped by the supervisor, is gone.
pub(crate) async fn gone(pid: u32) {
    tokio::task::spawn_blocking(move || {
        while is_running(pid) {
            std::thread::yield_now();
        }
    })
    .await
    .unwrap();
}

pub(crate) fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}
