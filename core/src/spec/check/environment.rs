//! Environment variables and secrets: names, and where a secret comes from.

use std::collections::BTreeMap;

use super::either;
use crate::spec::Source;
use crate::spec::error::{Refusal, SpecError};
use crate::spec::expand::is_variable_name;
use crate::spec::job::JobSpec;
use crate::spec::limits::ENVIRONMENT_VARIABLES;

/// Names that the service sets. Nothing real sets any of them itself.
const RESERVED: &str = "AZ_BATCHAI_";

pub(super) fn check(spec: &JobSpec, source: Source, report: &mut Refusal) {
    let count = spec.environment_variables.len() + spec.secrets.len();
    if count > ENVIRONMENT_VARIABLES {
        let error =
            SpecError::at("environmentVariables", format!("{count} variables and secrets are too many"));
        report.refuse(error.allowed(format!("up to {ENVIRONMENT_VARIABLES}")));
    }
    let variables = spec.environment_variables.iter().enumerate();
    let variables = variables
        .map(|(index, variable)| (format!("environmentVariables[{index}]"), variable.name.as_str(), true));
    let secrets = spec.secrets.iter().enumerate();
    let secrets = secrets.map(|(index, secret)| (format!("secrets[{index}]"), secret.name.as_str(), false));
    let mut seen = BTreeMap::new();
    for (at, name, public) in variables.chain(secrets) {
        let path = format!("{at}.name");
        if !is_variable_name(name) {
            let error = SpecError::at(path, "not a name of a variable");
            // In a broken file the value of a secret may stand where its name should: it is not repeated.
            let error = if public { error.value(name) } else { error };
            report.refuse(error.allowed("letters, digits and _, no digit first"));
        } else if name.starts_with(RESERVED) {
            let problem = format!("names that begin with {RESERVED} are set by the service");
            report.refuse(SpecError::at(path, problem).value(name).cure("choose another name"));
        } else if let Some(first) = seen.get(name) {
            let problem = format!("the same name as {first}");
            report.refuse(SpecError::at(path, problem).value(name).cure("remove one of them"));
        } else {
            seen.insert(name, at);
        }
    }
    for (index, secret) in spec.secrets.iter().enumerate() {
        let at = format!("secrets[{index}]");
        let (value, reference) = (&secret.value, &secret.value_secret_reference);
        either(&at, ("value", value), ("valueSecretReference", reference), source, report);
    }
}
