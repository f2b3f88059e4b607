//! A coordinator and local nodes in this process: what `run` and `up` share.
//!
//! Each node has its own loopback address, its own root folder, and its share of the GPUs. Ending it in any
//! way ends no task.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::JoinSet;
use trainyard_agent::config::AgentConfig;
use trainyard_agent::gpu::{self, GpuHandle, nvml};
use trainyard_coordinator::{Config, Retention};
use trainyard_core::coordinator as core;
use trainyard_core::coordinator::state::NODE_FAULTS_MAX;
use trainyard_core::text::Secret;

use crate::command::COMMIT;
use crate::shim_binary::SHIM;

/// How long agents and coordinator get to end when they are asked to.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What to start.
pub(crate) struct YardConfig {
    /// Where everything lies, absolute.
    pub(crate) state_dir: PathBuf,
    /// Where the coordinator listens.
    pub(crate) listen: SocketAddr,
    /// Whether that may be beyond loopback.
    pub(crate) insecure_listen: bool,
    /// What requests and agents need.
    pub(crate) token: Secret,
    /// How many local nodes.
    pub(crate) nodes: u32,
    /// Begin anew where the coordinator's database is lost.
    pub(crate) init: bool,
    /// With a lease, tasks are fenced that long after the loss of this process; without, they are kept.
    pub(crate) lease: Option<Duration>,
}

/// A running coordinator with its local nodes.
pub(crate) struct Yard {
    url: String,
    stop_agents: watch::Sender<bool>,
    stop_coordinator: watch::Sender<bool>,
    agents: Mutex<JoinSet<anyhow::Result<()>>>,
    coordinator: Mutex<JoinSet<anyhow::Result<()>>>,
}

impl Yard {
    /// Starts everything; comes back once the coordinator answers.
    pub(crate) async fn start(config: YardConfig) -> anyhow::Result<Yard> {
        let (stop_agents, _) = watch::channel(false);
        let (stop_coordinator, stopped) = watch::channel(false);
        let mut coordinator = JoinSet::new();
        let (ready, address) = oneshot::channel();
        let served = trainyard_coordinator::serve(coordinator_config(&config), ready, until(stopped));
        coordinator.spawn(async move { served.await.context("the coordinator failed") });
        let address = match address.await {
            Ok(address) => address,
            Err(_) => return Err(first_failure(&mut coordinator).await),
        };
        let url = format!("http://{}", reachable(address));
        let mut agents = JoinSet::new();
        let nvml_library = nvml_library();
        let options = nvml::Options { library: nvml_library.clone(), ..nvml::Options::default() };
        let gpus: GpuHandle = Arc::new(nvml::NvmlGpu::start(options).context("starting a thread for NVML")?);
        for agent in agent_configs(&config, &url, &gpus, nvml_library.as_deref())? {
            let node = agent.node.clone();
            let served =
                trainyard_agent::serve_with_gpus(agent, gpus.clone(), until(stop_agents.subscribe()));
            agents.spawn(async move { served.await.with_context(|| format!("the agent of {node} failed")) });
        }
        Ok(Yard {
            url,
            stop_agents,
            stop_coordinator,
            agents: Mutex::new(agents),
            coordinator: Mutex::new(coordinator),
        })
    }

    /// Where the coordinator is reached from this machine.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Comes back when a part ends that was not asked to.
    pub(crate) async fn failed(&self) -> anyhow::Error {
        let (mut agents, mut coordinator) = (self.agents.lock().await, self.coordinator.lock().await);
        if agents.is_empty() {
            return first_failure(&mut coordinator).await;
        }
        tokio::select! {
            error = first_failure(&mut agents) => error,
            error = first_failure(&mut coordinator) => error,
        }
    }

    /// Ends agents, then the coordinator. Tasks go on.
    pub(crate) async fn stop(self) {
        // A part that is gone already does not listen.
        self.stop_agents.send_replace(true);
        drain(self.agents.into_inner(), "agents").await;
        self.stop_coordinator.send_replace(true);
        drain(self.coordinator.into_inner(), "the coordinator").await;
    }
}

async fn drain(mut parts: JoinSet<anyhow::Result<()>>, what: &str) {
    let all = async {
        while let Some(ended) = parts.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("while stopping: {error:#}"),
                Err(error) => tracing::warn!("while stopping: {error}"),
            }
        }
    };
    if tokio::time::timeout(STOP_PATIENCE, all).await.is_err() {
        tracing::warn!("{what} did not end in time");
    }
}

async fn first_failure(parts: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Error {
    match parts.join_next().await {
        Some(Ok(Ok(()))) => anyhow!("a part of this process ended by itself"),
        Some(Ok(Err(error))) => error,
        Some(Err(error)) => anyhow!("a part of this process failed: {error}"),
        None => std::future::pending().await,
    }
}

/// Comes back when the value is true, or nobody can set it any more.
async fn until(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone: time to end as well.
    drop(stop.wait_for(|stop| *stop).await);
}

fn coordinator_config(config: &YardConfig) -> Config {
    let mut core = core::Config { node_faults_max: NODE_FAULTS_MAX, ..core::Config::default() };
    if let Some(lease) = config.lease {
        core.lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        core.keep_local = false;
        // Nothing may outlive this process, whatever the job would like.
        core.job_leases = false;
    }
    Config {
        listen: config.listen,
        state_dir: config.state_dir.clone(),
        token: config.token.clone(),
        insecure_listen: config.insecure_listen,
        core,
        retention: Retention::default(),
        init: config.init,
        commit: COMMIT.to_owned(),
    }
}

/// An address that listens everywhere is reached at loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}

/// Another NVML than the driver's, for tests.
fn nvml_library() -> Option<PathBuf> {
    std::env::var_os("TRAINYARD_NVML_LIBRARY").filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn agent_configs(
    config: &YardConfig,
    url: &str,
    gpus: &GpuHandle,
    nvml_library: Option<&Path>,
) -> anyhow::Result<Vec<AgentConfig>> {
    if config.nodes == 0 {
        return Ok(Vec::new());
    }
    let shim = write_shim(&config.state_dir)?;
    let gpus: Vec<_> = gpus.list().gpus.into_iter().map(|unit| unit.uuid).collect();
    let shares = gpu::split(&gpus, usize::try_from(config.nodes).unwrap_or(usize::MAX));
    let agents = shares.into_iter().zip(0..config.nodes).map(|(share, node)| AgentConfig {
        node: format!("node-{node}"),
        coordinator: url.to_owned(),
        token: config.token.clone(),
        root: config.state_dir.join("nodes").join(node.to_string()).join("LS_root"),
        address: loopback(node),
        shim: shim.clone(),
        nvml_library: nvml_library.map(Path::to_owned),
        gpu_share: Some(share.into_iter().map(|uuid| uuid.0).collect()),
        metrics_period: None,
        cgroups: true,
        log_quota_bytes: trainyard_agent::config::LOG_QUOTA_BYTES,
    });
    Ok(agents.collect())
}

/// 127.0.0.2, 127.0.0.3, ...: Linux has all of 127.0.0.0/8 on loopback.
fn loopback(node: u32) -> String {
    std::net::Ipv4Addr::from(u32::from(std::net::Ipv4Addr::LOCALHOST) + 1 + node).to_string()
}

/// Writes out the shim that this binary carries; gives its path.
pub(crate) fn write_shim(dir: &Path) -> anyhow::Result<PathBuf> {
    let path = dir.join("trainyard-shim");
    if std::fs::read(&path).is_ok_and(|there| there == SHIM) {
        return Ok(path);
    }
    std::fs::create_dir_all(dir).with_context(|| format!("making the directory {}", dir.display()))?;
    // A shim that runs keeps its own file: the new one takes over the name only.
    let tmp = dir.join(format!("trainyard-shim.tmp{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        std::fs::write(&tmp, SHIM)?;
        std::fs::set_permissions(&tmp, std::fs::Permissions::from_mode(0o755))?;
        std::fs::rename(&tmp, &path)
    };
    write().with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// The coordinator's daemon, until SIGTERM or SIGINT.
pub(crate) async fn run_coordinator(config: Config) -> anyhow::Result<()> {
    let end = asked_to_end()?;
    let (ready, _) = oneshot::channel();
    trainyard_coordinator::serve(config, ready, end).await?;
    Ok(())
}

/// A node's daemon, until SIGTERM or SIGINT.
pub(crate) async fn run_agent(config: AgentConfig) -> anyhow::Result<()> {
    let end = asked_to_end()?;
    trainyard_agent::serve(config, end).await?;
    Ok(())
}

fn asked_to_end() -> anyhow::Result<impl Future<Output = ()> + Send> {
    let mut int = signal(SignalKind::interrupt()).context("listening for signals")?;
    let mut term = signal(SignalKind::terminate()).context("listening for signals")?;
    Ok(async move {
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_nodes_have_addresses_of_their_own() {
        assert_eq!([loopback(0), loopback(1), loopback(300)], ["127.0.0.2", "127.0.0.3", "127.0.1.46"]);
    }

    #[test]
    fn an_address_that_listens_everywhere_is_reached_at_loopback() {
        let check = |text: &str, expected: &str| {
            assert_eq!(reachable(text.parse().unwrap()).to_string(), expected);
        };
        check("0.0.0.0:1", "127.0.0.1:1");
        check("[::]:1", "[::1]:1");
        check("10.0.0.4:1", "10.0.0.4:1");
    }

    #[test]
    fn the_shim_is_written_once_and_can_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = write_shim(dir.path()).unwrap();
        let first = std::fs::metadata(&path).unwrap();
        assert_eq!(first.permissions().mode() & 0o777, 0o755);
        assert_eq!(std::fs::read(&path).unwrap(), SHIM);
        write_shim(dir.path()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), first.modified().unwrap());
        std::fs::write(&path, "old").unwrap();
        write_shim(dir.path()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), SHIM);
    }
}
