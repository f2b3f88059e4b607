//! `trainyard token`: the token, for scripts.

use anyhow::Context as _;
use serde_json::json;
use trainyard_core::text::Secret;

use super::Connection;
use crate::exit;
use crate::output::{self, Format};

/// Print the token that requests need: `Authorization: Bearer TOKEN`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  curl -H \"Authorization: Bearer $(trainyard token)\" http://127.0.0.1:8470/api/v1/nodes")]
pub(crate) struct Token {
    #[command(flatten)]
    connection: Connection,
}

impl Token {
    pub(crate) fn run(self, format: Format) -> anyhow::Result<u8> {
        let target = self.connection.target()?;
        let token =
            target.token.as_ref().map(Secret::expose).with_context(|| {
                format!("no token is known for {}: set TRAINYARD_TOKEN", target.coordinator)
            })?;
        output::print(format, &json!({"coordinator": target.coordinator, "token": token}), |_| {
            token.to_owned()
        })?;
        Ok(exit::OK)
    }
}
