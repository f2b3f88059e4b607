//! `trainyard completion`: scripts for shells, made from the definition of the command line.

use clap::CommandFactory as _;

use crate::{exit, output};

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  source <(trainyard completion bash)
  trainyard completion zsh > \"${fpath[1]}/_trainyard\"
  trainyard completion fish > ~/.config/fish/completions/trainyard.fish")]
pub(crate) struct Completion {
    /// The shell.
    shell: Shell,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completion {
    pub(crate) fn run(self) -> anyhow::Result<u8> {
        let shell = match self.shell {
            Shell::Bash => clap_complete::Shell::Bash,
            Shell::Zsh => clap_complete::Shell::Zsh,
            Shell::Fish => clap_complete::Shell::Fish,
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut super::Cli::command(), "trainyard", &mut script);
        output::write_bytes(&script)?;
        Ok(exit::OK)
    }
}
