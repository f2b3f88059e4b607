//! One node's folder, and the agent that lives in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tokio::sync::oneshot;
use trainyard_agent::gpu::fake::Fake;
use trainyard_agent::supervisor::write_shim;
use trainyard_agent::{AgentConfig, AgentError, serve_with_gpus};
use trainyard_core::id::{AttemptId, GangId, GangNo, JobId, NodeId, Rank};
use trainyard_core::plan::task::Role;
use trainyard_core::plan::{Command, NodePlan, TaskPlan};
use trainyard_core::text::Secret;

use crate::coordinator::Coordinator;
use crate::yard::shim_binary;

pub(crate) const GANG: GangId = GangId { job: JobId(7), gang: GangNo(1) };

pub(crate) struct TestNode {
    folder: tempfile::TempDir,
    config: AgentConfig,
}

/// An agent that runs until it is told to end.
pub(crate) struct Agent {
    shutdown: oneshot::Sender<()>,
    running: tokio::task::JoinHandle<Result<(), AgentError>>,
}

impl Agent {
    pub(crate) async fn end(self) {
        self.shutdown.send(()).unwrap();
        self.running.await.unwrap().unwrap();
    }
}

impl TestNode {
    pub(crate) fn new(coordinator: &Coordinator) -> TestNode {
        let folder = tempfile::tempdir().unwrap();
        let config = AgentConfig {
            node: "node-0".into(),
            coordinator: format!("http://{}", coordinator.address),
            token: Secret::new("token-of-the-test".into()),
            root: folder.path().join("root"),
            address: "127.0.0.2".into(),
            shim: write_shim(&folder.path().join("bin"), shim_binary()).unwrap(),
            nvml_library: None,
            gpu_share: None,
            metrics_period: None,
            cgroups: true,
            log_quota_bytes: 1 << 30,
        };
        TestNode { folder, config }
    }

    pub(crate) fn start(&self) -> Agent {
        let (shutdown, told) = oneshot::channel::<()>();
        let config = self.config.clone();
        let running = tokio::spawn(serve_with_gpus(config, std::sync::Arc::new(Fake::absent()), async {
            // A dropped sender ends it as well.
            told.await.ok();
        }));
        Agent { shutdown, running }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    pub(crate) fn text(&self, below: &str) -> String {
        self.path(below).to_str().unwrap().to_owned()
    }

    pub(crate) fn program(&self, name: &str, script: &str) -> Command {
        Command {
            argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
            env: BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into()), ("D".into(), self.text(""))]),
            secret_env: BTreeMap::from([("SECRET".into(), Secret::new("canary".into()))]),
            cwd: "/".into(),
            stdout: format!("stdout-{name}.txt"),
            stderr: format!("stderr-{name}.txt"),
        }
    }

    /// One task per script.
    pub(crate) fn plan(&self, scripts: &[&str]) -> NodePlan {
        let tasks = scripts.iter().enumerate().map(|(index, script)| {
            let index = u32::try_from(index).unwrap();
            TaskPlan {
                rank: Rank(index),
                role: Role::Worker,
                index,
                name: format!("worker-{index}"),
                command: self.program(&index.to_string(), script),
                gpus: Vec::new(),
            }
        });
        NodePlan {
            node: NodeId("node-0".into()),
            job_temp: self.text("root/jobs/w/e/j"),
            directories: vec![self.text("root/jobs/w/e/j"), self.text("out/stdouterr")],
            host_mounts: Vec::new(),
            mounted_directories: Vec::new(),
            files: Vec::new(),
            std_dir: self.text("out/stdouterr"),
            execution_log: "execution.log".into(),
            preparation: None,
            ports: Vec::new(),
            preflight: None,
            tasks: tasks.collect(),
            notes: Vec::new(),
        }
    }

    /// Two FIFOs, at which a task waits for the test.
    pub(crate) fn make_gate(&self) {
        for gate in ["gate", "gate2"] {
            nix::unistd::mkfifo(&self.path(gate), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
    }

    /// Lets the task go on that waits at the first; waits for it to be there.
    pub(crate) async fn open_gate(&self) {
        open(self.path("gate")).await;
    }

    pub(crate) async fn open_second_gate(&self) {
        open(self.path("gate2")).await;
    }

    pub(crate) fn file_names(&self, below: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(below)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    pub(crate) fn journal(&self) -> String {
        std::fs::read_to_string(self.path("root/journal/journal")).unwrap()
    }

    /// Waits for the shim's last act; nobody else is there who could tell.
    pub(crate) async fn has_exit_record(&self, attempt: AttemptId) {
        let folder = self.path("root/run").join(attempt.to_string());
        tokio::task::spawn_blocking(move || wait_for(&folder, "exit")).await.unwrap();
    }
}

async fn open(gate: PathBuf) {
    tokio::task::spawn_blocking(move || std::fs::write(gate, "go\n").unwrap()).await.unwrap();
}

fn wait_for(folder: &Path, name: &str) {
    let mut inotify = inotify::Inotify::init().unwrap();
    inotify.watches().add(folder, inotify::WatchMask::MOVED_TO).unwrap();
    let mut buffer = [0; 4096];
    while !folder.join(name).exists() {
        inotify.read_events_blocking(&mut buffer).unwrap();
    }
}
