//! What is wrong with a spec, as data: which field, its value, what is allowed, and the cure.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// One thing that is wrong with a spec. No secret value is ever in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SpecError {
    /// The field, as `tensorFlowSettings.workerCount` or `inputDirectories[0].id`; for text that cannot be
    /// read at all `line 3, column 7` or `document`.
    pub path: String,
    /// The value found there, as JSON, shortened. Absent where there is none, or where it may be secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

impl SpecError {
    pub(super) fn at(path: impl Into<String>, problem: impl Into<String>) -> SpecError {
        SpecError { path: path.into(), value: None, problem: problem.into(), allowed: None, cure: None }
    }

    pub(super) fn value(mut self, value: impl Into<Value>) -> SpecError {
        self.value = Some(shown(&value.into()));
        self
    }

    pub(super) fn allowed(mut self, allowed: impl Into<String>) -> SpecError {
        self.allowed = Some(allowed.into());
        self
    }

    pub(super) fn cure(mut self, cure: impl Into<String>) -> SpecError {
        self.cure = Some(cure.into());
        self
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        write!(f, ": {}", self.problem)?;
        if let Some(allowed) = &self.allowed {
            write!(f, "; allowed: {allowed}")?;
        }
        if let Some(cure) = &self.cure {
            write!(f, "; cure: {cure}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SpecError {}

/// Something of a spec that has no effect, or surprises. The spec is taken all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// The field, as in [`SpecError`].
    pub path: String,
    /// What to know about it.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// All that is wrong with one document. `Display` gives a line per error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// In the order of the document's schema; at least one.
    pub errors: Vec<SpecError>,
    /// What else was noticed.
    pub warnings: Vec<Warning>,
}

impl Refusal {
    pub(super) fn of(error: SpecError) -> Refusal {
        Refusal { errors: vec![error], warnings: vec![] }
    }

    pub(super) fn refuse(&mut self, error: SpecError) {
        self.errors.push(error);
    }

    pub(super) fn warn(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(Warning { path: path.into(), message: message.into() });
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// Characters of a value or key that a message shows.
const SHOWN: usize = 60;

/// A value as a message shows it: scalars as JSON, shortened; of lists and objects only what they are,
/// since a secret may lie inside.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("\"{}\"", shortened(text)),
        Value::Array(_) | Value::Object(_) => kind(value).to_owned(),
    }
}

/// Text as a message shows it: control characters escaped, at most 60 characters.
pub(super) fn shortened(text: &str) -> String {
    let mut out: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        out.push_str("...");
    }
    out
}

/// What a value is, in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
