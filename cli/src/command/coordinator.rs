//! `trainyard coordinator`: the coordinator's daemon, and what an operator does with its database.

mod backup;
mod recover;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Subcommand;
use trainyard_coordinator::{Config, Retention};
use trainyard_core::coordinator as core;
use trainyard_core::coordinator::state::NODE_FAULTS_MAX;

use super::COMMIT;
use super::agent::{settings_table, token};
use crate::config::{self, PORT};
use crate::exit::{self, Coded};
use crate::output::{self, Format};
use crate::settings::Settings;
use crate::yard;

/// Run the coordinator's daemon, or back up, restore and recover its database.
///
/// Every flag can also be set in the file given by --config (TOML, names with `_`), and in the environment as
/// TRAINYARD_ and the name in capitals. A flag wins over the environment, and that over the file. The token
/// comes from TRAINYARD_TOKEN or --token-file, else it is made once and kept in the state directory.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:
  trainyard coordinator --state-dir /var/lib/trainyard
  trainyard coordinator --config /etc/trainyard/coordinator.toml --check-config
  trainyard coordinator backup --to /srv/backup/trainyard.db

Its tasks outlive it, however it ends.",
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Coordinator {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Backup(backup::Backup),
    Restore(backup::Restore),
    Recover(recover::Recover),
}

impl Coordinator {
    pub(crate) fn run(self, format: Format) -> anyhow::Result<u8> {
        match self.verb {
            Some(Verb::Backup(verb)) => verb.run(format),
            Some(Verb::Restore(verb)) => verb.run(format),
            Some(Verb::Recover(verb)) => verb.run(format),
            None => self.daemon.run(format),
        }
    }
}

#[derive(Debug, clap::Args)]
struct Daemon {
    /// Settings, TOML.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen, for agents and clients alike [default: 127.0.0.1:8470]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// Where jobs and logs are kept [default: as for `up`]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
    /// A file with the token, mode 0600.
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,
    /// Listen beyond loopback although nothing is encrypted: in a network that nobody else reaches.
    #[arg(long)]
    insecure_listen: bool,
    /// Seconds for which tasks of a silent node count as alive [default: 900]
    #[arg(long, value_name = "SECONDS")]
    lease_s: Option<String>,
    /// Seconds between two signs of life of an agent, 1 to 4 [default: 4]
    #[arg(long, value_name = "SECONDS")]
    heartbeat_s: Option<String>,
    /// Seconds between two measurements [default: 5]
    #[arg(long, value_name = "SECONDS")]
    metrics_period_s: Option<String>,
    /// Seconds from SIGTERM to SIGKILL for tasks that are to end [default: 10]
    #[arg(long, value_name = "SECONDS")]
    stop_grace_s: Option<String>,
    /// Whether tasks on this machine are kept when their lease runs out [default: true]
    #[arg(long, value_name = "true|false")]
    keep_local: Option<String>,
    /// Tries of a job in a row that may end by the infrastructure's fault [default: 10]
    #[arg(long, value_name = "N")]
    infrastructure_tries: Option<String>,
    /// Days for which jobs that have ended are kept, with their logs; 0: for ever [default: 90]
    #[arg(long, value_name = "DAYS")]
    retain_days: Option<String>,
    /// How many jobs that have ended are kept, the newest; 0: any number [default: 0]
    #[arg(long, value_name = "N")]
    retain_jobs: Option<String>,
    /// How many entries of the event log are kept, the newest; 0: any number [default: 1000000]
    #[arg(long, value_name = "N")]
    retain_events: Option<String>,
    /// Begin anew where the database is lost: its jobs stay unknown, its logs are put aside.
    #[arg(long)]
    init: bool,
    /// Infrastructure faults of a node within the window that take it out of service; 0: none do [default: 3]
    #[arg(long, value_name = "N")]
    node_faults: Option<String>,
    /// The window for them in seconds [default: 3600]
    #[arg(long, value_name = "SECONDS")]
    node_faults_window_s: Option<String>,
    /// Check the settings, print them with their sources, and do nothing else.
    #[arg(long)]
    check_config: bool,
}

impl Daemon {
    fn run(self, format: Format) -> anyhow::Result<u8> {
        let mut settings = Settings::read(self.config.as_deref());
        let config = self.settings(&mut settings);
        let errors = settings.errors();
        if !errors.is_empty() {
            return Err(Coded::bad_input(errors.join("\n       ")).into());
        }
        let Some((mut config, token_file)) = config else {
            return Err(Coded::bad_input("the settings are incomplete").into());
        };
        if self.check_config {
            output::print(format, &settings.effective(), settings_table)?;
            return Ok(exit::OK);
        }
        super::start_log("info");
        config::make_private_dir(&config.state_dir)?;
        if token_file.is_none() && std::env::var_os("TRAINYARD_TOKEN").is_none_or(|token| token.is_empty()) {
            config.token = config::keep_token(&config.state_dir)?;
        }
        super::daemon_runtime()?.block_on(yard::run_coordinator(config))?;
        Ok(exit::OK)
    }

    /// All settings; `None` if one is wrong, which `settings` then knows.
    fn settings(&self, settings: &mut Settings) -> Option<(Config, Option<PathBuf>)> {
        let defaults = core::Config::default();
        let seconds = |ms: u64| (ms / 1000).to_string();
        let listen: Option<SocketAddr> =
            settings.get("listen", self.listen.clone(), &format!("127.0.0.1:{PORT}"));
        let state_dir = state_dir(settings, self.state_dir.clone());
        let token_file: Option<PathBuf> = settings.optional("token_file", self.token_file.clone());
        let insecure_listen =
            settings.get("insecure_listen", self.insecure_listen.then(|| "true".to_owned()), "false");
        let lease_s = settings.get("lease_s", self.lease_s.clone(), &seconds(defaults.lease_ms));
        let heartbeat_s =
            settings.get("heartbeat_s", self.heartbeat_s.clone(), &seconds(defaults.heartbeat_ms));
        let metrics_period_s = settings.get(
            "metrics_period_s",
            self.metrics_period_s.clone(),
            &seconds(defaults.metrics_period_ms),
        );
        let stop_grace_s =
            settings.get("stop_grace_s", self.stop_grace_s.clone(), &seconds(defaults.stop_grace_ms));
        let keep_local =
            settings.get("keep_local", self.keep_local.clone(), &defaults.keep_local.to_string());
        let tries = defaults.infrastructure_tries.to_string();
        let infrastructure_tries =
            settings.get("infrastructure_tries", self.infrastructure_tries.clone(), &tries);
        let retention = Retention::default();
        let retain_days = settings.get("retain_days", self.retain_days.clone(), &retention.days.to_string());
        let retain_jobs = settings.get("retain_jobs", self.retain_jobs.clone(), &retention.jobs.to_string());
        let retain_events =
            settings.get("retain_events", self.retain_events.clone(), &retention.events.to_string());
        let faults = NODE_FAULTS_MAX.to_string();
        let node_faults = settings.get("node_faults", self.node_faults.clone(), &faults);
        let window = seconds(defaults.node_faults_window_ms);
        let node_faults_window_s =
            settings.get("node_faults_window_s", self.node_faults_window_s.clone(), &window);
        let ms = |seconds: u64| seconds.saturating_mul(1000);
        // Until it starts: a token that stands for the one in the state directory.
        let given =
            token_file.is_some() || std::env::var_os("TRAINYARD_TOKEN").is_some_and(|t| !t.is_empty());
        let token = if given { token(token_file.as_deref(), settings)? } else { config::new_token().ok()? };
        let config = Config {
            listen: listen?,
            state_dir: state_dir?,
            token,
            insecure_listen: insecure_listen?,
            core: core::Config {
                lease_ms: ms(lease_s?),
                heartbeat_ms: ms(heartbeat_s?),
                metrics_period_ms: ms(metrics_period_s?),
                stop_grace_ms: ms(stop_grace_s?),
                keep_local: keep_local?,
                infrastructure_tries: infrastructure_tries?,
                node_faults_max: node_faults?,
                node_faults_window_ms: ms(node_faults_window_s?),
                ..defaults
            },
            retention: Retention { days: retain_days?, jobs: retain_jobs?, events: retain_events? },
            init: self.init,
            commit: COMMIT.to_owned(),
        };
        if let Err(e) = config.check() {
            settings.refuse(e);
        }
        Some((config, token_file))
    }
}

fn state_dir(settings: &mut Settings, flag: Option<String>) -> Option<PathBuf> {
    let default_dir = config::default_state_dir();
    let state_dir: Option<PathBuf> = settings.get("state_dir", flag, &default_dir.to_string_lossy());
    if state_dir.as_ref().is_some_and(|dir| !dir.is_absolute()) {
        settings.refuse("state_dir: an absolute path is expected");
    }
    state_dir
}
