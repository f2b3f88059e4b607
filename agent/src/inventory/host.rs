//! The machine's name and its system.

use sysinfo::System;

/// As `uname -n`; empty if unknown.
pub(super) fn hostname() -> String {
    System::host_name().unwrap_or_default()
}

/// As `uname -r`.
pub(super) fn kernel() -> String {
    System::kernel_version().unwrap_or_default()
}

/// Name and version, as `Debian GNU/Linux 12`; only the name where there are no versions (Arch).
pub(super) fn os() -> String {
    let parts = [System::name(), System::os_version()];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel_file(name: &str) -> String {
        std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap().trim_end().to_owned()
    }

    #[test]
    fn names_are_the_kernels() {
        assert_eq!(hostname(), kernel_file("hostname"));
        assert_eq!(kernel(), kernel_file("osrelease"));
    }

    #[test]
    fn the_system_has_a_name_without_quotes() {
        let Ok(file) = std::fs::read_to_string("/etc/os-release") else {
            eprintln!("SKIPPED: no /etc/os-release");
            return;
        };
        let os = os();
        let name = file.lines().find_map(|line| line.strip_prefix("NAME=")).unwrap().trim_matches('"');
        assert!(os.starts_with(name) && !os.contains('"'), "{os:?}");
    }
}
