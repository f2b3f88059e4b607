//! The values of a job's secrets as a document of their own, apart from everything that is listed; and the
//! keyed hash that stands for them once the job has ended.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use trainyard_core::spec::{self, JobSpec};
use trainyard_core::text::Secret;

use super::StoreError;

/// `None`: the spec has no secret.
pub(super) fn to_document(spec: &JobSpec) -> Option<String> {
    let secrets = spec::secrets_of(spec);
    if secrets.is_empty() {
        return None;
    }
    let values: serde_json::Map<String, serde_json::Value> =
        secrets.into_iter().map(|(place, secret)| (place, secret.expose().into())).collect();
    Some(serde_json::Value::Object(values).to_string())
}

/// Puts the values back where they were.
pub(super) fn restore(spec: &mut JobSpec, document: &str) -> Result<(), StoreError> {
    let what = "read a job's secrets";
    // The cause is left out: it may quote a value.
    let values: BTreeMap<String, String> =
        serde_json::from_str(document).map_err(|_| StoreError::broken(what, "it is no object of texts"))?;
    let secrets = values.into_iter().map(|(place, text)| (place, Secret::new(text))).collect();
    spec::restore_secrets(spec, secrets).map_err(|error| StoreError::broken(what, error))
}

/// Stands for a document that is wiped: whoever has the database's key can test a guess, nobody can read it.
/// A document has one form, its places in order, so equal secrets give equal hashes.
pub(super) fn mac(key: &str, document: &str) -> String {
    let mut mac =
        <Hmac<Sha256> as KeyInit>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(document.as_bytes());
    mac.finalize().into_bytes().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}
