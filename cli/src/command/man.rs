//! `trainyard man`: man pages, made from the definition of the command line.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::{exit, output, talk};

/// Print the man page, or write all of them into a directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trainyard man | man -l -
  trainyard man /usr/local/share/man/man1")]
pub(crate) struct Man {
    /// Where to write one page per verb; made if it does not exist.
    dir: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(self) -> anyhow::Result<u8> {
        let mut command = super::Cli::command();
        command.build();
        match self.dir {
            None => output::write_bytes(&page(&command)?)?,
            Some(dir) => {
                fs::create_dir_all(&dir)
                    .with_context(|| format!("making the directory {}", dir.display()))?;
                let count = write_all(&command, "trainyard", &dir)?;
                talk::note(&format!("{count} pages written to {}", dir.display()));
            }
        }
        Ok(exit::OK)
    }
}

fn page(command: &clap::Command) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text).context("making a man page")?;
    Ok(text)
}

/// Writes the page of this command and of all below; gives their number.
fn write_all(command: &clap::Command, name: &str, dir: &Path) -> anyhow::Result<usize> {
    let path = dir.join(format!("{name}.1"));
    // The page's title is the whole name, as `git-log` is for `git log`.
    let text = page(&command.clone().name(name.to_owned()))?;
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    let mut count = 1;
    for below in command.get_subcommands().filter(|c| c.get_name() != "help" && !c.is_hide_set()) {
        count += write_all(below, &format!("{name}-{}", below.get_name()), dir)?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_gets_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = super::super::Cli::command();
        command.build();
        let count = write_all(&command, "trainyard", dir.path()).unwrap();
        for page in ["trainyard.1", "trainyard-run.1", "trainyard-job-logs.1", "trainyard-agent-status.1"] {
            let text = fs::read_to_string(dir.path().join(page)).unwrap();
            assert!(text.contains(".SH NAME"), "{page}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), count);
    }
}
