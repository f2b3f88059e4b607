//! `trainyard job schema`: the JSON Schema of a job file, made from the types.

use crate::exit;
use crate::output::{self, Format};

/// Print the JSON Schema of a job file, for editors.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard job schema > job.schema.json

In a YAML file, a first line `# yaml-language-server: $schema=job.schema.json` makes editors complete it.")]
pub(crate) struct Schema {}

impl Schema {
    pub(crate) fn run(self, format: Format) -> anyhow::Result<u8> {
        // A schema is JSON, whatever is the default elsewhere.
        let format = if format == Format::Table { Format::Json } else { format };
        let schema = trainyard_core::spec::schema();
        output::print(format, &schema, |_| String::new())?;
        Ok(exit::OK)
    }
}
