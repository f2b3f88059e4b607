//! What the real client does to a job file before it sends it: the cluster and the storage account come from
//! its own settings, not from the file.

use super::job::{JobSpec, ResourceRef};
use super::volumes::StorageCredentials;
use crate::text::Secret;

const ACCOUNT: &str = "<AZURE_BATCHAI_STORAGE_ACCOUNT>";
const KEY: &str = "<AZURE_BATCHAI_STORAGE_KEY>";

/// What a client knows and a job file may leave out.
#[derive(Clone, Debug, Default)]
pub struct ClientSettings {
    /// The id of the cluster to run on. It wins over the file's.
    pub cluster: Option<String>,
    /// The storage account, of `AZURE_BATCHAI_STORAGE_ACCOUNT`.
    pub account_name: Option<String>,
    /// Its key, of `AZURE_BATCHAI_STORAGE_KEY`.
    pub account_key: Option<Secret>,
}

impl ClientSettings {
    /// Fills in what the spec leaves out, and the placeholders `<AZURE_BATCHAI_...>`. What is not known here
    /// stays open; the coordinator refuses it by its path.
    pub fn fill_in(&self, spec: &mut JobSpec) {
        if let Some(id) = &self.cluster {
            spec.cluster = Some(ResourceRef { id: id.clone() });
        }
        let Some(volumes) = &mut spec.mount_volumes else { return };
        for share in &mut volumes.azure_file_shares {
            self.fill_in_account(&mut share.account_name, &mut share.credentials);
            self.fill_in_text(&mut share.azure_file_url);
        }
        for container in &mut volumes.azure_blob_file_systems {
            self.fill_in_account(&mut container.account_name, &mut container.credentials);
            self.fill_in_text(&mut container.container_name);
        }
    }

    fn fill_in_text(&self, text: &mut String) {
        if let Some(account) = &self.account_name {
            *text = text.replace(ACCOUNT, account);
        }
    }

    fn fill_in_account(&self, name: &mut Option<String>, credentials: &mut Option<StorageCredentials>) {
        match name {
            Some(name) => self.fill_in_text(name),
            None => name.clone_from(&self.account_name),
        }
        let Some(key) = &self.account_key else { return };
        let credentials = credentials.get_or_insert_default();
        let is_open = match &credentials.account_key {
            Some(given) => given.expose() == KEY,
            None => credentials.account_key_secret_reference.is_none(),
        };
        if is_open {
            credentials.account_key = Some(key.clone());
        }
    }
}
