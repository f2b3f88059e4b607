//! What stands before a start: directories, mounts, files, ports, in this order; and what is undone later.
//!
//! Every step can be repeated safely. All of it blocks (a mount for ever, if its server is dead), so it
//! runs in threads of its own, never on the agent's loop.

mod mount;
mod port;
mod preflight;
mod wipe;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use trainyard_core::agent::SetupProblem;
use trainyard_core::plan::NodePlan;
use trainyard_core::plan::task::PlannedFile;

use crate::gpu::GpuHandle;
use crate::spool::Notes;

pub use mount::MountError;
pub use wipe::WipeError;

/// Sets gangs up and cleans up behind them; its clones share what is in use.
#[derive(Clone)]
pub struct Setup {
    root: PathBuf,
    privileged: bool,
    in_use: Arc<wipe::InUse>,
    gpu: Option<GpuHandle>,
}

/// A step that did not work.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("directory {0} cannot be made: {1}")]
    Directory(String, #[source] io::Error),
    #[error("file {0} cannot be written: {1}")]
    File(String, #[source] io::Error),
    #[error("{0}")]
    Mount(#[from] MountError),
    #[error("remains of an earlier job cannot be removed: {0}")]
    Wipe(#[from] WipeError),
}

impl Setup {
    /// For the agent of this root folder; `privileged`: whether it may mount.
    #[must_use]
    pub fn new(root: PathBuf, privileged: bool) -> Setup {
        Setup { root, privileged, in_use: Arc::default(), gpu: None }
    }

    /// The same, with GPUs that it can check before a start.
    #[must_use]
    pub fn with_gpus(self, gpu: GpuHandle) -> Setup {
        Setup { gpu: Some(gpu), ..self }
    }

    /// Makes the directories that every node has.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn make_root(&self) -> io::Result<()> {
        for folder in ["", "mounts", "jobs"] {
            make_directory(&self.root.join(folder))?;
        }
        Ok(())
    }

    /// Does everything that the plan asks for before its preparation; `stale_temp`: whether the job's
    /// temporary directory may hold what another job left. Writes each step to the execution log.
    #[must_use]
    pub fn set_up(&self, plan: &NodePlan, stale_temp: bool, notes: &Notes) -> Option<SetupProblem> {
        if let Err(error) = self.make_ready(plan, stale_temp, notes) {
            return Some(SetupProblem::Failed(error.to_string()));
        }
        let taken = port::taken(&plan.ports);
        if !taken.is_empty() {
            for port in &taken {
                notes.write(&format!("ports: {port} is taken"));
            }
            return Some(SetupProblem::PortsTaken(taken));
        }
        if !plan.ports.is_empty() {
            let list: Vec<String> = plan.ports.iter().map(ToString::to_string).collect();
            notes.write(&format!("ports: free: {}", list.join(" ")));
        }
        if let Some(wanted) = &plan.preflight
            && let Err(unfit) = preflight::check(wanted, self.gpu.as_ref(), notes)
        {
            return Some(SetupProblem::Preflight(unfit));
        }
        None
    }

    fn make_ready(&self, plan: &NodePlan, stale_temp: bool, notes: &Notes) -> Result<(), StepError> {
        self.in_use.protect(Path::new(&plan.job_temp));
        if stale_temp {
            wipe::remove(&self.root, Path::new(&plan.job_temp), self.privileged)?;
            notes.write(&format!("directories: {} was cleared of an earlier job's remains", plan.job_temp));
        }
        make_directories(&plan.directories)?;
        notes.write(&format!("directories: {} are there", plan.directories.len()));
        for mount in &plan.host_mounts {
            mount::show(mount, self.privileged)?;
            let access = if mount.read_only { "read-only" } else { "read-write" };
            notes.write(&format!("mounts: {} shows {}, {access}", mount.target, mount.source));
        }
        make_directories(&plan.mounted_directories)?;
        for file in &plan.files {
            write_file(file).map_err(|error| StepError::File(file.path.clone(), error))?;
            notes.write(&format!("files: {} is written", file.path));
        }
        Ok(())
    }

    /// Undoes the mounts of a gang. Files stay until a later job starts.
    ///
    /// # Errors
    /// The first mount that is still there, and why.
    pub fn clean_up(&self, plan: &NodePlan) -> Result<(), MountError> {
        let mut done = Ok(());
        for mount in plan.host_mounts.iter().rev() {
            // One that stays does not keep the others.
            done = done.and(mount::hide(Path::new(&mount.target)));
        }
        self.in_use.unprotect(Path::new(&plan.job_temp));
        done
    }

    /// Removes temporary directories of ended jobs; those that are gone now, or are in use again.
    #[must_use]
    pub fn wipe(&self, job_temps: Vec<String>) -> Vec<String> {
        job_temps
            .into_iter()
            .filter(|job_temp| {
                let removed = self.in_use.unless_protected(Path::new(job_temp), |path| {
                    wipe::remove(&self.root, path, self.privileged)
                });
                match removed {
                    None | Some(Ok(())) => true,
                    Some(Err(error)) => {
                        tracing::warn!(job_temp, %error, "temporary directory of an ended job stays");
                        false
                    }
                }
            })
            .collect()
    }

    /// Unmounts what an agent that died left below `<root>/jobs`, but for these jobs' directories.
    pub fn unmount_leftovers(&self, held: &[PathBuf]) {
        held.iter().for_each(|job_temp| self.in_use.protect(job_temp));
        if !self.privileged {
            return;
        }
        for target in mount::below(&self.root.join("jobs")) {
            if held.iter().any(|job_temp| target.starts_with(job_temp)) {
                continue;
            }
            match mount::hide(&target) {
                Ok(()) => tracing::info!(target = %target.display(), "left-over mount is undone"),
                Err(error) => tracing::warn!(target = %target.display(), %error, "left-over mount stays"),
            }
        }
    }
}

fn make_directories(paths: &[String]) -> Result<(), StepError> {
    for path in paths {
        make_directory(Path::new(path)).map_err(|error| StepError::Directory(path.clone(), error))?;
    }
    Ok(())
}

fn make_directory(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn write_file(file: &PlannedFile) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(&file.path)?
        .write_all(file.content.as_bytes())
}

/// Whether this process may mount: root, and not in a container that took the right away.
#[must_use]
pub fn may_mount() -> bool {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    nix::unistd::geteuid().is_root() && effective & CAP_SYS_ADMIN != 0
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use trainyard_core::id::NodeId;
    use trainyard_core::plan::task::HostMount;
    use trainyard_core::unit::Port;

    use super::*;
    use crate::spool::Spool;

    struct Place {
        folder: tempfile::TempDir,
        notes: Notes,
        spool: Spool,
    }

    const GANG: trainyard_core::id::GangId =
        trainyard_core::id::GangId { job: trainyard_core::id::JobId(7), gang: trainyard_core::id::GangNo(1) };

    impl Place {
        fn new() -> Place {
            let folder = tempfile::tempdir().unwrap();
            let spool = Spool::start(folder.path().join("root/spool"), "node-0".into(), 1 << 30).unwrap();
            spool.open(GANG, Vec::new()).unwrap();
            let notes = spool.notes(GANG, "execution.log");
            Place { folder, notes, spool }
        }

        fn path(&self, below: &str) -> String {
            self.folder.path().join(below).to_str().unwrap().to_owned()
        }

        fn plan(&self) -> NodePlan {
            NodePlan {
                node: NodeId("node-0".into()),
                job_temp: self.path("root/jobs/w/e/j"),
                directories: vec![self.path("root/jobs/w/e/j/mounts"), self.path("out/stdouterr")],
                host_mounts: Vec::new(),
                mounted_directories: Vec::new(),
                files: vec![PlannedFile {
                    path: self.path("root/jobs/w/e/j/hostfile"),
                    content: "a\nb\n".into(),
                }],
                std_dir: self.path("out/stdouterr"),
                execution_log: "execution.log".into(),
                preparation: None,
                ports: Vec::new(),
                preflight: None,
                tasks: Vec::new(),
                notes: Vec::new(),
            }
        }

        fn setup(&self, privileged: bool) -> Setup {
            let setup = Setup::new(self.folder.path().join("root"), privileged);
            setup.make_root().unwrap();
            setup
        }

        fn log(&self) -> String {
            std::fs::read_to_string(self.spool.gang_folder(GANG).join("execution.log")).unwrap()
        }
    }

    #[test]
    fn directories_and_files_are_made_as_often_as_asked() {
        let place = Place::new();
        let setup = place.setup(false);
        for _ in 0..2 {
            assert_eq!(setup.set_up(&place.plan(), false, &place.notes), None);
        }
        assert!(Path::new(&place.path("out/stdouterr")).is_dir());
        assert_eq!(std::fs::read_to_string(place.path("root/jobs/w/e/j/hostfile")).unwrap(), "a\nb\n");
    }

    #[test]
    fn every_taken_port_is_named() {
        let place = Place::new();
        let listeners: Vec<TcpListener> =
            ["127.0.0.1:0", "0.0.0.0:0"].iter().map(|address| TcpListener::bind(address).unwrap()).collect();
        let taken: Vec<Port> = listeners.iter().map(|it| Port(it.local_addr().unwrap().port())).collect();
        let free = Port(TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port());
        let mut plan = place.plan();
        plan.ports = vec![taken[0], free, taken[1]];
        let problem = place.setup(false).set_up(&plan, false, &place.notes);
        assert_eq!(problem, Some(SetupProblem::PortsTaken(taken.clone())));
        for port in taken {
            assert!(place.log().contains(&format!("ports: {port} is taken")));
        }
    }

    #[test]
    fn without_root_a_host_path_is_a_link_and_cannot_be_read_only() {
        let place = Place::new();
        std::fs::create_dir(place.path("data")).unwrap();
        let mut plan = place.plan();
        let target = place.path("root/jobs/w/e/j/mounts/data");
        plan.host_mounts =
            vec![HostMount { source: place.path("data"), target: target.clone(), read_only: false }];
        plan.mounted_directories = vec![format!("{target}/logs")];
        let setup = place.setup(false);
        assert_eq!(setup.set_up(&plan, false, &place.notes), None);
        assert_eq!(setup.set_up(&plan, false, &place.notes), None, "again");
        assert!(Path::new(&place.path("data/logs")).is_dir());
        setup.clean_up(&plan).unwrap();
        assert!(!Path::new(&target).exists() && Path::new(&place.path("data/logs")).is_dir());
        plan.host_mounts[0].read_only = true;
        let Some(SetupProblem::Failed(why)) = setup.set_up(&plan, false, &place.notes) else {
            panic!("it was taken")
        };
        assert!(why.contains("read-only") && why.contains("root"), "{why}");
    }

    #[test]
    fn a_missing_source_is_named() {
        let place = Place::new();
        let mut plan = place.plan();
        let target = place.path("root/jobs/w/e/j/mounts/data");
        plan.host_mounts = vec![HostMount { source: place.path("none"), target, read_only: false }];
        let Some(SetupProblem::Failed(why)) = place.setup(false).set_up(&plan, false, &place.notes) else {
            panic!("it was taken")
        };
        assert!(why.contains(&place.path("none")), "{why}");
    }

    #[test]
    fn as_root_a_host_path_is_mounted_and_undone() {
        if !may_mount() {
            eprintln!("SKIPPED: needs root with CAP_SYS_ADMIN");
            return;
        }
        let place = Place::new();
        std::fs::create_dir(place.path("data")).unwrap();
        std::fs::write(place.path("data/x"), "1").unwrap();
        let mut plan = place.plan();
        let target = place.path("root/jobs/w/e/j/mounts/data");
        plan.host_mounts =
            vec![HostMount { source: place.path("data"), target: target.clone(), read_only: true }];
        let setup = place.setup(true);
        for _ in 0..2 {
            assert_eq!(setup.set_up(&plan, false, &place.notes), None);
        }
        assert_eq!(std::fs::read_to_string(format!("{target}/x")).unwrap(), "1");
        let refused = std::fs::write(format!("{target}/y"), "2").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(
            mount::below(&place.folder.path().join("root/jobs")),
            [PathBuf::from(&target)],
            "mounted once"
        );
        // A wipe goes around what is mounted, after undoing it.
        assert_eq!(
            setup.wipe(vec![plan.job_temp.clone()]),
            [plan.job_temp.clone()],
            "it is in use: nothing to do"
        );
        assert!(Path::new(&target).exists());
        setup.unmount_leftovers(&[PathBuf::from(&plan.job_temp)]);
        assert!(Path::new(&format!("{target}/x")).exists(), "it is held");
        let other = Setup::new(place.folder.path().join("root"), true);
        other.unmount_leftovers(&[]);
        assert!(!Path::new(&format!("{target}/x")).exists());
        assert_eq!(other.wipe(vec![plan.job_temp.clone()]), [plan.job_temp.clone()]);
        assert!(!Path::new(&plan.job_temp).exists() && Path::new(&place.path("data/x")).exists());
    }

    #[test]
    fn a_wipe_stays_inside_the_jobs_folder_and_follows_no_link() {
        let place = Place::new();
        let setup = place.setup(false);
        std::fs::create_dir(place.path("precious")).unwrap();
        std::fs::write(place.path("precious/x"), "1").unwrap();
        let job_temp = place.path("root/jobs/w/e/j");
        std::fs::create_dir_all(&job_temp).unwrap();
        std::os::unix::fs::symlink(place.path("precious"), format!("{job_temp}/link")).unwrap();
        std::os::unix::fs::symlink(place.path("precious"), place.path("root/jobs/evil")).unwrap();
        let outside = [place.path("precious"), place.path("root/jobs"), place.path("root/jobs/evil/x")];
        assert_eq!(setup.wipe(outside.to_vec()), Vec::<String>::new());
        assert_eq!(setup.wipe(vec![job_temp.clone()]), std::slice::from_ref(&job_temp));
        assert!(!Path::new(&job_temp).exists() && Path::new(&place.path("precious/x")).exists());
        assert_eq!(setup.wipe(vec![job_temp.clone()]), [job_temp], "what is gone is wiped");
    }

    #[test]
    fn remains_of_another_job_of_the_same_name_are_cleared_first() {
        let place = Place::new();
        let setup = place.setup(false);
        std::fs::create_dir_all(place.path("root/jobs/w/e/j")).unwrap();
        std::fs::write(place.path("root/jobs/w/e/j/stale"), "1").unwrap();
        assert_eq!(setup.set_up(&place.plan(), true, &place.notes), None);
        assert!(!Path::new(&place.path("root/jobs/w/e/j/stale")).exists());
        assert!(Path::new(&place.path("root/jobs/w/e/j/hostfile")).exists());
    }
}
