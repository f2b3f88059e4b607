//! `trainyard job submit`.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::Value;

use super::ScopeFlags;
use super::show::job_table;
use crate::command::Connection;
use crate::exit::Coded;
use crate::jobfile::{JobFile, SpecFlags, Submitted};
use crate::output::{self, Format, cell};
use crate::{exit, name, talk};

/// Hand a job in, and print its name.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard job submit job.yaml
  trainyard job submit -n resnet-1 job.json --set nodeCount=4 --env LR=0.1
  trainyard job wait $(trainyard job submit job.yaml)

Exit code 2: the job file is bad, nothing was handed in.")]
pub(crate) struct Submit {
    /// The job file, JSON or YAML; `-` reads stdin.
    file: PathBuf,
    /// The job's name; one is made up unless given. The same job handed in twice under one name runs once.
    #[arg(short, long)]
    name: Option<String>,
    /// A variable for the job, instead of the file's of the same name; can be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    #[command(flatten)]
    spec: SpecFlags,
    #[command(flatten)]
    scope: ScopeFlags,
    #[command(flatten)]
    connection: Connection,
}

impl Submit {
    pub(crate) async fn run(self, format: Format) -> anyhow::Result<u8> {
        let file = JobFile::read(&self.file, &self.spec, &self.env)?;
        file.warn();
        let name = match self.name {
            Some(name) => name,
            None => name::generate()?,
        };
        for (flag, text) in [
            ("--name", Some(&name)),
            ("-w", self.scope.workspace.as_ref()),
            ("-e", self.scope.experiment.as_ref()),
        ] {
            let Some(text) = text else { continue };
            trainyard_core::text::Name::parse(text).map_err(|e| Coded::bad_input(format!("{flag}: {e}")))?;
        }
        let client = self.connection.client()?;
        let job = self.scope.scope().job(&name);
        let submitted = file.submit(&client, &job).await.with_context(|| format!("submitting {name}"))?;
        if submitted == Submitted::Existed {
            talk::note(&format!("{name} was handed in before: it does not run again"));
        }
        let resource = client.job(&job).await?;
        match format {
            Format::Table => output::write(&name)?,
            Format::Json | Format::Yaml => output::print(format, &resource, job_table)?,
        }
        if submitted == Submitted::New {
            talk::note(&said(&resource));
        }
        Ok(exit::OK)
    }
}

fn said(job: &Value) -> String {
    let name = cell(&job["name"]);
    format!(
        "job {}: follow it with: trainyard job logs -f {name}",
        cell(&job["properties"]["trainyard"]["jobId"])
    )
}
