//! `trainyard coordinator`: the coordinator's daemon.

use std::path::PathBuf;

use crate::output::Format;

/// Run the coordinator's daemon.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard coordinator")]
pub(crate) struct Coordinator {
    /// Settings, TOML.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Coordinator {
    pub(crate) fn run(self, _format: Format) -> anyhow::Result<u8> {
        anyhow::bail!("soon: {:?}", self.config)
    }
}
