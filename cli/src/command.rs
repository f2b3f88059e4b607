//! The command line: every verb, its flags and its help; one file per verb below.

mod agent;
mod completion;
mod coordinator;
mod down;
mod job;
mod man;
mod node;
mod run;
mod token;
mod up;

pub(crate) use node::{nodes, path_segment};

use clap::{Args, Parser, Subcommand};

use crate::client::{API_VERSION, Client};
use crate::config::Target;
use crate::exit;
use crate::output::Format;

/// The commit that this binary was built from.
pub(crate) const COMMIT: &str = match option_env!("TRAINYARD_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

fn version() -> String {
    format!("{} ({COMMIT}) api-version {API_VERSION}", env!("CARGO_PKG_VERSION"))
}

/// Distributed training on your own GPU machines: coordinator, agent and client in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "trainyard",
    version = version(),
    max_term_width = 100,
    after_help = "Examples:
  trainyard run job.yaml                 train here and now; no daemon is needed
  trainyard up --nodes 2 -d              keep a coordinator and two local nodes running
  trainyard job submit job.yaml          hand a job in
  trainyard job logs -f quiet-otter      follow it; the beginning of a name is enough
  trainyard job explain quiet-otter      why it waits, or why it ended"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// Flags that every verb takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Form of the data on stdout.
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORM",
        help_heading = "Global options"
    )]
    output: Format,
}

/// Flags of the verbs that speak to a coordinator.
#[derive(Clone, Debug, Args)]
pub(crate) struct Connection {
    /// The coordinator to speak to; its token comes from TRAINYARD_TOKEN. Default: the one that `trainyard
    /// up` has written down.
    #[arg(long, value_name = "URL", env = "TRAINYARD_COORDINATOR", help_heading = "Connection")]
    coordinator: Option<String>,
}

impl Connection {
    pub(crate) fn target(&self) -> anyhow::Result<Target> {
        Target::find(self.coordinator.as_deref().filter(|url| !url.is_empty()))
    }

    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Client::new(self.target()?)
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a job here and now, without any daemon.
    Run(run::Run),
    /// Start a coordinator and local nodes.
    Up(up::Up),
    /// Stop what `up` started.
    Down(down::Down),
    /// Submit, watch and end jobs.
    Job(job::Job),
    /// Look at nodes.
    Node(node::Node),
    /// Run the coordinator's daemon.
    Coordinator(coordinator::Coordinator),
    /// Run a node's daemon, or ask the one of this node.
    Agent(agent::Agent),
    /// Print the token that requests need.
    Token(token::Token),
    /// Print a completion script for a shell.
    Completion(completion::Completion),
    /// Print the man page, or write all of them.
    Man(man::Man),
}

impl Cli {
    /// The exit code when Trainyard itself fails: verbs that end with a job's code keep out of its way.
    pub(crate) fn code_of_own_failure(&self) -> u8 {
        match &self.verb {
            Verb::Run(_) => exit::TRAINYARD,
            Verb::Job(job) if job.ends_with_the_jobs_code() => exit::TRAINYARD,
            Verb::Job(_)
            | Verb::Up(_)
            | Verb::Down(_)
            | Verb::Node(_)
            | Verb::Coordinator(_)
            | Verb::Agent(_)
            | Verb::Token(_)
            | Verb::Completion(_)
            | Verb::Man(_) => exit::NO_CODE,
        }
    }

    /// Does what was asked for.
    pub(crate) fn run(self) -> anyhow::Result<u8> {
        let format = self.global.output;
        match self.verb {
            Verb::Run(verb) => verb.run(format),
            Verb::Up(verb) => verb.run(format),
            Verb::Down(verb) => verb.run(format),
            Verb::Job(verb) => verb.run(format),
            Verb::Node(verb) => verb.run(format),
            Verb::Coordinator(verb) => verb.run(format),
            Verb::Agent(verb) => verb.run(format),
            Verb::Token(verb) => verb.run(format),
            Verb::Completion(verb) => verb.run(),
            Verb::Man(verb) => verb.run(),
        }
    }
}

/// The runtime of a client: one thread.
pub(crate) fn client_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// The runtime of daemons: two workers are enough, and each more costs memory.
pub(crate) fn daemon_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// Sends the program's own log to stderr. `TRAINYARD_LOG` says what, as `debug` or `trainyard_agent=trace`.
pub(crate) fn start_log(default: &str) {
    use std::io::IsTerminal as _;

    use tracing_subscriber::EnvFilter;

    // What nodes lack is told in one line, not by each of them.
    let default = if default == "warn" { "warn,trainyard_agent::wire=error" } else { default };
    let filter = EnvFilter::try_from_env("TRAINYARD_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && crate::output::colours_on_stderr());
    // The journal gives each line a time of its own.
    let started = if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().try_init()
    } else {
        log.try_init()
    };
    // Only a second start in one process can fail, and the first then stands.
    drop(started);
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_version_names_program_commit_and_api() {
        let version = Cli::command().render_version();
        let expected = format!("trainyard {} ({COMMIT}) api-version 2018-05-01", env!("CARGO_PKG_VERSION"));
        assert_eq!(version.trim_end(), expected);
    }

    #[test]
    fn every_verb_has_help_and_an_example() {
        fn walk(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "`{path}` says nothing about itself");
            if command.get_subcommands().next().is_none() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("trainyard"), "`{path}` shows no example");
            }
            for below in command.get_subcommands().filter(|c| c.get_name() != "help") {
                walk(below, &path);
            }
        }
        walk(&Cli::command(), "");
    }
}
