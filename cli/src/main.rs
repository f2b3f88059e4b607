//! `trainyard`: the one binary. Parses the command line, runs one verb, prints an error once, and ends with
//! the verb's exit code.

mod client;
mod command;
mod config;
mod exit;
mod follow;
mod jobfile;
mod jobref;
mod load;
mod name;
mod output;
mod progress;
mod results;
mod settings;
mod shim_binary;
mod sse;
mod statelock;
mod talk;
mod yard;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = command::Cli::parse();
    let otherwise = cli.code_of_own_failure();
    match cli.run() {
        Ok(code) => ExitCode::from(code),
        Err(error) if error.downcast_ref::<output::ReaderGone>().is_some() => ExitCode::from(exit::OK),
        Err(error) => {
            talk::error(&error);
            ExitCode::from(exit::of_error(&error, otherwise))
        }
    }
}
