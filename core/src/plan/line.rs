//! Command lines: what bash gets to read. The user's part is taken as it is, always.

use std::collections::BTreeMap;

use super::role::Program;
use super::{PlanError, path};
use crate::spec::{JobSpec, limits};

/// `python3`, else `python`; where neither exists the shell's error names `python3`.
const DEFAULT_INTERPRETER: &str = r#""$(command -v python3 || command -v python || echo python3)""#;

/// The argv of a task.
pub(super) fn argv(
    program: &Program<'_>,
    env: &BTreeMap<String, String>,
    spec: &JobSpec,
) -> Result<Vec<String>, PlanError> {
    match *program {
        Program::Line { field, text } => bash(text, field),
        Program::Script { key, script, interpreter, args } => {
            let script = path::expanded(&format!("{key}.pythonScriptFilePath"), script, env, spec)?;
            let interpreter = match interpreter {
                Some(text) => {
                    quoted(&path::expanded(&format!("{key}.pythonInterpreterPath"), text, env, spec)?)
                }
                None => DEFAULT_INTERPRETER.to_owned(),
            };
            // A relative script lies in the working directory; its name must not read as an option of Python's.
            let script = if script.starts_with('-') { format!("./{script}") } else { script };
            let line = if args.is_empty() {
                format!("{interpreter} {}", quoted(&script))
            } else {
                format!("{interpreter} {} {args}", quoted(&script))
            };
            bash(&line, key)
        }
    }
}

/// `bash -c` with this text.
pub(super) fn bash(text: &str, field: &str) -> Result<Vec<String>, PlanError> {
    if text.contains('\0') {
        return Err(PlanError::Nul { field: field.to_owned() });
    }
    if text.len() > limits::COMMAND_LINE_BYTES {
        return Err(PlanError::TooLong { what: field.to_owned(), limit: limits::COMMAND_LINE_BYTES });
    }
    Ok(vec!["/bin/bash".to_owned(), "-c".to_owned(), text.to_owned()])
}

/// The text as one word of a shell.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
