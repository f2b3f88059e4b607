//! Storage that a job or cluster asks to see: Batch AI's four kinds, and a directory of the node.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::job::{KeyVaultSecretReference, ResourceRef};
use super::limits::DIRECTORIES;
use crate::text::Secret;

/// Storage by kind. Each entry appears at `<mount root>/<relativeMountPath>`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MountVolumes {
    /// SMB shares.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = DIRECTORIES))]
    pub azure_file_shares: Vec<AzureFileShare>,
    /// Blob containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = DIRECTORIES))]
    pub azure_blob_file_systems: Vec<AzureBlobFileSystem>,
    /// NFS servers made by this service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = DIRECTORIES))]
    pub file_servers: Vec<FileServerMount>,
    /// Anything else that one command mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = DIRECTORIES))]
    pub unmanaged_file_systems: Vec<UnmanagedFileSystem>,
    /// Extension: directories of the node itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = DIRECTORIES))]
    pub host_paths: Vec<HostPath>,
}

/// An SMB share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureFileShare {
    /// The storage account. A job file may leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_name: Option<String>,
    /// `https://ACCOUNT.file.core.windows.net/SHARE`
    #[schemars(length(min = 1))]
    pub azure_file_url: String,
    /// The account's key. A job file may leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<StorageCredentials>,
    /// The folder below the mount root.
    #[schemars(length(min = 1))]
    pub relative_mount_path: String,
    /// Mode of files, octal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<String>,
    /// Mode of directories, octal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory_mode: Option<String>,
}

/// A blob container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureBlobFileSystem {
    /// The storage account. A job file may leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_name: Option<String>,
    /// The container.
    #[schemars(length(min = 1))]
    pub container_name: String,
    /// The account's key. A job file may leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<StorageCredentials>,
    /// The folder below the mount root.
    #[schemars(length(min = 1))]
    pub relative_mount_path: String,
    /// Options for the mount helper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_options: Option<String>,
}

/// The key of a storage account. `Serialize` gives `{}` or the reference.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageCredentials {
    /// The key; never shown again.
    #[serde(default, skip_serializing, deserialize_with = "super::env::secret")]
    #[schemars(with = "Option<String>")]
    pub account_key: Option<Secret>,
    /// A key in a key vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_key_secret_reference: Option<KeyVaultSecretReference>,
}

/// An NFS server made by this service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileServerMount {
    /// The server.
    pub file_server: ResourceRef,
    /// The folder on it; the whole server unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_directory: Option<String>,
    /// The folder below the mount root.
    #[schemars(length(min = 1))]
    pub relative_mount_path: String,
    /// Options for the mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_options: Option<String>,
}

/// Anything else that one command mounts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnmanagedFileSystem {
    /// The command; the mount point is appended.
    #[schemars(length(min = 1))]
    pub mount_command: String,
    /// The folder below the mount root.
    #[schemars(length(min = 1))]
    pub relative_mount_path: String,
}

/// A directory of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostPath {
    /// The directory: absolute, or in a job file relative to the file's folder; variables are expanded.
    #[schemars(length(min = 1))]
    pub path: String,
    /// The folder below the mount root.
    #[schemars(length(min = 1))]
    pub relative_mount_path: String,
    /// Whether tasks may only read.
    #[serde(default)]
    pub read_only: bool,
}
