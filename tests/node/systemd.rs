//! The units, read by systemd itself: it must have nothing to say about them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd")
}

fn unit_names() -> Vec<String> {
    let entries =
        std::fs::read_dir(units()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        entries.filter(|name| name.ends_with(".service") || name.ends_with(".slice")).collect();
    names.sort();
    names
}

/// Runs systemd-analyze, or says that it is not there.
fn analyze(arguments: &[&str]) -> Option<Output> {
    match Command::new("systemd-analyze").args(arguments).env("SYSTEMD_LOG_LEVEL", "notice").output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("SKIPPED: systemd-analyze cannot be run: {error}");
            None
        }
    }
}

/// A copy with a program that exists here: `verify` looks for it.
fn copy_with_program(directory: &Path, name: &str, edit: impl Fn(&str) -> String) -> String {
    let text = std::fs::read_to_string(units().join(name)).unwrap();
    assert!(text.contains("ExecStart=/usr/bin/trainyard "), "{name}");
    let copy = directory.join(name);
    std::fs::write(&copy, edit(&text.replace("/usr/bin/trainyard", "/bin/true"))).unwrap();
    copy.into_os_string().into_string().unwrap()
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    assert_eq!(unit_names(), ["trainyard-agent.service", "trainyard-coordinator.service"]);
    let directory = tempfile::tempdir().unwrap();
    for name in unit_names() {
        let copy = copy_with_program(directory.path(), &name, str::to_owned);
        // `man:` pages are not installed here.
        let Some(output) = analyze(&["verify", "--man=no", &copy]) else { return };
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{name}");
        assert!(output.status.success(), "{name}");
    }
}

#[test]
fn a_bad_unit_would_be_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let spoil = |text: &str| text.replace("Type=notify", "Type=notfy\nNoSuchKey=yes");
    let copy = copy_with_program(directory.path(), "trainyard-agent.service", spoil);
    // The exit code is 0 even then: only stderr tells.
    let Some(output) = analyze(&["verify", "--man=no", &copy]) else { return };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("notfy") && stderr.contains("NoSuchKey"), "{stderr}");
}

#[test]
fn a_restart_of_the_agent_signals_nothing_else() {
    let unit = std::fs::read_to_string(units().join("trainyard-agent.service")).unwrap();
    for line in ["KillMode=process", "Delegate=yes", "Restart=always", "Type=notify", "OOMPolicy=continue"] {
        assert!(unit.lines().any(|have| have == line), "{line}");
    }
    // Each of these gives the agent a mount namespace, or takes something from tasks that they need.
    for key in [
        "Private",
        "Protect",
        "ReadOnly",
        "ReadWrite",
        "Inaccessible",
        "NoNewPrivileges",
        "MemoryDenyWriteExecute",
    ] {
        assert!(!unit.lines().any(|have| have.starts_with(key)), "{key}");
    }
}

#[test]
fn the_coordinator_is_locked_in() {
    let directory = tempfile::tempdir().unwrap();
    let copy = copy_with_program(directory.path(), "trainyard-coordinator.service", str::to_owned);
    // 0 is safe, 100 unsafe; above the threshold it fails.
    let Some(output) = analyze(&["security", "--offline=true", "--threshold=20", "--no-pager", &copy]) else {
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
