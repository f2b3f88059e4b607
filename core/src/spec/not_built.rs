//! What a spec may ask for already but nothing can run yet. This list is the only one: it shrinks.

use std::fmt;

use super::job::JobSpec;
use crate::toolkit::Toolkit;

/// A part of a spec that cannot run yet. `Display` is its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotBuilt {
    /// Where it stands in the spec, as `containerSettings` or `secrets[0].valueSecretReference`.
    pub path: String,
}

impl fmt::Display for NotBuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

/// Every part of the spec that cannot run yet, in the order of the schema. A job with any is accepted, and
/// ends as `NotBuilt` before a process of it starts.
#[must_use]
pub fn not_built(spec: &JobSpec) -> Vec<NotBuilt> {
    let mut paths = vec![];
    if let Some(volumes) = &spec.mount_volumes {
        let kinds = [
            ("azureFileShares", volumes.azure_file_shares.len()),
            ("azureBlobFileSystems", volumes.azure_blob_file_systems.len()),
            ("fileServers", volumes.file_servers.len()),
            ("unmanagedFileSystems", volumes.unmanaged_file_systems.len()),
        ];
        paths.extend(
            kinds.iter().filter(|(_, count)| *count > 0).map(|(kind, _)| format!("mountVolumes.{kind}")),
        );
    }
    if spec.container_settings.is_some() {
        paths.push("containerSettings".to_owned());
    }
    if !toolkit_is_built(&spec.toolkit) {
        paths.push(spec.toolkit.key().to_owned());
    }
    for (index, secret) in spec.secrets.iter().enumerate() {
        if secret.value_secret_reference.is_some() {
            paths.push(format!("secrets[{index}].valueSecretReference"));
        }
    }
    paths.into_iter().map(|path| NotBuilt { path }).collect()
}

fn toolkit_is_built(toolkit: &Toolkit) -> bool {
    match toolkit {
        Toolkit::TensorFlow(_) | Toolkit::PyTorch(_) | Toolkit::Custom(_) => true,
        Toolkit::Cntk(_)
        | Toolkit::Caffe(_)
        | Toolkit::Caffe2(_)
        | Toolkit::Chainer(_)
        | Toolkit::CustomMpi(_)
        | Toolkit::Horovod(_) => false,
    }
}
