//! What an operator can set: one struct, read once; the TOML form of it, whose unknown keys are refused.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use trainyard_core::coordinator as core;
use trainyard_core::coordinator::state::NODE_FAULTS_MAX;
use trainyard_core::text::Secret;

use crate::store::JOURNAL_KEEP_ENTRIES;

/// Shortest and longest lease.
const LEASE_S: (u64, u64) = (10, 24 * 60 * 60);
/// A hundred years.
const RETAIN_DAYS_MAX: u64 = 36_525;
/// Three of them are 12 s: half-open connections are noticed within 15 s.
const HEARTBEAT_S_MAX: u64 = 4;
/// The shortest token that is taken, characters: `up` draws 43.
const TOKEN_CHARACTERS: usize = 16;

/// What an operator can set.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address and port of the one listener; port 0: any free one.
    pub listen: SocketAddr,
    /// Where everything lies that outlives the process; the coordinator's part is `coordinator` below it.
    pub state_dir: PathBuf,
    /// Who has it may do everything.
    pub token: Secret,
    /// Listen beyond loopback although nothing is encrypted.
    pub insecure_listen: bool,
    /// Of the pure core. An empty `boot_id` is read from the kernel.
    pub core: core::Config,
    /// How long jobs that have ended, and the event log, are kept.
    pub retention: Retention,
    /// Begin anew where the database is lost.
    pub init: bool,
    /// Commit of the build, for `/api/v1/version`.
    pub commit: String,
}

/// What is kept of jobs that have ended, with their logs, and of the event log. Open jobs always stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Days after their end; 0: for ever. Default 90.
    pub days: u64,
    /// The newest so many jobs; 0: any number. Default 0.
    pub jobs: u64,
    /// The newest so many entries of the event log; 0: any number. Default 1,000,000.
    pub events: u64,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { days: 90, jobs: 0, events: JOURNAL_KEEP_ENTRIES }
    }
}

/// A setting that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Tokens and secrets would cross the network in the clear.
    #[error(
        "{0} can be reached from other machines, and this version does not encrypt: listen on 127.0.0.1 (agents and clients come through an SSH tunnel or VPN), or set `insecure_listen = true` (--insecure-listen) in a network that nobody else reaches"
    )]
    OpenListen(SocketAddr),
    /// Whoever can guess it may do everything.
    #[error(
        "the token has fewer than {TOKEN_CHARACTERS} characters: take 32 random bytes, as `openssl rand -hex 32` prints them"
    )]
    WeakToken,
    /// A header cannot hold it.
    #[error("the token holds characters other than printable ASCII without blanks")]
    BadToken,
    /// Out of its range.
    #[error("{key} = {value} is out of range: {low} to {high} are possible")]
    OutOfRange {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: u64,
        /// The least.
        low: u64,
        /// The most.
        high: u64,
    },
    /// The file cannot be read.
    #[error("{path} cannot be read")]
    Io {
        /// It.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML, or a value has another type.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// With line and column.
        message: String,
    },
    /// A key that means nothing.
    #[error("{path}: `{key}` is no setting of the coordinator{}", nearest_hint(.nearest))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// It.
        key: String,
        /// The setting that is spelled most like it.
        nearest: Option<&'static str>,
    },
}

fn nearest_hint(nearest: &Option<&'static str>) -> String {
    nearest.map(|name| format!(": did you mean `{name}`?")).unwrap_or_default()
}

impl Config {
    /// Whether it can work.
    ///
    /// # Errors
    /// The first setting that cannot.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !self.listen.ip().is_loopback() && !self.insecure_listen {
            return Err(ConfigError::OpenListen(self.listen));
        }
        let token = self.token.expose();
        if token.len() < TOKEN_CHARACTERS {
            return Err(ConfigError::WeakToken);
        }
        if !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ConfigError::BadToken);
        }
        let core = &self.core;
        for (key, ms, low, high) in [
            ("lease_s", core.lease_ms, LEASE_S.0, LEASE_S.1),
            ("heartbeat_s", core.heartbeat_ms, 1, HEARTBEAT_S_MAX),
            ("node_faults_window_s", core.node_faults_window_ms, 1, 7 * 24 * 3600),
            ("metrics_period_s", core.metrics_period_ms, 1, 3600),
            ("stop_grace_s", core.stop_grace_ms, 0, 3600),
        ] {
            // Below a second only tests set these; they are whole seconds in files.
            let value = ms.div_ceil(1000);
            if !(low..=high).contains(&value) {
                return Err(ConfigError::OutOfRange { key, value, low, high });
            }
        }
        // Days are counted in milliseconds.
        let (key, value) = ("retain_days", self.retention.days);
        if value > RETAIN_DAYS_MAX {
            return Err(ConfigError::OutOfRange { key, value, low: 0, high: RETAIN_DAYS_MAX });
        }
        Ok(())
    }

    /// The coordinator's own folder.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        folder(&self.state_dir)
    }
}

/// The coordinator's own folder in a state directory.
#[must_use]
pub fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("coordinator")
}

/// The TOML form: every key may be left out; flags and environment variables go before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct FileConfig {
    /// `"127.0.0.1:8470"`
    pub listen: Option<SocketAddr>,
    /// Absolute.
    pub state_dir: Option<PathBuf>,
    /// A file with the token on its first line, mode 0600.
    pub token_file: Option<PathBuf>,
    /// See [`Config::insecure_listen`].
    pub insecure_listen: Option<bool>,
    /// How long attempts of a silent node count as alive, seconds: 10 .. 86400; default 900.
    pub lease_s: Option<u64>,
    /// How often agents say that they are there, seconds: 1 .. 4, default 4.
    pub heartbeat_s: Option<u64>,
    /// How often agents send metrics, seconds; default 5.
    pub metrics_period_s: Option<u64>,
    /// From TERM to KILL, seconds; default 10.
    pub stop_grace_s: Option<u64>,
    /// Whether attempts on the coordinator's own machine are kept when the lease runs out; default true.
    pub keep_local: Option<bool>,
    /// Tries of a job that may end by the infrastructure's fault in a row; default 10.
    pub infrastructure_tries: Option<u32>,
    /// See [`Retention::days`].
    pub retain_days: Option<u64>,
    /// See [`Retention::jobs`].
    pub retain_jobs: Option<u64>,
    /// See [`Retention::events`].
    pub retain_events: Option<u64>,
    /// Infrastructure faults of a node within `node_faults_window_s` that take it out of service; 0: none do;
    /// default 3.
    pub node_faults: Option<u32>,
    /// Seconds; default 3600.
    pub node_faults_window_s: Option<u64>,
}

impl FileConfig {
    /// Every key.
    pub const KEYS: [&'static str; 15] = [
        "listen",
        "state_dir",
        "token_file",
        "insecure_listen",
        "lease_s",
        "heartbeat_s",
        "metrics_period_s",
        "stop_grace_s",
        "keep_local",
        "infrastructure_tries",
        "retain_days",
        "retain_jobs",
        "retain_events",
        "node_faults",
        "node_faults_window_s",
    ];

    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, is no TOML, or holds a key that means nothing.
    pub fn read(path: &Path) -> Result<FileConfig, ConfigError> {
        let io = |source| ConfigError::Io { path: path.to_owned(), source };
        FileConfig::parse(&std::fs::read_to_string(path).map_err(io)?, path)
    }

    /// Reads text; `path` is for messages.
    ///
    /// # Errors
    /// It is no TOML, or holds a key that means nothing.
    pub fn parse(text: &str, path: &Path) -> Result<FileConfig, ConfigError> {
        let syntax = |error: toml::de::Error| ConfigError::Syntax {
            path: path.to_owned(),
            message: error.to_string(),
        };
        let keys: BTreeMap<String, toml::Value> = toml::from_str(text).map_err(syntax)?;
        for key in keys.keys() {
            if !FileConfig::KEYS.contains(&key.as_str()) {
                let (path, key) = (path.to_owned(), key.clone());
                let nearest = nearest(&key);
                return Err(ConfigError::UnknownKey { path, key, nearest });
            }
        }
        toml::from_str(text).map_err(syntax)
    }

    /// What the file says of the core, on top of the defaults.
    #[must_use]
    pub fn core(&self) -> core::Config {
        let mut core = core::Config::default();
        let ms = |seconds: u64| seconds.saturating_mul(1000);
        core.lease_ms = self.lease_s.map_or(core.lease_ms, ms);
        core.heartbeat_ms = self.heartbeat_s.map_or(core.heartbeat_ms, ms);
        core.metrics_period_ms = self.metrics_period_s.map_or(core.metrics_period_ms, ms);
        core.stop_grace_ms = self.stop_grace_s.map_or(core.stop_grace_ms, ms);
        core.keep_local = self.keep_local.unwrap_or(core.keep_local);
        core.infrastructure_tries = self.infrastructure_tries.unwrap_or(core.infrastructure_tries);
        core.node_faults_max = self.node_faults.unwrap_or(NODE_FAULTS_MAX);
        core.node_faults_window_ms = self.node_faults_window_s.map_or(core.node_faults_window_ms, ms);
        core
    }
}

fn nearest(key: &str) -> Option<&'static str> {
    let distance = |name: &&'static str| strsim::damerau_levenshtein(key, name);
    FileConfig::KEYS.into_iter().min_by_key(distance).filter(|name| distance(name) <= name.len() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            state_dir: PathBuf::from("/nonexistent"),
            token: Secret::new("0123456789abcdef".to_owned()),
            insecure_listen: false,
            core: core::Config::default(),
            retention: Retention::default(),
            init: false,
            commit: String::new(),
        }
    }

    #[test]
    fn a_listener_beyond_loopback_is_refused_unless_asked_for() {
        let open = Config { listen: "0.0.0.0:8470".parse().unwrap(), ..config() };
        let message = open.check().unwrap_err().to_string();
        assert!(message.contains("insecure_listen = true"), "{message}");
        assert!(Config { insecure_listen: true, ..open }.check().is_ok());
        assert!(config().check().is_ok());
        assert!(Config { listen: "[::1]:1".parse().unwrap(), ..config() }.check().is_ok());
    }

    #[test]
    fn tokens_and_numbers_are_checked() {
        let weak = Config { token: Secret::new("short".to_owned()), ..config() };
        assert!(matches!(weak.check(), Err(ConfigError::WeakToken)));
        let bad = Config { token: Secret::new("a token with blanks".to_owned()), ..config() };
        assert!(matches!(bad.check(), Err(ConfigError::BadToken)));
        let lease = core::Config { lease_ms: 9_000, ..core::Config::default() };
        let short = Config { core: lease, ..config() };
        assert!(matches!(short.check(), Err(ConfigError::OutOfRange { key: "lease_s", value: 9, .. })));
    }

    #[test]
    fn files_are_read_and_unknown_keys_refused() {
        let path = Path::new("coordinator.toml");
        let file = FileConfig::parse("listen = \"127.0.0.1:9\"\nlease_s = 60\n", path).unwrap();
        assert_eq!(file.core().lease_ms, 60_000);
        assert_eq!(file.listen, Some("127.0.0.1:9".parse().unwrap()));
        let error = FileConfig::parse("leese_s = 60", path).unwrap_err().to_string();
        assert_eq!(
            error,
            "coordinator.toml: `leese_s` is no setting of the coordinator: did you mean `lease_s`?"
        );
        let error = FileConfig::parse("x = 1", path).unwrap_err().to_string();
        assert!(error.ends_with("no setting of the coordinator"), "{error}");
        assert!(matches!(FileConfig::parse("lease_s = \"a\"", path), Err(ConfigError::Syntax { .. })));
        assert!(matches!(FileConfig::parse("lease_s = ", path), Err(ConfigError::Syntax { .. })));
    }
}
