//! The cgroups of attempts: where they can be made on this machine, making and removing them.
//!
//! The v2 hierarchy tracks and kills (also where, on hybrid machines, it has no controllers); v1 controllers,
//! where they are, account and limit. Each agent root has a folder of its own, so that the local nodes of one
//! machine do not meet: `<hierarchy>/trainyard/<instance>/<attempt>`. Restarts change no task's cgroup.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use trainyard_core::id::AttemptId;
use trainyard_core::shim::Cgroups;

use super::sys;

/// Controllers of v1 that account for or limit a task.
const V1_CONTROLLERS: [&str; 3] = ["cpuacct", "memory", "pids"];
/// The controllers of v2 that do.
const V2_CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];

/// Whether attempts get cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupMode {
    /// They do, below these folders.
    Kept(CgroupRoots),
    /// They do not: sessions and descent are used instead.
    None {
        /// Why, for the inventory's limitations.
        reason: String,
    },
}

/// The folders of one agent below which each attempt has its groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupRoots {
    v2: Option<PathBuf>,
    v1: BTreeMap<String, PathBuf>,
    limitations: Vec<String>,
}

/// The groups of one attempt. They need not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttemptCgroups {
    /// In the v2 hierarchy.
    pub v2: Option<PathBuf>,
    /// In v1 hierarchies, by controller: `cpuacct`, `memory`, `pids`, `freezer`.
    pub v1: BTreeMap<String, PathBuf>,
}

/// Upper limits of each attempt; `None`: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttemptLimits {
    /// Memory with page cache, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
}

impl CgroupMode {
    /// Finds out what this machine allows, and makes this agent's folders.
    ///
    /// `root` tells agents of one machine apart: the agent's root folder or its run directory.
    #[must_use]
    pub fn detect(root: &Path) -> CgroupMode {
        if !nix::unistd::geteuid().is_root() {
            return CgroupMode::None { reason: "no cgroups: the agent does not run as root".to_owned() };
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        match make_roots(&Hierarchies::parse(&mounts), &instance(root)) {
            Ok(roots) => CgroupMode::Kept(roots),
            Err(reason) => CgroupMode::None { reason: format!("no cgroups: {reason}") },
        }
    }

    /// What attempts on this machine have to do without, in words; empty where nothing is missing.
    #[must_use]
    pub fn limitations(&self) -> Vec<String> {
        match self {
            CgroupMode::Kept(roots) => roots.limitations.clone(),
            CgroupMode::None { reason } => vec![reason.clone()],
        }
    }

    /// Removes this agent's folders, for agents that do not come again. Folders with attempts in them stay.
    pub fn remove_roots(&self) {
        let CgroupMode::Kept(roots) = self else { return };
        for dir in roots.v2.iter().chain(roots.v1.values()) {
            if let Err(error) = fs::remove_dir(dir) {
                tracing::debug!(dir = %dir.display(), %error, "a cgroup folder stays");
            }
        }
    }

    /// The groups of an attempt; none at all without cgroups.
    #[must_use]
    pub fn of(&self, attempt: AttemptId) -> AttemptCgroups {
        let CgroupMode::Kept(roots) = self else { return AttemptCgroups::default() };
        let name = attempt.to_string();
        AttemptCgroups {
            v2: roots.v2.as_ref().map(|dir| dir.join(&name)),
            v1: roots.v1.iter().map(|(controller, dir)| (controller.clone(), dir.join(&name))).collect(),
        }
    }
}

impl AttemptCgroups {
    /// All folders, v2 first.
    pub fn dirs(&self) -> impl Iterator<Item = &PathBuf> {
        self.v2.iter().chain(self.v1.values())
    }

    /// Those that say which processes the attempt has.
    pub(super) fn tracking(&self) -> impl Iterator<Item = &PathBuf> {
        let v1 = if self.v2.is_none() { Some(self.v1.values()) } else { None };
        self.v2.iter().chain(v1.into_iter().flatten())
    }

    /// Makes the groups, and sets their limits. Limits that the machine cannot hold are left out.
    pub(super) fn create(&self, limits: AttemptLimits) -> io::Result<()> {
        for dir in self.dirs() {
            // With its parents: somebody may have tidied up an idle agent's folder.
            fs::create_dir_all(dir)?;
        }
        if let Some(bytes) = limits.memory_bytes {
            self.set([("v2", "memory.max"), ("memory", "memory.limit_in_bytes")], bytes)?;
        }
        if let Some(processes) = limits.processes {
            self.set([("v2", "pids.max"), ("pids", "pids.max")], processes)?;
        }
        Ok(())
    }

    fn set(&self, files: [(&str, &str); 2], value: u64) -> io::Result<()> {
        for (hierarchy, file) in files {
            let dir = if hierarchy == "v2" { self.v2.as_ref() } else { self.v1.get(hierarchy) };
            if let Some(path) = dir.map(|dir| dir.join(file)).filter(|path| path.exists()) {
                fs::write(path, value.to_string())?;
            }
        }
        Ok(())
    }

    /// Removes the groups and those below them. Fails while a process is in one.
    pub(super) fn remove(&self) -> io::Result<()> {
        self.dirs().try_for_each(|dir| remove_group(dir))
    }

    /// In the form that the shim takes.
    pub(super) fn to_wire(&self) -> Cgroups {
        use std::os::unix::ffi::OsStrExt;
        let bytes = |path: &PathBuf| path.as_os_str().as_bytes().to_vec();
        Cgroups { v2: self.v2.as_ref().map(bytes), v1: self.v1.values().map(bytes).collect() }
    }
}

fn remove_group(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The mounted hierarchies of a machine.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hierarchies {
    v2: Option<PathBuf>,
    v1: BTreeMap<String, PathBuf>,
}

impl Hierarchies {
    /// Reads `/proc/self/mountinfo`.
    fn parse(mountinfo: &str) -> Hierarchies {
        let mut found = Hierarchies::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(mount_point) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut right = right.split(' ');
            match (right.next(), right.nth(1)) {
                (Some("cgroup2"), _) => found.v2 = found.v2.or(Some(mount_point)),
                (Some("cgroup"), Some(options)) => {
                    for controller in options.split(',') {
                        found.v1.entry(controller.to_owned()).or_insert_with(|| mount_point.clone());
                    }
                }
                _ => {}
            }
        }
        found
    }
}

fn make_roots(hierarchies: &Hierarchies, instance: &str) -> Result<CgroupRoots, String> {
    let mut roots = CgroupRoots::default();
    let mut problems = Vec::new();
    if let Some(mount) = &hierarchies.v2 {
        match make_v2_root(mount, instance) {
            Ok((dir, limitation)) => {
                roots.v2 = Some(dir);
                roots.limitations.extend(limitation);
            }
            Err(problem) => problems.push(problem),
        }
    }
    // The freezer tracks and stops forks where there is no v2.
    let freezer = if roots.v2.is_none() { Some("freezer") } else { None };
    for controller in V1_CONTROLLERS.into_iter().chain(freezer) {
        let Some(mount) = hierarchies.v1.get(controller) else { continue };
        let dir = mount.join("trainyard").join(instance);
        match fs::create_dir_all(&dir) {
            // Two controllers on one mount are one hierarchy: its groups are made and removed once.
            Ok(()) if roots.v1.values().any(|other| *other == dir) => {}
            Ok(()) => drop(roots.v1.insert(controller.to_owned(), dir)),
            Err(error) => problems.push(format!("cannot make {}: {error}", dir.display())),
        }
    }
    if roots.v2.is_none() && roots.v1.is_empty() {
        problems.push("no writable hierarchy".to_owned());
        return Err(problems.join("; "));
    }
    let has_memory = roots.v1.contains_key("memory")
        || roots
            .v2
            .as_ref()
            .is_some_and(|dir| words(&dir.join("cgroup.subtree_control")).contains(&"memory".into()));
    if !has_memory {
        roots.limitations.push(
            "no memory controller: a task that runs out of memory is seen as ended by SIGKILL".to_owned(),
        );
    }
    roots.limitations.extend(problems);
    Ok(roots)
}

/// Makes `trainyard/<instance>` in the v2 hierarchy; also gives back what does not work there.
fn make_v2_root(mount: &Path, instance: &str) -> Result<(PathBuf, Option<String>), String> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let place = Place::find(mount, own, &is_delegated);
    let base = place.base();
    let dir = base.join("trainyard").join(instance);
    let failed = |path: &Path, error: io::Error| format!("cannot make {}: {error}", path.display());
    fs::create_dir_all(&dir).map_err(|error| failed(&dir, error))?;
    // The first kernel with `cgroup.kill` is 5.14; older ones are killed process by process.
    let limitation = match &place {
        Place::Top(_) | Place::UnitWithSubgroup(_) => {
            [base, &base.join("trainyard"), &dir].into_iter().for_each(enable_controllers);
            None
        }
        Place::Unit(_) => Some(
            "no memory and process limits: the service has `Delegate=` but no `DelegateSubgroup=`".to_owned(),
        ),
    };
    Ok((dir, limitation))
}

/// Where in the v2 hierarchy the agent may make groups.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// At the top of the mount.
    Top(PathBuf),
    /// In a unit that systemd leaves to the agent, which itself sits in a subgroup of it.
    UnitWithSubgroup(PathBuf),
    /// In such a unit, with the agent in the unit's own group. No controllers are switched on then: groups
    /// with controllers may hold no processes, so systemd could not start the agent again beside its tasks.
    Unit(PathBuf),
}

impl Place {
    /// `own` is the agent's group below the mount, without leading slash.
    fn find(mount: &Path, own: &str, is_delegated: &dyn Fn(&Path) -> bool) -> Place {
        let dir = mount.join(own);
        if own.is_empty() || own.starts_with("..") {
            return Place::Top(mount.to_owned());
        }
        if is_delegated(&dir) {
            return Place::Unit(dir);
        }
        match dir.parent() {
            Some(parent) if parent != mount && is_delegated(parent) => {
                Place::UnitWithSubgroup(parent.to_owned())
            }
            Some(_) | None => Place::Top(mount.to_owned()),
        }
    }

    fn base(&self) -> &Path {
        match self {
            Place::Top(dir) | Place::UnitWithSubgroup(dir) | Place::Unit(dir) => dir,
        }
    }
}

/// systemd marks what it leaves to a service.
fn is_delegated(dir: &Path) -> bool {
    sys::is_marked(dir, c"trusted.delegate") || sys::is_marked(dir, c"user.delegate")
}

/// Lets the groups below `dir` use what the machine has. A controller that cannot be had is done without:
/// what then does not work is found by looking which ones are on.
fn enable_controllers(dir: &Path) {
    let available = words(&dir.join("cgroup.controllers"));
    for controller in V2_CONTROLLERS.iter().filter(|c| available.iter().any(|a| a == *c)) {
        if let Err(error) = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")) {
            tracing::debug!(dir = %dir.display(), controller, %error, "controller stays off");
        }
    }
}

fn words(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// A short name for a path: FNV-1a, 64 bits. Stable for ever, since adoption finds groups by it.
fn instance(root: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let root = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
    format!("{:016x}", super::binary::fnv1a(root.as_os_str().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_hybrid_and_pure_machines() {
        let hybrid = Hierarchies::parse(
            "30 24 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
             31 24 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
             32 24 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
             33 24 0:29 / /sys/fs/cgroup tmpfs rw\n",
        );
        assert_eq!(hybrid.v2.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(hybrid.v1["cpuacct"], Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(hybrid.v1["memory"], Path::new("/sys/fs/cgroup/memory"));

        let pure = Hierarchies::parse(
            "32 24 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        assert_eq!(pure, Hierarchies { v2: Some("/sys/fs/cgroup".into()), v1: BTreeMap::new() });
    }

    #[test]
    fn groups_stand_where_systemd_leaves_them_to_the_agent() {
        let mount = Path::new("/cg");
        let unit = PathBuf::from("/cg/system.slice/trainyard-agent.service");
        let find = |own: &str| Place::find(mount, own, &|dir| dir == unit);
        assert_eq!(find("system.slice/trainyard-agent.service"), Place::Unit(unit.clone()));
        assert_eq!(find("system.slice/trainyard-agent.service/agent"), Place::UnitWithSubgroup(unit.clone()));
        assert_eq!(find("user.slice/session-1.scope"), Place::Top(mount.to_owned()));
        assert_eq!(find(""), Place::Top(mount.to_owned()));
        assert_eq!(find("../other"), Place::Top(mount.to_owned()));
    }
}
