//! Volumes: where each appears, and what a request must say of each.

use super::directories::{check_absolute, check_relative, check_text};
use super::{either, is_placeholder, placeholder};
use crate::spec::Source;
use crate::spec::error::{Refusal, SpecError};
use crate::spec::job::JobSpec;
use crate::spec::volumes::{MountVolumes, StorageCredentials};

pub(super) fn check(spec: &JobSpec, source: Source, report: &mut Refusal) {
    let Some(volumes) = &spec.mount_volumes else { return };
    check_mount_points(volumes, report);
    check_accounts(volumes, source, report);
    for (index, share) in volumes.azure_file_shares.iter().enumerate() {
        let at = format!("mountVolumes.azureFileShares[{index}]");
        check_mode(&format!("{at}.fileMode"), share.file_mode.as_deref(), report);
        check_mode(&format!("{at}.directoryMode"), share.directory_mode.as_deref(), report);
    }
    for (index, host) in volumes.host_paths.iter().enumerate() {
        // In a job file a relative path is meant from the file's folder: the client writes it out.
        let relative =
            source == Source::File && !host.path.is_empty() && !host.path.starts_with(['/', '$', '~']);
        let check = if relative { check_text } else { check_absolute };
        check(&format!("mountVolumes.hostPaths[{index}].path"), &host.path, report);
    }
}

fn check_mount_points(volumes: &MountVolumes, report: &mut Refusal) {
    let shares = volumes.azure_file_shares.iter().map(|v| &v.relative_mount_path).enumerate();
    let containers = volumes.azure_blob_file_systems.iter().map(|v| &v.relative_mount_path).enumerate();
    let servers = volumes.file_servers.iter().map(|v| &v.relative_mount_path).enumerate();
    let unmanaged = volumes.unmanaged_file_systems.iter().map(|v| &v.relative_mount_path).enumerate();
    let hosts = volumes.host_paths.iter().map(|v| &v.relative_mount_path).enumerate();
    let all = shares
        .map(|volume| ("azureFileShares", volume))
        .chain(containers.map(|volume| ("azureBlobFileSystems", volume)))
        .chain(servers.map(|volume| ("fileServers", volume)))
        .chain(unmanaged.map(|volume| ("unmanagedFileSystems", volume)))
        .chain(hosts.map(|volume| ("hostPaths", volume)));
    let mut seen: Vec<(Vec<&str>, String)> = vec![];
    for (kind, (index, path)) in all {
        let volume = format!("mountVolumes.{kind}[{index}]");
        let at = format!("{volume}.relativeMountPath");
        check_relative(&at, path, report);
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let overlaps = |other: &[&str]| other.starts_with(&parts) || parts.starts_with(other);
        if parts.is_empty() || parts.contains(&"..") {
            continue;
        }
        if let Some((_, other)) = seen.iter().find(|(other, _)| overlaps(other)) {
            let error = SpecError::at(&at, format!("the folder of {other}, or in it or around it"));
            report.refuse(error.value(path.as_str()).cure("give each volume a folder of its own"));
        } else {
            seen.push((parts, volume));
        }
    }
}

fn check_accounts(volumes: &MountVolumes, source: Source, report: &mut Refusal) {
    let shares = volumes.azure_file_shares.iter().enumerate().map(|(index, share)| {
        let place = ("azureFileUrl", share.azure_file_url.as_str());
        (format!("mountVolumes.azureFileShares[{index}]"), &share.account_name, &share.credentials, place)
    });
    let containers = volumes.azure_blob_file_systems.iter().enumerate().map(|(index, container)| {
        let place = ("containerName", container.container_name.as_str());
        (
            format!("mountVolumes.azureBlobFileSystems[{index}]"),
            &container.account_name,
            &container.credentials,
            place,
        )
    });
    for (at, account, credentials, (place, text)) in shares.chain(containers) {
        check_credentials(&at, credentials.as_ref(), source, report);
        if source == Source::File {
            continue;
        }
        match account {
            None => report.refuse(
                SpecError::at(format!("{at}.accountName"), "missing").cure("name the storage account"),
            ),
            Some(account) if is_placeholder(account) => {
                report.refuse(placeholder(format!("{at}.accountName")))
            }
            Some(_) => {}
        }
        if is_placeholder(text) {
            report.refuse(placeholder(format!("{at}.{place}")));
        }
    }
}

fn check_credentials(
    at: &str,
    credentials: Option<&StorageCredentials>,
    source: Source,
    report: &mut Refusal,
) {
    let at = format!("{at}.credentials");
    let empty = StorageCredentials::default();
    let credentials = match (credentials, source) {
        // The client fills in a key that a file leaves out.
        (None, Source::File) => return,
        (Some(credentials), Source::File) if *credentials == empty => return,
        (None, Source::RestBody) => &empty,
        (Some(credentials), Source::File | Source::RestBody) => credentials,
    };
    let (value, reference) = (&credentials.account_key, &credentials.account_key_secret_reference);
    either(&at, ("accountKey", value), ("accountKeySecretReference", reference), source, report);
}

fn check_mode(at: &str, mode: Option<&str>, report: &mut Refusal) {
    let Some(mode) = mode else { return };
    let is_mode = (3..=5).contains(&mode.len()) && mode.bytes().all(|b| (b'0'..=b'7').contains(&b));
    if !is_mode {
        report.refuse(
            SpecError::at(at, "not a file mode").value(mode).allowed("three or four octal digits, as `0777`"),
        );
    }
}
