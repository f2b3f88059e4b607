//! `trainyard job validate`: without a coordinator.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::jobfile::{JobFile, SpecFlags};
use crate::output::{self, Format};
use crate::{exit, talk};

/// Check job files; nothing is started.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard job validate job.yaml
  trainyard job validate --strict jobs/*.json
  trainyard job validate - < job.json

Exit codes: 0 if all are good, warnings included; 2 if one is not.")]
pub(crate) struct Validate {
    /// The job files, JSON or YAML; `-` reads stdin.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A variable for the job, instead of the file's of the same name; can be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    #[command(flatten)]
    spec: SpecFlags,
}

impl Validate {
    pub(crate) fn run(self, format: Format) -> anyhow::Result<u8> {
        let mut code = exit::OK;
        let mut results = Vec::new();
        for file in &self.files {
            let (result, good) = self.check(file);
            results.push(result);
            if !good {
                code = exit::BAD_INPUT;
            }
        }
        if format != Format::Table {
            output::print(format, &json!(results), |_| String::new())?;
        }
        Ok(code)
    }

    fn check(&self, file: &Path) -> (Value, bool) {
        match JobFile::read(file, &self.spec, &self.env) {
            Ok(job) => {
                let warnings = job.warning_lines();
                for warning in &warnings {
                    talk::warning(&self.located(file, warning));
                }
                (json!({"file": file, "valid": true, "warnings": warnings, "errors": []}), true)
            }
            Err(error) => {
                talk::error(&error);
                let lines: Vec<String> =
                    error.to_string().lines().map(|line| line.trim().to_owned()).collect();
                (json!({"file": file, "valid": false, "warnings": [], "errors": lines}), false)
            }
        }
    }

    /// With one file its name would only be in the way.
    fn located(&self, file: &Path, text: &str) -> String {
        if self.files.len() == 1 { text.to_owned() } else { format!("{}: {text}", file.display()) }
    }
}
