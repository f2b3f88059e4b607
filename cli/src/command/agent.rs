//! `trainyard agent`: soon.
use std::path::PathBuf;

use crate::output::Format;

/// Run a node's daemon.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard agent")]
pub(crate) struct Agent {
    /// Settings, TOML.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Agent {
    pub(crate) fn run(self, _format: Format) -> anyhow::Result<u8> {
        anyhow::bail!("soon: {:?}", self.config)
    }
}
