//! The shell around `core::coordinator`: store, driver, gRPC for agents and REST for clients on one port.
//!
//! Tasks and threads: the driver (a thread, owner of state and store; bounded queue), the accept loop, one
//! task per connection, one per agent session and log upload, the log sweeper (a thread), the watchdog, the
//! retention.

pub mod clock;
pub mod config;
mod download;
pub mod driver;
pub mod grpc;
pub mod inventory;
pub mod logs;
pub mod metrics;
mod notify;
mod port;
mod rest;
mod retention;
pub mod store;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::sync::oneshot;

pub use config::{Config, ConfigError, FileConfig, Retention};

use clock::{Clock, RealClock};
use download::Signer;
use grpc::{Agents, Sessions};
use logs::LogStore;
use metrics::History;
use rest::{App, CanonicalPath};
use store::{OpenError, Read, SqliteStore, Store, StoreError};

/// Why the coordinator cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database fails; nothing is decided any more, and everything that runs goes on.
    #[error("the database failed: nothing more is decided; what runs goes on")]
    Store(#[from] StoreError),
    /// The folder of logs cannot be made.
    #[error("the folder of logs cannot be opened: {path}")]
    Logs {
        /// It.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The port is taken, or the address is not of this machine.
    #[error("cannot listen on {address}")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An error of the build.
    #[error("the descriptors for reflection do not fit")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Its thread has panicked.
    #[error("the driver has stopped without a word")]
    DriverLost,
}

/// Runs a coordinator until `shutdown` or an error. `ready` gets the address once requests are answered.
///
/// Ending it in any way ends no task of any job.
///
/// # Errors
/// See [`CoordinatorError`].
pub async fn serve(
    config: Config,
    ready: oneshot::Sender<SocketAddr>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), CoordinatorError> {
    config.check()?;
    let folder = config.folder();
    let init = config.init;
    let store = blocking(move || SqliteStore::open_or_init(&folder, init)).await?;
    serve_on(config, Box::new(store), Arc::new(RealClock::new()), ready, shutdown).await
}

/// As [`serve`], on this store and clock.
///
/// # Errors
/// See [`CoordinatorError`].
pub async fn serve_on(
    mut config: Config,
    store: Box<dyn Store>,
    clock: Arc<dyn Clock>,
    ready: oneshot::Sender<SocketAddr>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), CoordinatorError> {
    config.check()?;
    if config.core.boot_id.is_empty() {
        config.core.boot_id = boot_id();
    }
    let path = config.folder().join("logs");
    let logs = LogStore::open(&path).map_err(|source| CoordinatorError::Logs { path, source })?;
    let logs = Arc::new(logs);
    let reader = store.reader();
    let sessions = Arc::new(Sessions::new());
    let history = Arc::new(Mutex::new(History::default()));

    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.map_err(|source| CoordinatorError::Listen { address: config.listen, source })?;
    let address = listener
        .local_addr()
        .map_err(|source| CoordinatorError::Listen { address: config.listen, source })?;

    let (core, of_retention) = (config.core, clock.clone());
    let parts = driver::Parts { config: core, store, clock, sessions: sessions.clone(), logs: logs.clone() };
    let (driver, mut driver_end) = driver::start(parts)?;
    let key = reader.clone();
    let signer = Signer::new(&blocking(move || key.link_key()).await?);
    sweep(logs.clone(), reader.clone());

    let agents = Agents {
        driver: driver.clone(),
        sessions: sessions.clone(),
        logs: logs.clone(),
        history: history.clone(),
        reader: reader.clone(),
    };
    let app = App::new(driver.clone(), reader, sessions.clone(), logs, history, signer, config.commit);
    let router = rest::router(app, grpc::routes(agents).await?, Arc::new(config.token));
    let port = port::open(listener, router, CanonicalPath::new());
    let watchdog = notify::started(driver.clone());
    let retention = retention::start(config.retention, driver.clone(), of_retention);
    tracing::info!(%address, generation = %driver.generation(), "the coordinator is ready");
    // The caller may not want to know.
    ready.send(address).unwrap_or_default();

    let end = tokio::select! {
        () = shutdown => {
            driver.stop().await;
            (&mut driver_end).await
        }
        end = &mut driver_end => end,
    };
    notify::stopping();
    watchdog.abort();
    retention.abort();
    sessions.close_all();
    port.close().await;
    match end {
        Ok(end) => Ok(end?),
        Err(_panic) => Err(CoordinatorError::DriverLost),
    }
}

/// Removes logs that a crash left behind. Those that a lost database may know stay.
fn sweep(logs: Arc<LogStore>, reader: Arc<dyn Read>) {
    tokio::task::spawn_blocking(move || {
        // If the database cannot be read, everything counts as known.
        let Ok(numbers) = reader.numbers() else { return };
        let is_known = |job| {
            // A job that was given its number since then has it in the database.
            numbers.may_be_lost(job) || reader.job_by_id(job).map_or(true, |job| job.is_some())
        };
        if let Err(error) = logs.sweep(is_known) {
            tracing::warn!(%error, "logs of removed jobs may stay behind");
        }
    });
}

/// Of the machine; empty if the kernel does not tell, so that no node counts as local.
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Runs on a blocking thread; a panic there goes on here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => std::panic::resume_unwind(Box::new("the runtime has ended")),
        },
    }
}
