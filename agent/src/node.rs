//! What this node is for the coordinator: its facts, and which attempts run on it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use tokio::sync::watch;
use trainyard_core::id::AttemptId;
use trainyard_core::plan::PortSpace;
use trainyard_core::session::{GpuFact, NodeFacts};
use trainyard_core::unit::GpuUuid;
use trainyard_proto::v1;

use crate::config::AgentConfig;
use crate::metric::{RunningTask, Tasks};
use crate::supervisor::{CgroupMode, Supervisor};

/// Variables of the agent's own environment that every process gets, if they are set.
const BASE_ENVIRONMENT: &[&str] =
    &["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV"];

/// The facts of this node.
pub(crate) fn facts(
    config: &AgentConfig,
    privileged: bool,
    boot_id: String,
    inventory: &v1::Inventory,
) -> NodeFacts {
    NodeFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: config.address.clone(),
        root: config.root.to_string_lossy().into_owned(),
        port_space: PortSpace { boot_id, network_namespace: network_namespace() },
        privileged,
        base_environment: base_environment(std::env::vars_os()),
        // On the wire the GPUs travel in the inventory.
        gpus: inventory
            .gpus
            .iter()
            .map(|gpu| GpuFact { uuid: GpuUuid(gpu.uuid.clone()), fault: gpu.fault.clone() })
            .collect(),
        gpu_problem: inventory.gpu_problem.clone(),
        degraded: inventory.degraded.clone(),
        // The driver knows.
        stuck: Vec::new(),
    }
}

/// Of the running kernel. Where it cannot be read, the time of the boot stands for it.
pub(crate) fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let text = text.trim();
    if !text.is_empty() {
        return text.to_owned();
    }
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    stat.lines().find(|line| line.starts_with("btime ")).unwrap_or("unknown boot").to_owned()
}

fn network_namespace() -> u64 {
    std::fs::metadata("/proc/self/ns/net").map(|found| found.ino()).unwrap_or(0)
}

fn base_environment(
    variables: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
) -> BTreeMap<String, String> {
    let wanted = |name: &str| BASE_ENVIRONMENT.contains(&name) || name.starts_with("LC_");
    let variables = variables
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    variables.filter(|(name, _)| wanted(name)).collect()
}

/// What this agent cannot do here, in words.
pub(crate) fn limitations(cgroups: &CgroupMode, privileged: bool) -> Vec<String> {
    let mut limitations = cgroups.limitations();
    if !privileged {
        limitations
            .push("no mounts: not root; `hostPaths` are symbolic links and cannot be read-only".to_owned());
    }
    limitations
}

/// The attempts that run, for the metrics.
pub(crate) struct RunningTasks {
    running: watch::Receiver<BTreeSet<AttemptId>>,
    supervisor: Arc<Supervisor>,
}

impl RunningTasks {
    pub(crate) fn new(
        running: watch::Receiver<BTreeSet<AttemptId>>,
        supervisor: Arc<Supervisor>,
    ) -> RunningTasks {
        RunningTasks { running, supervisor }
    }
}

impl Tasks for RunningTasks {
    fn running(&self) -> Vec<RunningTask> {
        let running = self.running.borrow().clone();
        running
            .into_iter()
            .map(|attempt| RunningTask {
                attempt,
                pids: self.supervisor.processes(attempt),
                cgroups: self.supervisor.cgroup_paths(attempt).dirs().cloned().collect(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_every_process_needs_is_passed_on() {
        let all = [("PATH", "/bin"), ("LC_ALL", "C"), ("AWS_SECRET_ACCESS_KEY", "canary"), ("HOME", "/h")];
        let all = all.map(|(name, value)| (name.into(), value.into()));
        let passed = base_environment(all);
        assert_eq!(passed.keys().map(String::as_str).collect::<Vec<_>>(), ["HOME", "LC_ALL", "PATH"]);
    }

    #[test]
    fn this_machine_has_a_boot_and_a_network() {
        assert!(!boot_id().is_empty());
        assert_ne!(network_namespace(), 0);
    }
}
