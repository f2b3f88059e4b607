//! Breaks things: SIGKILL, SIGSTOP and SIGCONT to daemons and shims of one sandbox, as a seed says.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use trainyard_tests::{Fleet, Process, Sandbox, groups_of, signal};

use crate::client::Shared;
use crate::evidence::ShimKills;
use crate::noise::Noise;

/// The nodes, all on this machine.
pub(crate) const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];
/// More kills of shims than this, and a job would only wait for its next try.
const SHIM_KILLS_A_JOB: u32 = 2;

/// How often what was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) coordinator_kills: u64,
    pub(crate) agent_kills: u64,
    pub(crate) shim_kills: u64,
    /// Kills of everything but shims at once; counted above too.
    pub(crate) blackouts: u64,
    pub(crate) coordinator_stops: u64,
    pub(crate) agent_stops: u64,
    pub(crate) shim_stops: u64,
}

impl Counts {
    /// All SIGKILLs.
    pub(crate) fn kills(&self) -> u64 {
        self.coordinator_kills + self.agent_kills + self.shim_kills
    }
}

/// A process that stands still for a while.
struct Stopped {
    process: Process,
    /// `None`: the coordinator.
    node: Option<&'static str>,
    until: Instant,
}

/// A shim.
pub(crate) struct Shim {
    pub(crate) process: Process,
    pub(crate) node: &'static str,
    /// `job.gang.rank`
    pub(crate) attempt: String,
}

/// All shims of a sandbox that run.
pub(crate) fn shims(sandbox: &Sandbox) -> Vec<Shim> {
    let all = sandbox.processes();
    let is_shim = |process: &Process| process.name.starts_with("trainyard-shim") && process.state != 'Z';
    let found: Vec<&Process> = all.iter().filter(|process| is_shim(process)).collect();
    // A fork that is about to become the task still looks like its parent.
    let own = found.iter().filter(|process| !found.iter().any(|it| it.pid == process.parent));
    let shim = |process: &&Process| {
        let directory = process.directory.as_ref()?;
        let node = NODES.into_iter().find(|node| directory.starts_with(sandbox.path("state").join(node)))?;
        let attempt = process.arguments.split(|byte| *byte == 0).nth(1)?;
        Some(Shim {
            process: (*process).clone(),
            node,
            attempt: String::from_utf8_lossy(attempt).into_owned(),
        })
    };
    own.filter_map(shim).collect()
}

/// The one who breaks things.
pub(crate) struct Faults<'a, 's> {
    pub(crate) fleet: &'a mut Fleet<'s>,
    pub(crate) sandbox: &'s Sandbox,
    pub(crate) shared: &'a Shared,
    pub(crate) noise: Noise,
    pub(crate) counts: Counts,
    pub(crate) shim_kills: ShimKills,
    /// Control groups that agents have made for their attempts.
    pub(crate) groups: BTreeSet<PathBuf>,
    /// Coordinators that were started, and those of them that have answered somebody.
    pub(crate) starts: u64,
    pub(crate) answered_starts: u64,
    answers_before: u64,
    /// The present coordinator is one of `answered_starts`.
    is_counted: bool,
    stopped: Vec<Stopped>,
}

impl<'a, 's> Faults<'a, 's> {
    /// For a fleet whose coordinator was started once and answers.
    pub(crate) fn new(
        fleet: &'a mut Fleet<'s>,
        sandbox: &'s Sandbox,
        shared: &'a Shared,
        noise: Noise,
    ) -> Faults<'a, 's> {
        Faults {
            fleet,
            sandbox,
            shared,
            noise,
            counts: Counts::default(),
            shim_kills: ShimKills::new(),
            groups: BTreeSet::new(),
            starts: 1,
            answered_starts: 1,
            answers_before: 0,
            is_counted: true,
            stopped: Vec::new(),
        }
    }

    /// Faults until there were so many kills in all; then nothing stands still any more.
    pub(crate) fn until_kills(&mut self, kills: u64) {
        while self.counts.kills() < kills {
            let pause = Duration::from_millis(30 + self.noise.below(600));
            std::thread::sleep(pause);
            self.let_go(Instant::now());
            if self.noise.percent(30) {
                self.stop_one();
            }
            match self.noise.below(20) {
                0..=5 => self.kill_coordinator(),
                6..=13 => {
                    let node = *self.noise.of(&NODES);
                    self.kill_agent(node);
                }
                14..=18 => self.kill_shim(),
                _ => {
                    self.counts.blackouts += 1;
                    self.kill_everything();
                }
            }
        }
        let last = self.stopped.iter().map(|it| it.until).max();
        self.let_go(last.unwrap_or_else(Instant::now));
    }

    /// The coordinator is killed and not started.
    pub(crate) fn stop_coordinator(&mut self) {
        let answers = self.shared.answers.load(Ordering::SeqCst);
        // The client may count one late answer of the coordinator before this one.
        if !self.is_counted && self.answers_before + 2 <= answers {
            self.answered_starts += 1;
        }
        self.forget(self.fleet.living_coordinator().map(trainyard_tests::Daemon::pid));
        self.fleet.kill_coordinator();
        self.counts.coordinator_kills += 1;
    }

    /// The coordinator is started.
    pub(crate) fn start_coordinator(&mut self) {
        self.answers_before = self.shared.answers.load(Ordering::SeqCst);
        self.fleet.start_coordinator();
        self.starts += 1;
        self.is_counted = false;
    }

    fn kill_coordinator(&mut self) {
        self.stop_coordinator();
        self.start_coordinator();
    }

    fn kill_agent(&mut self, node: &'static str) {
        self.forget(self.fleet.agent(node).map(trainyard_tests::Daemon::pid));
        self.fleet.kill_agent(node);
        self.fleet.start_agent(node);
        self.counts.agent_kills += 1;
    }

    fn kill_everything(&mut self) {
        self.stop_coordinator();
        for node in NODES {
            self.forget(self.fleet.agent(node).map(trainyard_tests::Daemon::pid));
            self.fleet.kill_agent(node);
            self.counts.agent_kills += 1;
        }
        self.start_coordinator();
        NODES.iter().for_each(|node| self.fleet.start_agent(node));
    }

    fn shims(&mut self) -> Vec<Shim> {
        let shims = shims(self.sandbox);
        self.groups.extend(shims.iter().flat_map(|shim| groups_of(&shim.process)));
        shims
    }

    fn kill_shim(&mut self) {
        let of_job = |kills: &ShimKills, shim: &Shim| -> u32 {
            let job = format!("{}.", shim.attempt.split('.').next().unwrap_or_default());
            kills.iter().filter(|(attempt, _)| attempt.starts_with(&job)).map(|(_, count)| count).sum()
        };
        let mut shims = self.shims();
        shims.retain(|shim| of_job(&self.shim_kills, shim) < SHIM_KILLS_A_JOB);
        if shims.is_empty() {
            return;
        }
        let shim = self.noise.of(&shims);
        // Counted before: if it has just ended by itself, the kill explains nothing that would be wrong.
        *self.shim_kills.entry(shim.attempt.clone()).or_default() += 1;
        if shim.process.lives() {
            signal(shim.process.pid, Signal::SIGKILL);
            self.counts.shim_kills += 1;
        }
    }

    /// At most one process of each node stands still, and none for long: no lease runs out.
    fn stop_one(&mut self) {
        let until = Instant::now() + Duration::from_millis(100 + self.noise.below(1400));
        let coordinator = self.fleet.living_coordinator().and_then(|daemon| Process::of(daemon.pid()));
        let node = *self.noise.of(&NODES);
        let (process, node) = match self.noise.below(3) {
            0 => (coordinator, None),
            1 => (self.fleet.agent(node).and_then(|daemon| Process::of(daemon.pid())), Some(node)),
            _ => {
                let shims = self.shims();
                if shims.is_empty() {
                    return;
                }
                let shim = self.noise.of(&shims);
                (Some(shim.process.clone()), Some(shim.node))
            }
        };
        let Some(process) = process.filter(Process::lives) else { return };
        if self.stopped.iter().any(|it| it.node == node) {
            return;
        }
        signal(process.pid, Signal::SIGSTOP);
        match (node, process.name.starts_with("trainyard-shim")) {
            (None, _) => self.counts.coordinator_stops += 1,
            (Some(_), false) => self.counts.agent_stops += 1,
            (Some(_), true) => self.counts.shim_stops += 1,
        }
        self.stopped.push(Stopped { process, node, until });
    }

    fn let_go(&mut self, now: Instant) {
        for stopped in self.stopped.extract_if(.., |it| it.until <= now) {
            if stopped.process.lives() {
                signal(stopped.process.pid, Signal::SIGCONT);
            }
        }
    }

    /// It is about to be killed.
    fn forget(&mut self, pid: Option<i32>) {
        self.stopped.retain(|it| Some(it.process.pid) != pid);
    }
}
