//! What a spec may not say although every field by itself is right. A file per subject; each looks at the
//! typed spec and refuses by path.

mod directories;
mod environment;
mod toolkit;
mod variables;
mod volumes;

use serde_json::{Map, Value};

use super::error::{Refusal, SpecError};
use super::job::{ContainerSettings, JobSpec, KeyVaultSecretReference, OnLeaseLost};
use super::{Source, shape};
use crate::text::Secret;

pub use variables::PATH_VARIABLES;

/// Leaves exactly one toolkit in the document: refuses none and several.
pub(super) fn one_toolkit(document: &mut Map<String, Value>, report: &mut Refusal) {
    toolkit::one(document, report);
}

/// Refuses what does not fit together. Errors at or below a path that is refused already are left out: a
/// stand-in is there.
pub(super) fn check(spec: &JobSpec, source: Source, report: &mut Refusal) {
    let mut found = Refusal::default();
    let refused: Vec<String> = report.errors.iter().map(|error| error.path.clone()).collect();
    if source == Source::RestBody && spec.cluster.is_none() {
        found.refuse(
            SpecError::at("cluster", "missing").allowed("an object with id").cure("name the cluster"),
        );
    }
    if spec.constraints.max_wall_clock_time > super::limits::WALL_CLOCK {
        found.refuse(
            SpecError::at("constraints.maxWallClockTime", "too long")
                .value(super::job::iso_duration::print(spec.constraints.max_wall_clock_time))
                .allowed(format!("up to {}", super::job::iso_duration::print(super::limits::WALL_CLOCK))),
        );
    }
    if let (Some(OnLeaseLost::Keep), Some(seconds)) = (spec.on_lease_lost, spec.lease_seconds) {
        found.refuse(
            SpecError::at("leaseSeconds", "tasks that are kept have no lease")
                .value(seconds)
                .cure("remove it, or write onLeaseLost: fence"),
        );
    }
    volumes::check(spec, source, &mut found);
    if let Some(container) = &spec.container_settings {
        check_container(container, source, &mut found);
    }
    toolkit::check(spec, &mut found);
    directories::check(spec, &mut found);
    environment::check(spec, source, &mut found);
    // Where a list of definitions is itself wrong, what it would define is not known.
    let definitions = ["environmentVariables", "inputDirectories", "outputDirectories"];
    if !refused.iter().any(|path| definitions.iter().any(|list| path.starts_with(list))) {
        variables::check(spec, &mut found);
    }
    found.errors.retain(|error| !refused.iter().any(|path| is_at_or_below(&error.path, path)));
    report.errors.append(&mut found.errors);
    report.warnings.append(&mut found.warnings);
    // In the order of the schema; what belongs to no field of it, as an unknown toolkit, comes first.
    report.errors.sort_by_key(|error| {
        let first = error.path.split(['.', '[']).next().unwrap_or_default();
        shape::job().fields().iter().position(|field| field.name == first)
    });
}

fn is_at_or_below(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn check_container(container: &ContainerSettings, source: Source, report: &mut Refusal) {
    let at = "containerSettings";
    if let Some(size) = &container.shm_size {
        let unit = size.trim_start_matches(|c: char| c.is_ascii_digit()).to_ascii_lowercase();
        let is_size = size.starts_with(|c: char| c.is_ascii_digit())
            && ["", "b", "k", "kb", "m", "mb", "g", "gb"].contains(&unit.as_str());
        if !is_size {
            report.refuse(
                SpecError::at(format!("{at}.shmSize"), "no size")
                    .value(size.as_str())
                    .allowed("a whole number with b, k, m or g, as `16g`"),
            );
        }
    }
    if let Some(credentials) = &container.image_source_registry.credentials {
        let at = format!("{at}.imageSourceRegistry.credentials");
        let (value, reference) = (&credentials.password, &credentials.password_secret_reference);
        either(&at, ("password", value), ("passwordSecretReference", reference), source, report);
    }
}

/// Exactly one of a secret value and a reference to one.
fn either(
    at: &str,
    value: (&str, &Option<Secret>),
    reference: (&str, &Option<KeyVaultSecretReference>),
    source: Source,
    report: &mut Refusal,
) {
    let allowed = format!("exactly one of {} and {}", value.0, reference.0);
    match (value.1, reference.1) {
        (Some(_), Some(_)) => {
            report.refuse(SpecError::at(at, "both are given").allowed(allowed).cure("remove one"))
        }
        (None, None) => report.refuse(SpecError::at(at, "none is given").allowed(allowed).cure("add one")),
        (Some(secret), None) if source == Source::RestBody && is_placeholder(secret.expose()) => {
            report.refuse(placeholder(format!("{at}.{}", value.0)));
        }
        (Some(_), None) | (None, Some(_)) => {}
    }
}

fn is_placeholder(text: &str) -> bool {
    text.contains("<AZURE_BATCHAI_")
}

fn placeholder(path: String) -> SpecError {
    SpecError::at(path, "a placeholder `<AZURE_BATCHAI_...>` that nobody filled in")
        .cure("put the value in its place")
}
