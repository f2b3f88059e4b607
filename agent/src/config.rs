//! Everything that one agent needs to be told, in one struct, read once and checked once.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use trainyard_core::text::Secret;

/// The settings of one agent. Its `Debug` does not show the token.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Name of the node: 1 to 255 of `A-Z a-z 0-9 . _ -`, unique in its coordinator.
    pub node: String,
    /// Where the coordinator listens: `http://HOST:PORT`.
    pub coordinator: String,
    /// What the coordinator knows this agent by.
    pub token: Secret,
    /// `LS_root`: absolute; one agent each.
    pub root: PathBuf,
    /// Where other nodes reach this one: an IP address or a host name, without port.
    pub address: String,
    /// The shim's binary, absolute.
    pub shim: PathBuf,
    /// The NVML library; absent: where the driver puts it.
    pub nvml_library: Option<PathBuf>,
    /// The UUIDs of the GPUs that this node may use; absent: all. Local nodes share a machine's by these lists.
    pub gpu_share: Option<Vec<String>>,
    /// How often to sample; absent: as the coordinator says.
    pub metrics_period: Option<Duration>,
    /// Whether to keep each task in a cgroup where the rights suffice. Default: yes.
    pub cgroups: bool,
    /// Bytes of logs of one attempt that this node keeps until they are stored; what is more is dropped, the
    /// oldest first, and recorded as a gap. Default [`LOG_QUOTA_BYTES`], at least [`LOG_QUOTA_BYTES_MIN`].
    pub log_quota_bytes: u64,
}

/// 1 GiB.
pub const LOG_QUOTA_BYTES: u64 = 1 << 30;
/// 1 MiB: some blocks of an upload.
pub const LOG_QUOTA_BYTES_MIN: u64 = 1 << 20;

/// What is wrong with a setting, with the cure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The name of the node.
    #[error("node: `{0}` is no name of a node: 1 to 255 of the characters A-Z a-z 0-9 . _ - are allowed")]
    Node(String),
    /// The coordinator's URL.
    #[error("coordinator: `{0}` is no URL of the form http://HOST:PORT")]
    Coordinator(String),
    /// No token.
    #[error("token: it is empty; `trainyard token` on the coordinator's machine prints it")]
    Token,
    /// The root folder.
    #[error("root: `{0}` is no absolute path without `..`")]
    Root(PathBuf),
    /// The address.
    #[error("address: `{0}` is no IP address or host name; give it without port")]
    Address(String),
    /// The shim.
    #[error("shim: `{0}` is no executable file with an absolute path")]
    Shim(PathBuf),
    /// The NVML library.
    #[error("nvml_library: `{0}` is no file")]
    NvmlLibrary(PathBuf),
    /// The period of the metrics.
    #[error("metrics_period: {0:?} is shorter than 100 ms")]
    MetricsPeriod(Duration),
    /// The quota of logs.
    #[error("log_quota: {0} bytes are too few; give 1048576 (1 MiB) or more")]
    LogQuota(u64),
}

impl AgentConfig {
    /// Checks every setting, as far as this machine can.
    ///
    /// # Errors
    /// The first setting that cannot be right.
    pub fn check(&self) -> Result<(), ConfigError> {
        let plain = |text: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            (1..=255).contains(&text.len()) && text.bytes().all(fits)
        };
        if !plain(&self.node) {
            return Err(ConfigError::Node(self.node.chars().take(80).collect()));
        }
        let uri = self.coordinator.parse::<tonic::codegen::http::Uri>();
        if !uri.is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.port().is_some()) {
            return Err(ConfigError::Coordinator(self.coordinator.clone()));
        }
        if self.token.expose().is_empty() {
            return Err(ConfigError::Token);
        }
        let climbs = self.root.components().any(|part| part == std::path::Component::ParentDir);
        if !self.root.is_absolute() || climbs || self.root.to_str().is_none() {
            return Err(ConfigError::Root(self.root.clone()));
        }
        if self.address.parse::<std::net::IpAddr>().is_err() && !plain(&self.address) {
            return Err(ConfigError::Address(self.address.clone()));
        }
        let executable = std::fs::metadata(&self.shim)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
        if !self.shim.is_absolute() || !executable {
            return Err(ConfigError::Shim(self.shim.clone()));
        }
        if let Some(library) = self.nvml_library.as_ref().filter(|library| !library.is_file()) {
            return Err(ConfigError::NvmlLibrary(library.clone()));
        }
        if self.log_quota_bytes < LOG_QUOTA_BYTES_MIN {
            return Err(ConfigError::LogQuota(self.log_quota_bytes));
        }
        match self.metrics_period {
            Some(period) if period < Duration::from_millis(100) => Err(ConfigError::MetricsPeriod(period)),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> AgentConfig {
        AgentConfig {
            node: "node-0".into(),
            coordinator: "http://127.0.0.1:8470".into(),
            token: Secret::new("canary".into()),
            root: "/srv/LS_root".into(),
            address: "127.0.0.2".into(),
            shim: "/bin/sh".into(),
            nvml_library: None,
            gpu_share: None,
            metrics_period: None,
            cgroups: true,
            log_quota_bytes: LOG_QUOTA_BYTES,
        }
    }

    fn check(change: impl FnOnce(&mut AgentConfig)) -> Result<(), ConfigError> {
        let mut config = good();
        change(&mut config);
        config.check()
    }

    #[test]
    fn each_setting_is_checked() {
        assert_eq!(good().check(), Ok(()));
        assert!(!format!("{:?}", good()).contains("canary"));
        assert!(matches!(check(|c| c.node = "a b".into()), Err(ConfigError::Node(_))));
        assert!(matches!(
            check(|c| c.coordinator = "127.0.0.1:8470".into()),
            Err(ConfigError::Coordinator(_))
        ));
        assert!(matches!(check(|c| c.coordinator = "http://host".into()), Err(ConfigError::Coordinator(_))));
        assert_eq!(check(|c| c.token = Secret::new(String::new())), Err(ConfigError::Token));
        assert!(matches!(check(|c| c.root = "LS_root".into()), Err(ConfigError::Root(_))));
        assert!(matches!(check(|c| c.root = "/a/../b".into()), Err(ConfigError::Root(_))));
        assert!(matches!(check(|c| c.address = "10.0.0.1:80".into()), Err(ConfigError::Address(_))));
        assert_eq!(check(|c| c.address = "fe80::1".into()), Ok(()));
        assert!(matches!(check(|c| c.shim = "/etc/passwd".into()), Err(ConfigError::Shim(_))));
        assert!(matches!(check(|c| c.nvml_library = Some("/none".into())), Err(ConfigError::NvmlLibrary(_))));
        assert_eq!(check(|c| c.log_quota_bytes = 1000), Err(ConfigError::LogQuota(1000)));
        assert!(matches!(
            check(|c| c.metrics_period = Some(Duration::from_millis(1))),
            Err(ConfigError::MetricsPeriod(_))
        ));
    }
}
