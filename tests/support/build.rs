//! Building things once per test program.

use std::process::Command;

/// Runs a build to its end.
///
/// # Panics
/// It fails: says what it printed.
pub(crate) fn must(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}:\n{said}", output.status);
    output.stdout
}
