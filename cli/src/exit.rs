//! The exit codes of `trainyard`, as pure functions of what happened.
//!
//! `run` and `job wait` end with the job's own code; the codes of Trainyard itself follow `timeout(1)` and
//! the shells.

use std::fmt;

use serde_json::Value;

/// Everything went well.
pub(crate) const OK: u8 = 0;
/// The job ended without a code; or a verb other than `run` and `wait` failed.
pub(crate) const NO_CODE: u8 = 1;
/// Bad input: a spec, a configuration, a flag.
pub(crate) const BAD_INPUT: u8 = 2;
/// The job's wall-clock limit ended it.
pub(crate) const WALL_CLOCK: u8 = 124;
/// Trainyard itself failed while a job's code was asked for.
pub(crate) const TRAINYARD: u8 = 125;
/// The user interrupted it.
pub(crate) const INTERRUPTED: u8 = 130;

/// The code of a finished job, from its resource as REST shows it; `None` while it is not finished.
pub(crate) fn of_job(job: &Value) -> Option<u8> {
    let properties = &job["properties"];
    match properties["executionState"].as_str() {
        Some("succeeded") => Some(OK),
        Some("failed") => Some(of_failed(properties)),
        _ => None,
    }
}

fn of_failed(properties: &Value) -> u8 {
    if properties["trainyard"]["reason"]["code"] == "WallClockExceeded" {
        return WALL_CLOCK;
    }
    match properties["executionInfo"]["exitCode"].as_i64() {
        // A failed job never ends with 0, whatever its task said.
        None | Some(0) => NO_CODE,
        Some(code @ 1..=255) => u8::try_from(code).unwrap_or(NO_CODE),
        Some(_) => NO_CODE,
    }
}

/// An error that ends `trainyard` with a code of its own.
#[derive(Debug)]
pub(crate) struct Coded {
    code: u8,
    message: String,
}

impl Coded {
    /// Bad input: exit code 2.
    pub(crate) fn bad_input(message: impl Into<String>) -> Coded {
        Coded { code: BAD_INPUT, message: message.into() }
    }
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Coded {}

/// The code for an error: its own if it carries one, else `otherwise`.
pub(crate) fn of_error(error: &anyhow::Error, otherwise: u8) -> u8 {
    error.chain().find_map(|cause| cause.downcast_ref::<Coded>()).map_or(otherwise, |coded| coded.code)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(properties: Value, expected: Option<u8>) {
        assert_eq!(of_job(&json!({ "properties": properties })), expected, "{properties}");
    }

    #[test]
    fn a_job_gives_its_code() {
        check(json!({"executionState": "queued"}), None);
        check(json!({"executionState": "running"}), None);
        check(json!({"executionState": "terminating"}), None);
        check(json!({"executionState": "succeeded", "executionInfo": {"exitCode": 0}}), Some(0));
        check(json!({"executionState": "failed", "executionInfo": {"exitCode": 3}}), Some(3));
        check(json!({"executionState": "failed", "executionInfo": {"exitCode": 137}}), Some(137));
        check(json!({"executionState": "failed", "executionInfo": {}}), Some(1));
        check(json!({"executionState": "failed"}), Some(1));
        // A failure never looks like a success, nor a strange code like another.
        check(json!({"executionState": "failed", "executionInfo": {"exitCode": 0}}), Some(1));
        check(json!({"executionState": "failed", "executionInfo": {"exitCode": 256}}), Some(1));
        check(json!({"executionState": "failed", "executionInfo": {"exitCode": -1}}), Some(1));
        let late = json!({"executionState": "failed", "executionInfo": {"exitCode": 143},
            "trainyard": {"reason": {"code": "WallClockExceeded"}}});
        check(late, Some(124));
    }

    #[test]
    fn a_bad_input_keeps_its_code_below_context() {
        let error = anyhow::Error::new(Coded::bad_input("no")).context("reading job.json");
        assert_eq!(of_error(&error, TRAINYARD), BAD_INPUT);
        assert_eq!(of_error(&anyhow::anyhow!("x"), TRAINYARD), TRAINYARD);
    }
}
