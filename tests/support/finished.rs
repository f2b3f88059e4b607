//! What a program has said and how it ended.

use std::process::Output;

use serde_json::Value;

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; 128 + n after signal n.
    pub code: i32,
    /// What it wrote to stdout, as text.
    pub stdout: String,
    /// What it wrote to stderr, as text.
    pub stderr: String,
}

impl Finished {
    /// Of what the standard library tells.
    #[must_use]
    pub fn of(output: &Output) -> Finished {
        use std::os::unix::process::ExitStatusExt as _;
        let signal = || output.status.signal().map_or(-1, |signal| 128 + signal);
        Finished {
            code: output.status.code().unwrap_or_else(signal),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Itself, after checking its exit code.
    ///
    /// # Panics
    /// It ended with another code.
    #[track_caller]
    #[must_use]
    pub fn expect(self, code: i32) -> Finished {
        assert_eq!(self.code, code, "\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// All of stdout as one JSON document.
    ///
    /// # Panics
    /// It is none.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON: {error}: {self:?}"))
    }

    /// The last line of stdout as a JSON document.
    ///
    /// # Panics
    /// It is none.
    #[track_caller]
    #[must_use]
    pub fn last_line_json(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("no JSON: {error}: {self:?}"))
    }
}
