//! What a user can ask for. A spec is read from text at one door, [`read`], checked whole there, and trusted
//! from then on.
//!
//! - [`read`] a file or a request body with [`Options`]: a [`Read`] (spec and warnings), or a [`Refusal`]
//!   (every error of the document at once). [`schema`] describes the same for editors.
//! - [`JobSpec`] and what it holds; `Serialize` gives its public form. [`secrets_of`], [`restore_secrets`],
//!   [`from_stored`] keep its secrets apart, [`request_body`] sends both; [`JobSpec::asks_the_same_as`].
//! - [`not_built`]: what parses but cannot run yet. [`expand`]: variables in paths and values.
//! - [`limits`]: every maximum. [`ClientSettings`]: what a client fills in.

mod check;
mod client;
mod document;
pub mod env;
mod error;
pub mod expand;
mod form;
pub mod job;
pub mod limits;
mod nearest;
mod normal;
mod not_built;
mod old_keys;
mod overrides;
mod schema;
mod secrets;
mod shape;
pub mod volumes;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

pub use check::PATH_VARIABLES;
pub use client::ClientSettings;
pub use error::{Refusal, SpecError, Warning};
pub use job::JobSpec;
pub use not_built::{NotBuilt, not_built};
pub use overrides::Override;
pub use schema::schema;
pub use secrets::{StoredSpecError, from_stored, request_body, restore_secrets, secrets_of};

/// Where a document comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// A job file: the client fills in cluster, account names and keys, and unknown keys are warned of.
    #[default]
    File,
    /// The body of a request: everything is there, and unknown keys are tolerated without a word.
    RestBody,
}

/// How to read a document.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where it comes from.
    pub source: Source,
    /// Whether unknown keys are errors.
    pub strict: bool,
    /// Changes to make before it is checked, in their order.
    pub overrides: Vec<Override>,
}

/// A spec that was read and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// The spec.
    pub spec: JobSpec,
    /// What has no effect, or surprises.
    pub warnings: Vec<Warning>,
}

/// Reads a job from JSON or YAML, with its fields inside `properties` or bare.
///
/// At most [`limits::SPEC_BYTES`] bytes are looked at: a caller that reads a file may stop after one more.
///
/// # Errors
/// Every error of the document, none with a secret in it.
pub fn read(document: &[u8], options: &Options) -> Result<Read, Refusal> {
    let mut report = Refusal::default();
    let mut fields = properties(document::parse(document).map_err(Refusal::of)?, options, &mut report)?;
    overrides::apply(&mut fields, &options.overrides, &mut report);
    check::one_toolkit(&mut fields, &mut report);
    form::fit(&mut fields, options, &mut report);
    check_duration(&mut fields, &mut report);
    // The cause is left out: it may quote a value.
    let spec: JobSpec = serde_json::from_value(Value::Object(fields)).map_err(|_| {
        Refusal::of(SpecError::at("document", "fits the schema, but not the types (an error of Trainyard)"))
    })?;
    check::check(&spec, options.source, &mut report);
    if report.errors.is_empty() { Ok(Read { spec, warnings: report.warnings }) } else { Err(report) }
}

/// The fields of the job: the object `properties` if there is one, else the document itself.
fn properties(
    mut document: Map<String, Value>,
    options: &Options,
    report: &mut Refusal,
) -> Result<Map<String, Value>, Refusal> {
    let Some(properties) = document.remove("properties") else { return Ok(document) };
    document.retain(|key, value| key != "$schema" && !value.is_null());
    for key in document.keys() {
        let shown = error::shortened(key);
        let (problem, cure) = match old_keys::meaning("", key) {
            Some(meaning) => (format!("not read: {meaning}"), "remove it".to_owned()),
            None if shape::job().field(key).is_some() => (
                "stands beside `properties`, where it is not read".to_owned(),
                "move it into `properties`".to_owned(),
            ),
            None => ("unknown key beside `properties`, not read".to_owned(), "remove it".to_owned()),
        };
        if options.strict {
            report.refuse(SpecError::at(shown, problem).cure(cure));
        } else if options.source == Source::File {
            report.warn(shown, format!("{problem}; {cure}"));
        }
    }
    match properties {
        Value::Object(properties) => Ok(properties),
        other => {
            let problem = format!("{} does not belong here", error::kind(&other));
            Err(Refusal::of(
                SpecError::at("properties", problem).allowed("an object with the fields of the job"),
            ))
        }
    }
}

/// The one field of text that has a form of its own, checked before the types refuse it less kindly.
fn check_duration(fields: &mut Map<String, Value>, report: &mut Refusal) {
    let Some(constraints) = fields.get_mut("constraints").and_then(Value::as_object_mut) else { return };
    let Some(text) = constraints.get("maxWallClockTime").and_then(Value::as_str) else { return };
    if let Err(problem) = job::iso_duration::parse(text) {
        report.refuse(
            SpecError::at("constraints.maxWallClockTime", problem)
                .value(text)
                .allowed("an ISO 8601 duration in days, hours, minutes and seconds, as P7D or PT1H30M"),
        );
        constraints.remove("maxWallClockTime");
    }
}
