//! `trainyard agent`: a node's daemon, and the verbs that ask it on its own node, without any coordinator.

mod local;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use trainyard_agent::config::{AgentConfig, LOG_QUOTA_BYTES};
use trainyard_core::text::Secret;

use crate::config::{self, PORT};
use crate::exit::{self, Coded};
use crate::output::{self, Format};
use crate::settings::Settings;
use crate::yard;

/// Users hard-code it: Batch AI's `AZ_BATCHAI_ROOT`.
const DEFAULT_ROOT: &str = "/mnt/batch/tasks/shared/LS_root";

/// Run a node's daemon, or ask the one of this node.
///
/// Every flag can also be set in the file given by --config (TOML, names with `_`), and in the environment as
/// TRAINYARD_ and the name in capitals. A flag wins over the environment, and that over the file. The token
/// comes from TRAINYARD_TOKEN or --token-file.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  trainyard agent --coordinator http://10.0.0.4:8470 --token-file /etc/trainyard/token
  trainyard agent --config /etc/trainyard/agent.toml --check-config
  trainyard agent status
  trainyard agent enter worker-0 --node 1"
)]
pub(crate) struct Agent {
    #[command(subcommand)]
    verb: Option<local::Verb>,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, Args)]
struct Daemon {
    /// Settings, TOML.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The coordinator: http://HOST:PORT.
    #[arg(long, value_name = "URL")]
    coordinator: Option<String>,
    /// The node's name; the host's unless given.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Where the node keeps mounts, job files and logs [default: /mnt/batch/tasks/shared/LS_root]
    #[arg(long, value_name = "DIR")]
    root: Option<String>,
    /// Where other nodes reach this one, without port; found by the route to the coordinator unless given.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// A file with the coordinator's token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,
    /// NVIDIA's management library; where the driver puts it unless given.
    #[arg(long, value_name = "FILE")]
    nvml_library: Option<String>,
    /// Seconds between two measurements; as the coordinator says unless given.
    #[arg(long, value_name = "SECONDS")]
    metrics_period_s: Option<String>,
    /// Whether to keep each task in a cgroup where the rights suffice [default: true]
    #[arg(long, value_name = "true|false")]
    cgroups: Option<String>,
    /// MiB of one task's logs that wait here to be stored; then the oldest are dropped [default: 1024]
    #[arg(long, value_name = "MIB")]
    log_quota_mib: Option<String>,
    /// Check the settings, print them with their sources, and do nothing else.
    #[arg(long)]
    check_config: bool,
}

impl Agent {
    pub(crate) fn run(self, format: Format) -> anyhow::Result<u8> {
        match self.verb {
            Some(verb) => verb.run(format),
            None => self.daemon.run(format),
        }
    }
}

impl Daemon {
    fn run(self, format: Format) -> anyhow::Result<u8> {
        let mut settings = Settings::read(self.config.as_deref());
        let config = self.config(&mut settings);
        let errors = settings.errors();
        if !errors.is_empty() {
            return Err(Coded::bad_input(errors.join("\n       ")).into());
        }
        if self.check_config {
            output::print(format, &settings.effective(), settings_table)?;
            return Ok(exit::OK);
        }
        let mut config = config.ok_or_else(|| Coded::bad_input("the settings are incomplete"))?;
        super::start_log("info");
        config.shim = yard::write_shim(&config.root)?;
        super::daemon_runtime()?.block_on(yard::run_agent(config))?;
        Ok(exit::OK)
    }

    /// All settings; `None` if one is wrong, which `settings` then knows.
    fn config(&self, settings: &mut Settings) -> Option<AgentConfig> {
        let hint = "give --coordinator, TRAINYARD_COORDINATOR or the key in --config";
        let coordinator: Option<String> = settings.required("coordinator", self.coordinator.clone(), hint);
        let coordinator = coordinator.and_then(|url| match config::coordinator_url(&url) {
            Ok(url) => Some(url),
            Err(e) => {
                settings.refuse(format!("coordinator: {e}"));
                None
            }
        });
        let node = settings.get("node", self.node.clone(), &host_name());
        let root: Option<PathBuf> = settings.get("root", self.root.clone(), DEFAULT_ROOT);
        let found =
            coordinator.as_deref().and_then(address_towards).unwrap_or_else(|| "127.0.0.1".to_owned());
        let address = settings.get("address", self.address.clone(), &found);
        let token_file: Option<PathBuf> = settings.optional("token_file", self.token_file.clone());
        let token = token(token_file.as_deref(), settings);
        let nvml_library = settings.optional("nvml_library", self.nvml_library.clone());
        let metrics_period_s: Option<u64> =
            settings.optional("metrics_period_s", self.metrics_period_s.clone());
        let cgroups = settings.get("cgroups", self.cgroups.clone(), "true");
        let log_quota_mib: Option<u64> =
            settings.get("log_quota_mib", self.log_quota_mib.clone(), &(LOG_QUOTA_BYTES >> 20).to_string());
        let config = AgentConfig {
            node: node?,
            coordinator: coordinator?,
            token: token?,
            root: root?,
            address: address?,
            // Written when the daemon starts.
            shim: PathBuf::from("/bin/sh"),
            nvml_library,
            gpu_share: None,
            metrics_period: metrics_period_s.map(Duration::from_secs),
            cgroups: cgroups?,
            log_quota_bytes: log_quota_mib?.saturating_mul(1 << 20),
        };
        if let Err(e) = config.check() {
            settings.refuse(e);
        }
        Some(config)
    }
}

/// From TRAINYARD_TOKEN, else from the file.
pub(super) fn token(file: Option<&Path>, settings: &mut Settings) -> Option<Secret> {
    if let Some(token) = std::env::var("TRAINYARD_TOKEN").ok().filter(|token| !token.is_empty()) {
        return Some(Secret::new(token));
    }
    let Some(file) = file else {
        settings.refuse("token: not set; give TRAINYARD_TOKEN or --token-file (`trainyard token` prints it)");
        return None;
    };
    match std::fs::read_to_string(file) {
        Ok(text) if !text.trim().is_empty() => Some(Secret::new(text.trim().to_owned())),
        Ok(_) => {
            settings.refuse(format!("token_file: {} is empty", file.display()));
            None
        }
        Err(e) => {
            settings.refuse(format!("token_file: {}: {e}", file.display()));
            None
        }
    }
}

/// `key = value    # source` lines: what a file would hold.
pub(super) fn settings_table(settings: &serde_json::Value) -> String {
    let settings = settings.as_object().into_iter().flatten();
    let rows = settings.map(|(key, s)| [key.clone(), output::cell(&s["value"]), output::cell(&s["source"])]);
    output::table(["SETTING", "VALUE", "FROM"], rows)
}

fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "node".to_owned())
}

/// Our own address on the route to the coordinator; nothing is sent.
fn address_towards(coordinator: &str) -> Option<String> {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    let host = coordinator.strip_prefix("http://")?;
    socket.connect(host).ok().or_else(|| socket.connect((host, PORT)).ok())?;
    Some(socket.local_addr().ok()?.ip().to_string())
}
