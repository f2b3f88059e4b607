//! The job: Batch AI's job create parameters (`properties` of the PUT body), plus some fields of our own.
//!
//! Field names, defaults and limits: docs/compat.md, "Job" (swagger 2018-05-01).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::env::{EnvironmentVariable, SecretVariable};
use super::limits::{DIRECTORIES, ENVIRONMENT_VARIABLES, GPUS_PER_NODE, LEASE_SECONDS, NODES, RETRIES};
use super::volumes::MountVolumes;
use crate::text::Secret;
use crate::toolkit::Toolkit;

/// What a job asks for. `Serialize` gives the public form: no secret value is in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobSpec {
    /// Which of the waiting jobs starts first.
    #[serde(default)]
    pub scheduling_priority: Priority,
    /// The cluster to run on. A job file may leave it out; the request body may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ResourceRef>,
    /// How many nodes the job needs, all at once; 1 or more.
    #[schemars(range(min = 1, max = NODES))]
    pub node_count: u32,
    /// Storage made visible below `$AZ_BATCHAI_JOB_MOUNT_ROOT` while the job runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_volumes: Option<MountVolumes>,
    /// The container image to run in. Absent: directly on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_settings: Option<ContainerSettings>,
    /// Exactly one toolkit's settings.
    #[serde(flatten)]
    pub toolkit: Toolkit,
    /// A command that runs on every node of the job before the toolkit starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_preparation: Option<JobPreparation>,
    /// Where the log folder of the job goes; variables are expanded.
    #[schemars(length(min = 1))]
    pub std_out_err_path_prefix: String,
    /// Directories that the job reads: `$AZ_BATCHAI_INPUT_<id>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = DIRECTORIES))]
    pub input_directories: Vec<InputDirectory>,
    /// Directories that the job writes, made before it starts: `$AZ_BATCHAI_OUTPUT_<id>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = DIRECTORIES))]
    pub output_directories: Vec<OutputDirectory>,
    /// Variables of the job and its preparation; values are expanded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = ENVIRONMENT_VARIABLES))]
    pub environment_variables: Vec<EnvironmentVariable>,
    /// Variables whose values are never shown again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = ENVIRONMENT_VARIABLES))]
    pub secrets: Vec<SecretVariable>,
    /// Limits of the job.
    #[serde(default)]
    pub constraints: Constraints,
    /// Extension: what each node must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Extension: how many times a job that failed by its own fault is tried again.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(max = RETRIES))]
    pub retries: u32,
    /// Extension: what happens to the tasks of a node that is not heard of for longer than the lease.
    /// Absent: `keep` where all nodes are on the coordinator's machine, else `fence`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_lease_lost: Option<OnLeaseLost>,
    /// Extension: the lease of the job's tasks in seconds. Absent: the coordinator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = LEASE_SECONDS.0, max = LEASE_SECONDS.1))]
    pub lease_seconds: Option<u32>,
    /// Extension: whether each node is checked before each try of the job.
    #[serde(default, skip_serializing_if = "is_false")]
    pub preflight: bool,
}

/// What happens to the tasks of a node that is not heard of for longer than the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnLeaseLost {
    /// The node itself ends them, so that the job can start again elsewhere.
    Fence,
    /// They go on; the job waits for the node, or for an operator who declares it lost.
    Keep,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Which of the waiting jobs starts first; equal ones in the order of their submission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// After all others.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Before all others.
    High,
}

/// A resource named by its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceRef {
    /// `/subscriptions/.../workspaces/W/clusters/C`
    #[schemars(length(min = 1))]
    pub id: String,
}

/// The container to run in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerSettings {
    /// Where the image comes from.
    pub image_source_registry: ImageSourceRegistry,
    /// Size of `/dev/shm` in Docker's syntax, as `16gb`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<String>,
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageSourceRegistry {
    /// The registry; absent: the container engine's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_url: Option<String>,
    /// The image, with tag; fully qualified where `serverUrl` is given.
    #[schemars(length(min = 1))]
    pub image: String,
    /// How to log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<RegistryCredentials>,
}

/// How to log in to a registry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryCredentials {
    /// The user.
    #[schemars(length(min = 1))]
    pub username: String,
    /// The password; never shown again.
    #[serde(default, skip_serializing, deserialize_with = "crate::spec::env::secret")]
    #[schemars(with = "Option<String>")]
    pub password: Option<Secret>,
    /// A password in a key vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_reference: Option<KeyVaultSecretReference>,
}

/// A secret in a key vault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyVaultSecretReference {
    /// The vault.
    pub source_vault: ResourceRef,
    /// The secret's URL.
    #[schemars(length(min = 1))]
    pub secret_url: String,
}

/// A command that runs on every node before the toolkit starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobPreparation {
    /// Run by `bash -c` as it is.
    #[schemars(length(min = 1))]
    pub command_line: String,
}

/// A directory that the job reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InputDirectory {
    /// Gives the variable `AZ_BATCHAI_INPUT_<id>`.
    #[schemars(length(min = 1, max = 64))]
    pub id: String,
    /// The directory; variables are expanded.
    #[schemars(length(min = 1))]
    pub path: String,
}

/// A directory that the job writes: `<pathPrefix>/<segment>/outputs/<pathSuffix>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutputDirectory {
    /// Gives the variable `AZ_BATCHAI_OUTPUT_<id>`.
    #[schemars(length(min = 1, max = 64))]
    pub id: String,
    /// Where it lies; variables are expanded.
    #[schemars(length(min = 1))]
    pub path_prefix: String,
    /// A folder below; no variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_suffix: Option<String>,
}

/// Limits of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Constraints {
    /// The job is ended after this time; ISO 8601, 7 days unless given.
    #[serde(default = "seven_days", with = "iso_duration")]
    #[schemars(with = "String", extend("format" = "duration"))]
    pub max_wall_clock_time: jiff::SignedDuration,
}

impl Default for Constraints {
    fn default() -> Constraints {
        Constraints { max_wall_clock_time: seven_days() }
    }
}

fn seven_days() -> jiff::SignedDuration {
    jiff::SignedDuration::from_hours(7 * 24)
}

/// Extension: what each node must have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// GPUs that the job takes on each node. Absent: all that the node has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = GPUS_PER_NODE))]
    pub gpus_per_node: Option<u32>,
}

/// ISO 8601 durations with days of 24 hours, as `P7D`, `PT1H30M`.
pub mod iso_duration {
    use jiff::SignedDuration;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Reads `P7D`, `PT1.5H`, `P1DT2H`; months and years are refused, since their length is not fixed.
    ///
    /// # Errors
    /// What is wrong with the text, in words.
    pub fn parse(text: &str) -> Result<SignedDuration, String> {
        // jiff reads friendly forms too (`7 days`), which other readers of a spec do not know.
        let iso = Some(text).filter(|text| text.starts_with(['P', 'p']));
        let span: Option<jiff::Span> = iso.and_then(|text| text.parse().ok());
        let span = span.ok_or("not an ISO 8601 duration")?;
        if span.get_months() != 0 || span.get_years() != 0 {
            return Err("months and years have no fixed length: use days".to_owned());
        }
        let relative = jiff::SpanRelativeTo::days_are_24_hours();
        let duration = span.to_duration(relative).map_err(|_| "too long")?;
        if duration <= SignedDuration::ZERO { Err("must be more than zero".to_owned()) } else { Ok(duration) }
    }

    /// Writes days where they are whole (`P7D`), else hours, minutes and seconds (`PT36H`).
    #[must_use]
    pub fn print(duration: SignedDuration) -> String {
        let seconds = duration.as_secs();
        if seconds > 0 && seconds % 86_400 == 0 && duration.subsec_nanos() == 0 {
            format!("P{}D", seconds / 86_400)
        } else {
            duration.to_string()
        }
    }

    pub(crate) fn serialize<S: Serializer>(duration: &SignedDuration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&print(*duration))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SignedDuration, D::Error> {
        let text = String::deserialize(from)?;
        parse(&text).map_err(serde::de::Error::custom)
    }
}
