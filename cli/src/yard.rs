//! A coordinator and local nodes in this process.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use trainyard_core::text::Secret;

/// What to start.
pub(crate) struct YardConfig {
    /// Where everything lies.
    pub(crate) state_dir: PathBuf,
    /// Where the coordinator listens.
    pub(crate) listen: SocketAddr,
    /// What requests and agents need.
    pub(crate) token: Secret,
    /// How many local nodes.
    pub(crate) nodes: u32,
    /// With a lease tasks are fenced after it; without, they are kept however long nobody hears of them.
    pub(crate) lease: Option<Duration>,
}

pub(crate) struct Yard {}

impl Yard {
    pub(crate) async fn start(config: YardConfig) -> anyhow::Result<Yard> {
        drop(config);
        anyhow::bail!("soon")
    }
    pub(crate) fn url(&self) -> &str {
        ""
    }
    pub(crate) async fn failed(&self) -> anyhow::Error {
        std::future::pending().await
    }
    pub(crate) fn limitations(&self) -> Vec<String> {
        vec![]
    }
    pub(crate) async fn stop(self) {}
}
