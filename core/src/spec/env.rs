//! Environment variables and secrets of a job.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::job::KeyVaultSecretReference;
use crate::text::Secret;

/// A variable of the job's processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EnvironmentVariable {
    /// Its name: letters, digits and `_`, no digit first.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Its value; `$NAME` and `${NAME}` of variables that the plan defines are expanded.
    pub value: String,
}

/// A variable whose value is never shown again. `Serialize` gives the name only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretVariable {
    /// Its name: letters, digits and `_`, no digit first.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Its value; taken as it is.
    #[serde(default, skip_serializing, deserialize_with = "secret")]
    #[schemars(with = "Option<String>")]
    pub value: Option<Secret>,
    /// A value in a key vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_secret_reference: Option<KeyVaultSecretReference>,
}

pub(crate) fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.map(Secret::new))
}
