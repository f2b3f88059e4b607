//! All wiring of an agent, in the order in which its parts need each other.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use trainyard_core::agent::{Record, State};
use trainyard_core::id::{AttemptId, GangId};
use trainyard_proto::v1;

use crate::config::{AgentConfig, ConfigError};
use crate::driver::{Driver, Event, Node, Parts, QUEUE};
use crate::gpu::{GpuHandle, Share, nvml};
use crate::journal::{JournalError, disk::DiskJournal};
use crate::link::Link;
use crate::metric::{self, Sampler};
use crate::setup::{Setup, may_mount};
use crate::spool::Spool;
use crate::supervisor::{AttemptLimits, CgroupMode, Supervisor, SupervisorConfig};
use crate::{inventory, local, node, systemd};

/// Batches of numbers that wait for the session; more are dropped.
const METRIC_QUEUE: usize = 4;
/// How long the end of an agent waits for clean-ups under way.
const CLEAN_UP_WAIT: Duration = Duration::from_secs(5);
/// After a change of the GPUs' health, before looking again: changes come in groups.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Between two looks at the room on the disk.
const DISK_LOOK: Duration = Duration::from_secs(5);

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A setting.
    #[error("bad setting: {0}")]
    Config(#[from] ConfigError),
    /// The journal.
    #[error("the agent's journal cannot be used")]
    Journal(#[from] JournalError),
    /// A folder, socket or thread that it needs.
    #[error("cannot {0}")]
    Start(&'static str, #[source] io::Error),
    /// Its loop has died of a bug.
    #[error("the agent's loop ended unexpectedly")]
    Loop,
}

/// Runs an agent until `shutdown` ends. Tasks are left running.
///
/// # Errors
/// [`AgentError`]; tasks are left running then, too.
pub async fn serve(config: AgentConfig, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
    config.check()?;
    let options = nvml::Options { library: config.nvml_library.clone(), ..nvml::Options::default() };
    let nvml =
        nvml::NvmlGpu::start(options).map_err(|error| AgentError::Start("start NVML's thread", error))?;
    serve_with_gpus(config, Arc::new(nvml), shutdown).await
}

/// [`serve`] with GPUs that are shared with other agents of this process.
///
/// # Errors
/// See [`serve`].
pub async fn serve_with_gpus(
    config: AgentConfig,
    gpus: GpuHandle,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    config.check()?;
    let start = |act| move |error| AgentError::Start(act, error);
    let gpus: GpuHandle = match &config.gpu_share {
        Some(uuids) => Arc::new(Share::new(gpus, uuids.iter().cloned().map(trainyard_core::unit::GpuUuid))),
        None => gpus,
    };
    let privileged = may_mount();
    let setup = Setup::new(config.root.clone(), privileged).with_gpus(Arc::clone(&gpus));
    setup.make_root().map_err(start("make the root folder"))?;
    let (journal, records) = DiskJournal::open(&config.root.join("journal"))?;
    let cgroups = if config.cgroups {
        CgroupMode::detect(&config.root)
    } else {
        CgroupMode::None { reason: "no cgroups: switched off by the agent's settings".into() }
    };
    let limitations = node::limitations(&cgroups, privileged);
    for limitation in &limitations {
        tracing::warn!("{limitation}");
    }
    let groups = cgroups.clone();
    let (shim_events, mut shims) = mpsc::unbounded_channel();
    let supervisor = Supervisor::new(
        SupervisorConfig {
            run_dir: config.root.join("run"),
            shim: config.shim.clone(),
            cgroups,
            limits: AttemptLimits::default(),
        },
        shim_events,
    );
    let supervisor = Arc::new(supervisor.map_err(start("make the run folder"))?);
    let spool = Spool::start(config.root.join("spool"), config.node.clone(), config.log_quota_bytes)
        .map_err(start("start the spool"))?;
    let listener = local::listen(&config.root).map_err(start("listen on the local socket"))?;
    sweep(&records, &supervisor, &spool, &setup).await;

    let (events, received) = mpsc::channel(QUEUE);
    let (running, mut running_changes) = watch::channel(Default::default());
    let (lease_ms, lease_changes) = watch::channel(None);
    let (cleaning, mut clean) = watch::channel(0);
    let driver = Driver::new(Parts {
        records,
        journal,
        supervisor: Arc::clone(&supervisor),
        spool: spool.clone(),
        setup,
        runtime: tokio::runtime::Handle::current(),
        events: events.downgrade(),
        cleaning,
        running,
        lease_ms,
        node: Node {
            name: config.node.clone(),
            coordinator: config.coordinator.clone(),
            root: config.root.to_string_lossy().into_owned(),
            privileged,
            limitations: limitations.clone(),
            ..Node::default()
        },
    });
    let (ended, driver_end) = oneshot::channel();
    std::thread::Builder::new()
        .name("agent".into())
        .spawn(move || ended.send(driver.run(received)))
        .map_err(start("start the agent's thread"))?;
    let boot_id = node::boot_id();
    send(&events, Event::Core(trainyard_core::agent::Event::Restarted { boot_id: boot_id.clone() })).await?;

    let mut parts = JoinSet::new();
    let to_driver = events.clone();
    parts.spawn(async move {
        while let Some(event) = shims.recv().await {
            if to_driver.send(Event::Shim(event)).await.is_err() {
                return;
            }
        }
    });
    parts.spawn(local::serve(listener, events.clone()));
    parts.spawn(systemd::watchdog(events.clone()));

    let (look, mut gpu_changes) = (look_at(&gpus, &limitations, &config.root), gpus.changes());
    let first = look().await;
    let (inventory, inventory_changes) = watch::channel(first);
    let facts = node::facts(&config, privileged, boot_id, &inventory.borrow());
    let root = config.root.clone();
    parts.spawn(async move {
        let mut disk = tokio::time::interval(DISK_LOOK);
        let mut has_gpus = true;
        loop {
            tokio::select! {
                changed = gpu_changes.changed(), if has_gpus => has_gpus = changed.is_ok(),
                _ = disk.tick() => {
                    let was = inventory.borrow().degraded.clone();
                    let degraded = inventory::problem(&root, &was);
                    if degraded != was {
                        match degraded.as_str() {
                            "" => tracing::info!("the disk has room again: this node takes work"),
                            problem => tracing::error!(problem, "this node takes no work"),
                        }
                        inventory.send_modify(|held| held.degraded = degraded);
                    }
                    continue;
                }
            }
            if !has_gpus {
                continue;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            gpu_changes.mark_unchanged();
            let found = look().await;
            inventory.send_if_modified(|held| {
                let changed = *held != found;
                *held = found;
                changed
            });
        }
    });

    let (batches, metrics) = mpsc::channel(METRIC_QUEUE);
    let (metrics_period, mut period_changes) = watch::channel(config.metrics_period);
    let tasks = node::RunningTasks::new(running_changes.clone(), Arc::clone(&supervisor));
    let sampling = metric::Config {
        period: config.metrics_period.unwrap_or(metric::sampler::PERIOD),
        root: config.root.clone(),
    };
    let sampler = Sampler::spawn(sampling, Arc::clone(&gpus), Arc::new(tasks), batches);
    let sampler = sampler.map_err(start("start the metrics' thread"))?;
    let fixed = config.metrics_period.is_some();
    parts.spawn(async move {
        let mut count = 0;
        loop {
            tokio::select! {
                Ok(()) = running_changes.changed() => {
                    let now = running_changes.borrow_and_update().len();
                    if now > count {
                        sampler.wake();
                    }
                    count = now;
                }
                Ok(()) = period_changes.changed(), if !fixed => {
                    if let Some(period) = *period_changes.borrow_and_update() {
                        sampler.set_period(period);
                    }
                }
                else => return,
            }
        }
    });

    let link = Link {
        node: config.node.clone(),
        coordinator: config.coordinator.clone(),
        token: config.token.clone(),
        facts,
        inventory: inventory_changes,
        driver: events.clone(),
        spool: spool.clone(),
        metrics,
        metrics_period,
        lease_ms: lease_changes,
    };
    parts.spawn(link.run());
    systemd::ready(&format!("agent of {}, coordinator {}", config.node, config.coordinator));

    let mut driver_end = driver_end;
    let end = tokio::select! {
        () = shutdown => None,
        end = &mut driver_end => Some(end),
    };
    systemd::stopping();
    // The link goes first, so that nothing new comes in; then the loop ends with its turn.
    parts.shutdown().await;
    let end = match end {
        Some(end) => end,
        None => {
            // It fails if the loop has ended just now, which its result tells.
            events.send(Event::Shutdown).await.ok();
            driver_end.await
        }
    };
    // Mounts of a job that is over should not outlive its agent; a clean-up that hangs is left to the next one.
    let all_clean = clean.wait_for(|count| *count == 0);
    if tokio::time::timeout(CLEAN_UP_WAIT, all_clean).await.is_err() {
        tracing::warn!("a clean-up goes on too long: the next agent of this root finishes it");
    }
    // It fails if its thread has failed, which was logged there.
    spool.close().await.ok();
    // A `run` comes once: its groups would pile up. Those of tasks that go on stay, and so do their folders.
    groups.remove_roots();
    end.map_err(|_| AgentError::Loop)??;
    Ok(())
}

async fn send(events: &mpsc::Sender<Event>, event: Event) -> Result<(), AgentError> {
    events.send(event).await.map_err(|_| AgentError::Loop)
}

/// What this node is, asked on a thread that may wait for NVML.
fn look_at(
    gpus: &GpuHandle,
    limitations: &[String],
    root: &Path,
) -> impl Fn() -> std::pin::Pin<Box<dyn Future<Output = v1::Inventory> + Send>> + Send + 'static {
    let (gpus, limitations, root) = (Arc::clone(gpus), limitations.to_vec(), root.to_owned());
    move || {
        let (gpus, limitations, root) = (Arc::clone(&gpus), limitations.clone(), root.clone());
        Box::pin(async move {
            let looking = tokio::task::spawn_blocking(move || v1::Inventory {
                degraded: inventory::problem(&root, ""),
                ..inventory::collect(&gpus, limitations)
            });
            // A panic in there is a bug, but no reason to end an agent that supervises tasks.
            looking.await.unwrap_or_default()
        })
    }
}

/// Removes what a dead agent could not: mounts, run folders and spools of gangs that are not held.
async fn sweep(records: &[Record], supervisor: &Supervisor, spool: &Spool, setup: &Setup) {
    let state = State::recover(records.iter().cloned());
    let is_held = |gang: &GangId| state.gangs().contains_key(gang);
    let job_temps: Vec<_> = state.gangs().values().map(|gang| gang.plan.job_temp.clone().into()).collect();
    setup.unmount_leftovers(&job_temps);
    match supervisor.list() {
        Ok(attempts) => {
            // What survived SIGKILL is adopted, and forgotten once it is gone.
            let is_needed =
                |attempt: &AttemptId| is_held(&attempt.gang_id()) || state.stuck().contains(attempt);
            for attempt in attempts.into_iter().filter(|attempt| !is_needed(attempt)) {
                if let Err(error) = supervisor.forget(attempt).await {
                    tracing::warn!(%attempt, %error, "an attempt that no gang needs cannot be removed");
                }
            }
        }
        Err(error) => tracing::warn!(%error, "run folders cannot be listed"),
    }
    match spool.gangs() {
        Ok(gangs) => {
            for gang in gangs.into_iter().filter(|gang| !is_held(gang)) {
                if let Err(error) = spool.open(gang, Vec::new()) {
                    tracing::warn!(%gang, %error, "a spool folder cannot be opened");
                }
                spool.end_all(gang);
                spool.release(gang);
            }
        }
        Err(error) => tracing::warn!(%error, "spool folders cannot be listed"),
    }
}
