//! Secrets of a spec apart from its public form: `Serialize` of a spec leaves them out, so that what is
//! stored, listed and logged holds none; here they are taken out and put back.

use std::collections::BTreeMap;

use serde_json::Value;

use super::job::JobSpec;
use crate::text::Secret;

/// The stored parts do not make a spec.
#[derive(Debug, thiserror::Error)]
pub enum StoredSpecError {
    /// The public form is not one that this version wrote.
    #[error("the stored spec cannot be read")]
    Document(#[source] serde_json::Error),
    /// A secret belongs to a place that the public form does not have.
    #[error("the stored spec has no place for a secret at `{pointer}`")]
    NoPlace {
        /// The place, as a JSON pointer.
        pointer: String,
    },
}

/// Every secret of the spec, by its place in the spec's JSON form (a JSON pointer, as `/secrets/0/value`).
#[must_use]
pub fn secrets_of(spec: &JobSpec) -> BTreeMap<String, Secret> {
    let mut spec = spec.clone();
    slots(&mut spec).into_iter().filter_map(|(pointer, slot)| Some((pointer, slot.take()?))).collect()
}

/// Puts secrets back into the places that [`secrets_of`] gave.
///
/// # Errors
/// [`StoredSpecError::NoPlace`] if the spec has no such place; the others are in by then.
pub fn restore_secrets(
    spec: &mut JobSpec,
    mut secrets: BTreeMap<String, Secret>,
) -> Result<(), StoredSpecError> {
    for (pointer, slot) in slots(spec) {
        if let Some(secret) = secrets.remove(&pointer) {
            *slot = Some(secret);
        }
    }
    match secrets.into_keys().next() {
        Some(pointer) => Err(StoredSpecError::NoPlace { pointer }),
        None => Ok(()),
    }
}

/// The spec that a public form (what `Serialize` gave) and its secrets make.
///
/// # Errors
/// If the two were not written for each other.
pub fn from_stored(public: &str, secrets: BTreeMap<String, Secret>) -> Result<JobSpec, StoredSpecError> {
    let mut spec = serde_json::from_str(public).map_err(StoredSpecError::Document)?;
    restore_secrets(&mut spec, secrets)?;
    Ok(spec)
}

/// The body of the request that submits the job: `{"properties": {..}}`, **with its secrets**. For the
/// connection to the coordinator only: never for a log, a file or a screen.
#[must_use]
pub fn request_body(spec: &JobSpec) -> Value {
    let mut properties =
        serde_json::to_value(spec).expect("a spec has string keys only, so it is always JSON");
    for (pointer, secret) in secrets_of(spec) {
        let (parent, key) = pointer.rsplit_once('/').expect("every pointer of `slots` has a slash");
        if let Some(parent) = properties.pointer_mut(parent) {
            parent[key] = secret.expose().into();
        }
    }
    serde_json::json!({ "properties": properties })
}

/// Every place of a secret that the spec has, filled or not.
fn slots(spec: &mut JobSpec) -> Vec<(String, &mut Option<Secret>)> {
    let mut slots = vec![];
    if let Some(volumes) = &mut spec.mount_volumes {
        let shares = volumes.azure_file_shares.iter_mut().map(|share| &mut share.credentials);
        let containers =
            volumes.azure_blob_file_systems.iter_mut().map(|container| &mut container.credentials);
        let shares = shares.enumerate().map(|(index, slot)| (format!("azureFileShares/{index}"), slot));
        let containers =
            containers.enumerate().map(|(index, slot)| (format!("azureBlobFileSystems/{index}"), slot));
        for (volume, credentials) in shares.chain(containers) {
            if let Some(credentials) = credentials {
                slots.push((
                    format!("/mountVolumes/{volume}/credentials/accountKey"),
                    &mut credentials.account_key,
                ));
            }
        }
    }
    if let Some(container) = &mut spec.container_settings
        && let Some(credentials) = &mut container.image_source_registry.credentials
    {
        let pointer = "/containerSettings/imageSourceRegistry/credentials/password".to_owned();
        slots.push((pointer, &mut credentials.password));
    }
    for (index, secret) in spec.secrets.iter_mut().enumerate() {
        slots.push((format!("/secrets/{index}/value"), &mut secret.value));
    }
    slots
}
