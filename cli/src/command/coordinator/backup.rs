//! `trainyard coordinator backup` and `restore`: a verified copy of the database, and a way back to it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use trainyard_coordinator::store;

use crate::exit::{self, Coded};
use crate::output::{self, Format, bytes, cell};
use crate::settings::Settings;
use crate::{config, talk};

/// Where the coordinator keeps its database.
#[derive(Debug, Args)]
struct Place {
    /// The state directory of the coordinator [default: as for `up`]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
    /// The coordinator's settings, for its `state_dir`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Place {
    fn state_dir(self) -> anyhow::Result<PathBuf> {
        let mut settings = Settings::read(self.config.as_deref());
        let state_dir = super::state_dir(&mut settings, self.state_dir);
        match (state_dir, settings.errors_of_those_asked_for()) {
            (Some(state_dir), []) => Ok(state_dir),
            (_, errors) => Err(Coded::bad_input(errors.join("\n       ")).into()),
        }
    }
}

/// The folder of the database below a state directory.
fn folder(state_dir: &Path) -> PathBuf {
    trainyard_coordinator::config::folder(state_dir)
}

/// Copy the database to a file, while the coordinator runs or not.
///
/// The copy is checked and compared with the database, row by row, before it gets its name; a file that was
/// there before stays whole until then. Only its owner can read it: secrets of open jobs are in it. Logs are not.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trainyard coordinator backup
  trainyard coordinator backup --to /srv/backup/trainyard.db --replace -o json")]
pub(super) struct Backup {
    /// The new file [default: a name with the time, in `backups` of the state directory]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Take the place of a file of that name, once the copy is whole.
    #[arg(long, requires = "to")]
    replace: bool,
    #[command(flatten)]
    place: Place,
}

impl Backup {
    pub(super) fn run(self, format: Format) -> anyhow::Result<u8> {
        let state_dir = self.place.state_dir()?;
        let to = match self.to {
            Some(to) => to,
            None => {
                let folder = state_dir.join("backups");
                config::make_private_dir(&folder)?;
                folder.join(store::backup_name())
            }
        };
        let made = store::backup(&folder(&state_dir), &to, self.replace).context("no backup was made")?;
        output::print(format, &json!(made), |made| {
            let mut rows = vec![("file", cell(&made["file"]))];
            rows.extend(contents(made));
            output::fields(&rows)
        })?;
        Ok(exit::OK)
    }
}

fn contents(made: &Value) -> Vec<(&'static str, String)> {
    vec![
        ("size", made["bytes"].as_f64().map(bytes).unwrap_or_default()),
        ("jobs", format!("{}, {} of them open", cell(&made["jobs"]), cell(&made["openJobs"]))),
        ("generation", cell(&made["generation"])),
        ("schema", cell(&made["schema"])),
        ("rows sha256", cell(&made["rowsSha256"])),
    ]
}

/// Put a backup in the place of the database.
///
/// Refuses while a coordinator runs on it. The backup is checked first; the database that was there is kept
/// under another name. The next coordinator starts no job until an operator has said so: `trainyard coordinator
/// recover`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trainyard coordinator restore /srv/backup/trainyard.db")]
pub(super) struct Restore {
    /// A file that `backup` has made.
    file: PathBuf,
    #[command(flatten)]
    place: Place,
}

impl Restore {
    pub(super) fn run(self, format: Format) -> anyhow::Result<u8> {
        let state_dir = self.place.state_dir()?;
        let restored = store::restore(&folder(&state_dir), &self.file).context("nothing was restored")?;
        output::print(format, &json!(restored), |restored| {
            let mut rows =
                vec![("database", cell(&restored["database"])), ("replaced", cell(&restored["replaced"]))];
            rows.extend(contents(restored));
            output::fields(&rows)
        })?;
        talk::note(
            "now start the coordinator, let its agents connect, and say what it may do: trainyard coordinator recover",
        );
        Ok(exit::OK)
    }
}
