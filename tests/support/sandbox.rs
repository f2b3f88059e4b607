//! A place of its own for each test: state, configuration, job files, results. Its end ends every process that
//! carries its path, and nothing else.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{Finished, Process, groups_of, processes_of, signal, trainyard, until};

/// A folder with everything of one test.
pub struct Sandbox {
    folder: tempfile::TempDir,
}

impl Sandbox {
    /// A new, empty one.
    ///
    /// # Panics
    /// It cannot be made.
    #[expect(clippy::new_without_default, reason = "making one touches the disk")]
    #[must_use]
    pub fn new() -> Sandbox {
        let folder = tempfile::Builder::new().prefix("trainyard-test-").tempdir().expect("a folder");
        for below in ["state", "config", "out", "audit"] {
            fs::create_dir(folder.path().join(below)).expect("a folder");
        }
        Sandbox { folder }
    }

    /// Its folder, or something below it.
    #[must_use]
    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// The same as text.
    ///
    /// # Panics
    /// The folder for temporary files has a strange name.
    #[must_use]
    pub fn text(&self, below: &str) -> String {
        self.path(below).to_str().expect("a UTF-8 path").to_owned()
    }

    /// From now on its folder stays when it ends: for somebody who looks why a test failed.
    pub fn keep(&mut self) {
        self.folder.disable_cleanup(true);
    }

    /// `trainyard` with these arguments: with this sandbox's configuration, and none of the caller's.
    pub fn command(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(trainyard());
        self.settle(&mut command);
        command.args(arguments);
        command
    }

    /// Gives a command this sandbox's environment.
    pub fn settle(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let of_cargo = text.starts_with("CARGO") || text == "LD_LIBRARY_PATH";
            if of_cargo || text.starts_with("TRAINYARD_") || text.starts_with("AZURE_BATCHAI_") {
                command.env_remove(&name);
            }
        }
        command.env("XDG_CONFIG_HOME", self.path("config")).env("XDG_STATE_HOME", self.path("state"));
        command.current_dir(self.path("")).stdin(Stdio::null());
    }

    /// Runs `trainyard` to its end.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn run(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Finished {
        Finished::of(&self.command(arguments).output().expect("trainyard can be started"))
    }

    /// Writes a job file; the properties are completed by a log folder below `out` if they name none.
    ///
    /// # Panics
    /// It cannot be written.
    #[must_use]
    pub fn job(&self, name: &str, mut properties: Value) -> String {
        if properties["stdOutErrPathPrefix"].is_null() {
            properties["stdOutErrPathPrefix"] = json!(self.path("out"));
        }
        let path = self.path(&format!("{name}.json"));
        fs::write(&path, json!({ "properties": properties }).to_string()).expect("a job file");
        path.to_str().expect("a UTF-8 path").to_owned()
    }

    /// Writes an executable bash script.
    ///
    /// # Panics
    /// It cannot be written.
    #[must_use]
    pub fn script(&self, name: &str, text: &str) -> String {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/bash\n{text}")).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
        path.to_str().expect("a UTF-8 path").to_owned()
    }

    /// The folder of the logs of a job whose resource this is.
    ///
    /// # Panics
    /// The resource has no segment.
    #[must_use]
    pub fn logs(&self, job: &Value) -> PathBuf {
        let segment = job["properties"]["jobOutputDirectoryPathSegment"].as_str().expect("a segment");
        self.path("out").join(segment).join("stdouterr")
    }

    /// The text of a file below the folder; empty if there is none.
    #[must_use]
    pub fn read(&self, below: &str) -> String {
        fs::read_to_string(self.path(below)).unwrap_or_default()
    }

    /// Its processes, those of `trainyard` itself included.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        processes_of(self.folder.path())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let mut groups = BTreeSet::new();
        let mut end = || {
            let left = self.processes();
            for process in &left {
                groups.extend(groups_of(process));
                signal(process.pid, Signal::SIGKILL);
            }
            // A killed process of another parent stays until that one looks.
            left.iter().all(|process| process.state == 'Z')
        };
        if std::thread::panicking() {
            // A second panic would hide the first.
            for _ in 0..20 {
                if end() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        } else {
            until("the processes of the sandbox end", || end().then_some(()));
        }
        for group in groups {
            // A group that is in use still is no reason to fail: its processes were just killed.
            drop(remove_group(&group));
            drop(group.parent().map(fs::remove_dir));
        }
        detach_mounts(self.folder.path());
    }
}

fn remove_group(group: &Path) -> std::io::Result<()> {
    for entry in
        fs::read_dir(group)?.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    {
        remove_group(&entry.path())?;
    }
    fs::remove_dir(group)
}

/// So that removing the folder does not go through a mount.
fn detach_mounts(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut points: Vec<PathBuf> = points.filter(|point| point.starts_with(folder)).collect();
    points.sort();
    for point in points.iter().rev() {
        if let Err(errno) = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {errno}", point.display());
        }
    }
}
