//! Shims and the processes of tasks: the real shim core, on a model of what the kernel keeps.
//!
//! What stands for real parts: `RunDir` for an attempt's folder (marker and exit record), `Task` for its cgroup,
//! `Watch` for agent/src/supervisor/live.rs (the shadow of a shim) and orphan.rs (an attempt without its shim).

use std::collections::BTreeMap;

use fastrand::Rng;
use trainyard_core::agent::{Event, Found};
use trainyard_core::id::{AttemptId, Rank};
use trainyard_core::plan::Command;
use trainyard_core::plan::task::Role;
use trainyard_core::session::{EndCause, TaskEnded};
use trainyard_core::shim::{Attempt, BootMs, Cause, Effect, Event as ShimEvent, ExitRecord};
use trainyard_core::unit::{Exit, GpuUuid, WallMs};

use super::agent::Happens as AgentHappens;
use super::{ByAttempt, What, World};
use crate::workload::CANARY;

/// As live.rs: a shim that should have ended its attempt is killed after so long, ms.
const OVERDUE_MS: u64 = 20_000;

/// What happens to a shim or a task.
#[derive(Clone, Debug)]
pub(crate) enum Happens {
    /// The shim starts the program.
    Start {
        life: u64,
        fence: Option<u64>,
    },
    Wake,
    Term,
    Kill,
    /// The program ends by itself.
    Ends {
        exit: Exit,
        oom: bool,
    },
    Order {
        stop: Option<u64>,
        renew: Option<u64>,
    },
}

/// An attempt's folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunDir {
    /// Main process and start, once it was started; and in which boot.
    marker: Option<(u32, WallMs, u64)>,
    exit: Option<ExitRecord>,
}

/// The processes of an attempt.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) main: bool,
    pub(crate) children: u32,
    pub(crate) gpus: Vec<GpuUuid>,
    traps_term: bool,
    pub(crate) unkillable_until: u64,
    /// SIGKILL waits for it to be killable.
    is_doomed: bool,
    /// Reaped by nobody yet: the shim stands still.
    unseen: Option<(Exit, u64)>,
}

impl Task {
    pub(crate) fn lives(&self) -> bool {
        self.main || self.children > 0
    }
}

/// A living shim.
#[derive(Debug)]
pub(crate) struct Shim {
    attempt: Attempt,
    pub(crate) stopped_until: u64,
    waiting: Vec<Happens>,
}

/// What the kernel and the disk of a node hold.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    pub(crate) dirs: ByAttempt<RunDir>,
    pub(crate) shims: ByAttempt<Shim>,
    pub(crate) tasks: ByAttempt<Task>,
    roles: ByAttempt<(Role, Vec<GpuUuid>)>,
}

impl Processes {
    pub(crate) fn left(&self) -> Vec<String> {
        let tasks =
            self.tasks.iter().filter(|(_, task)| task.lives()).map(|(id, _)| format!("{id} still lives"));
        let shims = self.shims.keys().map(|id| format!("the shim of {id} is left"));
        let dirs = self.dirs.keys().map(|id| format!("the folder of {id} is left"));
        tasks.chain(shims).chain(dirs).collect()
    }
}

/// What an agent knows of an attempt that it watches.
#[derive(Debug)]
pub(crate) struct Watch {
    shadow: Attempt,
    orphan: bool,
    record: Option<ExitRecord>,
    unkillable_told: bool,
    overdue: bool,
}

impl World {
    pub(crate) fn launch(&mut self, n: usize, attempt: AttemptId, command: Command, fence: Option<u64>) {
        if self.nodes[n].processes.tasks.contains_key(&attempt) {
            return self.violate("1", format!("{attempt} is launched a second time"));
        }
        let node = &mut self.nodes[n];
        if node.next_launch_fails || node.processes.dirs.contains_key(&attempt) {
            node.next_launch_fails = false;
            let at = node.clock.wall(self.now);
            let ended = not_started(attempt, Exit::Unknown, at);
            self.agent_later(n, 2, AgentHappens::Core(Box::new(Event::Ended(Box::new(ended)))));
            return;
        }
        let secret = command.secret_env.get("KEY").is_some_and(|secret| secret.expose() == CANARY);
        if !secret {
            return self.violate("secrets", format!("{attempt} is started without its secret"));
        }
        let life = node.life;
        let role = node.agent.as_ref().and_then(|agent| {
            let plan = &agent.state.gangs().get(&attempt.gang_id())?.plan;
            let task = plan.tasks.iter().find(|task| task.rank == attempt.rank)?;
            Some((task.role, task.gpus.clone()))
        });
        node.processes.roles.insert(attempt, role.unwrap_or((Role::Worker, Vec::new())));
        node.processes.dirs.insert(attempt, RunDir::default());
        let ms = self.draw(1..8);
        self.after(ms, What::Shim { node: n, attempt, happens: Happens::Start { life, fence } });
    }

    pub(crate) fn on_shim(&mut self, n: usize, attempt: AttemptId, happens: Happens) {
        if self.nodes[n].frozen_until > 0 {
            self.nodes[n].waiting.push(What::Shim { node: n, attempt, happens });
            return;
        }
        let for_shim = matches!(happens, Happens::Wake | Happens::Order { .. } | Happens::Start { .. });
        if let Some(shim) = self.nodes[n].processes.shims.get_mut(&attempt)
            && shim.stopped_until > 0
            && for_shim
        {
            shim.waiting.push(happens);
            return;
        }
        match happens {
            Happens::Start { life, fence } => self.start_task(n, attempt, life, fence),
            Happens::Wake => self.step_shim(n, attempt, ShimEvent::Woke),
            Happens::Order { stop: Some(grace_ms), .. } => {
                self.step_shim(n, attempt, ShimEvent::Stop { grace_ms })
            }
            Happens::Order { renew, .. } => self.step_shim(n, attempt, ShimEvent::Renew(renew.map(BootMs))),
            Happens::Term => self.terminate(n, attempt),
            Happens::Kill => self.kill_task(n, attempt),
            Happens::Ends { exit, oom } => self.main_ends(n, attempt, exit, oom),
        }
    }

    fn start_task(&mut self, n: usize, attempt: AttemptId, life: u64, fence: Option<u64>) {
        let now = self.now;
        let node = &mut self.nodes[n];
        // The agent that would have sent the launch is gone: the shim writes that it never started.
        let boot_ms = node.clock.boot_ms(now);
        let wall = node.clock.wall(now);
        if node.life != life || node.agent.is_none() {
            if let Some(dir) = node.processes.dirs.get_mut(&attempt) {
                dir.exit = Some(ExitRecord::not_started(attempt, wall, "no launch came".to_owned()));
            }
            return;
        }
        if fence.is_some_and(|fence| boot_ms >= fence) {
            if let Some(dir) = node.processes.dirs.get_mut(&attempt) {
                dir.exit = Some(ExitRecord::not_started(attempt, wall, "the lease is over".to_owned()));
            }
            let ended = not_started(attempt, Exit::Unknown, wall);
            return self.agent_later(n, 1, AgentHappens::Core(Box::new(Event::Ended(Box::new(ended)))));
        }
        let mut chance = Rng::with_seed(self.seed ^ hash(attempt));
        let pid = 1_000 + chance.u32(..30_000);
        let boots = node.boots;
        if let Some(dir) = node.processes.dirs.get_mut(&attempt) {
            dir.marker = Some((pid, wall, boots));
        }
        let (role, gpus) = node.processes.roles.remove(&attempt).unwrap_or((Role::Worker, Vec::new()));
        let task = Task {
            main: true,
            children: if chance.u8(..5) == 0 { 2 } else { 0 },
            gpus,
            traps_term: chance.u8(..8) == 0,
            unkillable_until: 0,
            is_doomed: false,
            unseen: None,
        };
        self.check_start(n, attempt, &task);
        let node = &mut self.nodes[n];
        node.processes.tasks.insert(attempt, task);
        let core = Attempt::new(attempt, pid, wall, BootMs(boot_ms), fence.map(BootMs));
        let shadow = core.clone();
        let shim = Shim { attempt: core, stopped_until: 0, waiting: Vec::new() };
        node.processes.shims.insert(attempt, shim);
        if let Some(agent) = &mut node.agent {
            let watch = Watch { shadow, orphan: false, record: None, unkillable_told: false, overdue: false };
            agent.watched.insert(attempt, watch);
        }
        self.note("starts", attempt.job.0, || format!("{attempt} on node {n}"));
        self.wake_shim_later(n, attempt);
        self.watch_shadow(n, attempt);
        if role != Role::ParameterServer {
            let (ms, exit) = fate(&mut chance, attempt.rank);
            self.after(ms, What::Shim { node: n, attempt, happens: Happens::Ends { exit, oom: false } });
        }
        let event = Event::Launched { attempt, pid, at: wall };
        self.agent_later(n, 1, AgentHappens::Core(Box::new(event)));
    }

    fn wake_shim_later(&mut self, n: usize, attempt: AttemptId) {
        let node = &self.nodes[n];
        let wake = node.processes.shims.get(&attempt).and_then(|shim| shim.attempt.next_wake());
        if let Some(at) = wake.map(|wake| node.clock.when(wake.0)) {
            self.at(at, What::Shim { node: n, attempt, happens: Happens::Wake });
        }
    }

    fn step_shim(&mut self, n: usize, attempt: AttemptId, event: ShimEvent) {
        let node = &mut self.nodes[n];
        let now = BootMs(node.clock.boot_ms(self.now));
        let Some(shim) = node.processes.shims.get_mut(&attempt) else { return };
        let effects = shim.attempt.step(now, event);
        for effect in effects {
            self.shim_effect(n, attempt, effect);
        }
        self.wake_shim_later(n, attempt);
        self.sweep(n, attempt);
    }

    fn shim_effect(&mut self, n: usize, attempt: AttemptId, effect: Effect) {
        let word = match &effect {
            Effect::Terminate => "terminate",
            Effect::Kill => "kill",
            Effect::WriteRecord(_) => "write record",
            Effect::TellUnkillable => "unkillable",
            Effect::Finish(_) => "finish",
        };
        self.coverage.hit("shim", word);
        match effect {
            Effect::Terminate => self.after(2, What::Shim { node: n, attempt, happens: Happens::Term }),
            Effect::Kill => self.after(2, What::Shim { node: n, attempt, happens: Happens::Kill }),
            Effect::WriteRecord(record) => {
                if let Some(dir) = self.nodes[n].processes.dirs.get_mut(&attempt) {
                    dir.exit = Some(record);
                }
            }
            Effect::TellUnkillable => self.tell_unkillable(n, attempt),
            Effect::Finish(record) => {
                self.check_finished(n, attempt);
                self.nodes[n].processes.shims.remove(&attempt);
                self.tell_ended(n, attempt, record);
            }
        }
    }

    /// The main process was reaped: the shim looks whether anything is left.
    fn sweep(&mut self, n: usize, attempt: AttemptId) {
        let processes = &self.nodes[n].processes;
        let sweeping = processes.shims.get(&attempt).is_some_and(|shim| shim.attempt.is_sweeping());
        if sweeping && !processes.tasks.get(&attempt).is_some_and(Task::lives) {
            self.step_shim(n, attempt, ShimEvent::Empty);
        }
    }

    fn tell_ended(&mut self, n: usize, attempt: AttemptId, record: ExitRecord) {
        let Some(agent) = &mut self.nodes[n].agent else { return };
        if agent.watched.remove(&attempt).is_some() {
            let ended = task_ended(record);
            self.agent_later(n, 1, AgentHappens::Core(Box::new(Event::Ended(Box::new(ended)))));
        }
    }

    fn tell_unkillable(&mut self, n: usize, attempt: AttemptId) {
        let at = self.nodes[n].clock.wall(self.now);
        let Some(agent) = &mut self.nodes[n].agent else { return };
        let Some(watch) = agent.watched.get_mut(&attempt).filter(|watch| !watch.unkillable_told) else {
            return;
        };
        watch.unkillable_told = true;
        let ended = TaskEnded { cause: EndCause::Unkillable, ..not_started(attempt, Exit::Unknown, at) };
        self.agent_later(n, 1, AgentHappens::Core(Box::new(Event::Stuck(Box::new(ended)))));
    }

    fn terminate(&mut self, n: usize, attempt: AttemptId) {
        let Some(task) = self.nodes[n].processes.tasks.get_mut(&attempt) else { return };
        if task.traps_term || task.unkillable_until > self.now {
            return;
        }
        task.children = 0;
        if task.main {
            let ms = self.draw(1..300);
            let exit = Exit::Signal(15);
            self.after(ms, What::Shim { node: n, attempt, happens: Happens::Ends { exit, oom: false } });
        } else {
            self.emptied(n, attempt);
        }
    }

    fn kill_task(&mut self, n: usize, attempt: AttemptId) {
        let Some(task) = self.nodes[n].processes.tasks.get_mut(&attempt) else { return };
        if task.unkillable_until > self.now {
            task.is_doomed = true;
            return;
        }
        task.children = 0;
        if task.main {
            self.main_ends(n, attempt, Exit::Signal(9), false);
        } else {
            self.emptied(n, attempt);
        }
    }

    fn main_ends(&mut self, n: usize, attempt: AttemptId, exit: Exit, oom: bool) {
        let node = &mut self.nodes[n];
        let at = node.clock.wall(self.now);
        let Some(task) = node.processes.tasks.get_mut(&attempt).filter(|task| task.main) else { return };
        if task.unkillable_until > self.now {
            // It hangs in the kernel: it neither goes on nor ends, and what it was about to do comes after that.
            let at = task.unkillable_until + 1;
            return self.at(at, What::Shim { node: n, attempt, happens: Happens::Ends { exit, oom } });
        }
        task.main = false;
        let (leftovers, oom_kills) = (task.children, u64::from(oom));
        self.truth.ended(attempt, exit);
        let node = &mut self.nodes[n];
        match node.processes.shims.get(&attempt) {
            Some(shim) if shim.stopped_until == 0 => {
                self.step_shim(n, attempt, ShimEvent::MainEnded { exit, at, oom_kills, leftovers });
            }
            Some(_) => {
                if let Some(task) = node.processes.tasks.get_mut(&attempt) {
                    task.unseen = Some((exit, oom_kills));
                }
            }
            None => {
                self.orphans_main_ended(n, attempt);
                self.emptied(n, attempt);
            }
        }
    }

    /// Its agent sees the main process go (by its pidfd), though not how: what is left over is killed.
    fn orphans_main_ended(&mut self, n: usize, attempt: AttemptId) {
        let node = &mut self.nodes[n];
        let (now, at) = (BootMs(node.clock.boot_ms(self.now)), node.clock.wall(self.now));
        let leftovers = node.processes.tasks.get(&attempt).map_or(0, |task| task.children);
        let Some(watch) = node.agent.as_mut().and_then(|agent| agent.watched.get_mut(&attempt)) else {
            return;
        };
        if watch.orphan && leftovers > 0 {
            let ended = ShimEvent::MainEnded { exit: Exit::Unknown, at, oom_kills: 0, leftovers };
            let effects = watch.shadow.step(now, ended);
            self.orphan_effects(n, attempt, effects);
        }
    }

    /// Something of a cgroup has ended: whoever watches it looks again.
    fn emptied(&mut self, n: usize, attempt: AttemptId) {
        self.sweep(n, attempt);
        let node = &mut self.nodes[n];
        let lives = node.processes.tasks.get(&attempt).is_some_and(Task::lives);
        let orphaned =
            node.agent.as_ref().and_then(|agent| agent.watched.get(&attempt)).is_some_and(|w| w.orphan);
        if orphaned && !lives {
            self.agent_later(n, 1, AgentHappens::OrphanWake { attempt });
        }
    }

    /// SIGKILL of a shim: its task goes on.
    pub(crate) fn kill_shim(&mut self, n: usize, attempt: AttemptId) {
        if self.nodes[n].processes.shims.remove(&attempt).is_none() {
            return;
        }
        self.truth.shim_killed(attempt);
        if self.nodes[n].agent.as_ref().is_some_and(|agent| agent.watched.contains_key(&attempt)) {
            self.agent_later(n, 1, AgentHappens::ShimGone { attempt });
        }
    }

    pub(crate) fn continue_shim(&mut self, n: usize, attempt: AttemptId) {
        let node = &mut self.nodes[n];
        let at = node.clock.wall(self.now);
        let Some(shim) = node.processes.shims.get_mut(&attempt) else { return };
        shim.stopped_until = 0;
        for happens in std::mem::take(&mut shim.waiting) {
            self.after(0, What::Shim { node: n, attempt, happens });
        }
        let task = self.nodes[n].processes.tasks.get_mut(&attempt);
        if let Some((exit, oom_kills)) = task.and_then(|task| task.unseen.take()) {
            let leftovers = self.nodes[n].processes.tasks.get(&attempt).map_or(0, |task| task.children);
            self.step_shim(n, attempt, ShimEvent::MainEnded { exit, at, oom_kills, leftovers });
        }
    }

    /// An order of the agent, to the shim or to the agent's own watch.
    pub(crate) fn order(&mut self, n: usize, attempt: AttemptId, stop: Option<u64>, renew: Option<u64>) {
        let now = BootMs(self.nodes[n].clock.boot_ms(self.now));
        let Some(agent) = &mut self.nodes[n].agent else { return };
        let Some(watch) = agent.watched.get_mut(&attempt) else { return };
        let event = stop.map_or(ShimEvent::Renew(renew.map(BootMs)), |grace_ms| ShimEvent::Stop { grace_ms });
        let effects = watch.shadow.step(now, event);
        if watch.orphan {
            return self.orphan_effects(n, attempt, effects);
        }
        self.note_overdue(n, attempt, &effects);
        self.watch_shadow(n, attempt);
        self.after(1, What::Shim { node: n, attempt, happens: Happens::Order { stop, renew } });
    }

    /// The shadow's next moment, to see whether the shim does what it should.
    fn watch_shadow(&mut self, n: usize, attempt: AttemptId) {
        let node = &self.nodes[n];
        let wake = node.agent.as_ref().and_then(|agent| agent.watched.get(&attempt)?.shadow.next_wake());
        if let Some(at) = wake.map(|wake| node.clock.when(wake.0)) {
            let ms = at.saturating_sub(self.now);
            self.agent_later(n, ms, AgentHappens::OrphanWake { attempt });
        }
    }

    fn note_overdue(&mut self, n: usize, attempt: AttemptId, effects: &[Effect]) {
        let Some(agent) = &mut self.nodes[n].agent else { return };
        let Some(watch) = agent.watched.get_mut(&attempt) else { return };
        if effects.contains(&Effect::Kill) && !watch.overdue {
            watch.overdue = true;
            self.agent_later(n, OVERDUE_MS, AgentHappens::Overdue { attempt });
        }
    }

    /// The shim should have ended its attempt long ago: if it stands still the agent ends the shim.
    pub(crate) fn on_overdue(&mut self, n: usize, attempt: AttemptId) {
        let stuck = self.nodes[n].processes.shims.get(&attempt).is_some_and(|shim| shim.stopped_until > 0);
        if stuck {
            self.kill_shim(n, attempt);
        } else if let Some(watch) =
            self.nodes[n].agent.as_mut().and_then(|agent| agent.watched.get_mut(&attempt))
        {
            watch.overdue = false;
        }
    }

    pub(crate) fn on_shim_gone(&mut self, n: usize, attempt: AttemptId) {
        let node = &mut self.nodes[n];
        let record = node.processes.dirs.get(&attempt).and_then(|dir| dir.exit.clone());
        let lives = node.processes.tasks.get(&attempt).is_some_and(Task::lives);
        let Some(agent) = &mut node.agent else { return };
        let Some(watch) = agent.watched.get_mut(&attempt) else { return };
        if !lives {
            let at = node.clock.wall(self.now);
            let record = record.unwrap_or_else(|| lost(attempt, at));
            self.keep_record(n, attempt, &record);
            return self.tell_ended(n, attempt, record);
        }
        watch.orphan = true;
        watch.record = record;
        self.begin_orphan(n, attempt);
    }

    fn begin_orphan(&mut self, n: usize, attempt: AttemptId) {
        let now = BootMs(self.nodes[n].clock.boot_ms(self.now));
        let Some(watch) = self.nodes[n].agent.as_mut().and_then(|agent| agent.watched.get_mut(&attempt))
        else {
            return;
        };
        if let Some(record) = watch.record.clone() {
            let ended =
                ShimEvent::MainEnded { exit: record.exit, at: record.ended, oom_kills: 0, leftovers: 1 };
            let effects = watch.shadow.step(now, ended);
            self.orphan_effects(n, attempt, effects);
        } else if self.nodes[n].processes.tasks.get(&attempt).is_some_and(|task| !task.main) {
            self.orphans_main_ended(n, attempt);
        }
        self.wake_orphan(n, attempt);
    }

    /// Also the moments of a shadow, whose own effects are the shim's.
    pub(crate) fn wake_orphan(&mut self, n: usize, attempt: AttemptId) {
        let node = &mut self.nodes[n];
        let now = BootMs(node.clock.boot_ms(self.now));
        let lives = node.processes.tasks.get(&attempt).is_some_and(Task::lives);
        let Some(watch) = node.agent.as_mut().and_then(|agent| agent.watched.get_mut(&attempt)) else {
            return;
        };
        if watch.orphan && !lives {
            return self.orphan_ends(n, attempt);
        }
        if watch.shadow.next_wake().is_none_or(|wake| wake > now) {
            return;
        }
        let effects = watch.shadow.step(now, ShimEvent::Woke);
        if watch.orphan {
            self.orphan_effects(n, attempt, effects);
        } else {
            self.note_overdue(n, attempt, &effects);
        }
        self.watch_shadow(n, attempt);
    }

    fn orphan_effects(&mut self, n: usize, attempt: AttemptId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Terminate => self.after(2, What::Shim { node: n, attempt, happens: Happens::Term }),
                Effect::Kill => self.after(2, What::Shim { node: n, attempt, happens: Happens::Kill }),
                Effect::TellUnkillable => self.tell_unkillable(n, attempt),
                Effect::WriteRecord(_) | Effect::Finish(_) => {}
            }
        }
        self.watch_shadow(n, attempt);
    }

    fn orphan_ends(&mut self, n: usize, attempt: AttemptId) {
        let node = &mut self.nodes[n];
        let (now, at) = (BootMs(node.clock.boot_ms(self.now)), node.clock.wall(self.now));
        let Some(watch) = node.agent.as_mut().and_then(|agent| agent.watched.get_mut(&attempt)) else {
            return;
        };
        let record = watch.record.take().unwrap_or_else(|| {
            let mut record = lost(attempt, at);
            let ended = ShimEvent::MainEnded { exit: Exit::Unknown, at, oom_kills: 0, leftovers: 0 };
            for effect in watch.shadow.step(now, ended) {
                if let Effect::WriteRecord(seen) = effect
                    && seen.cause != Cause::Itself
                {
                    record.cause = seen.cause;
                }
            }
            record
        });
        self.keep_record(n, attempt, &record);
        self.tell_ended(n, attempt, record);
    }

    fn keep_record(&mut self, n: usize, attempt: AttemptId, record: &ExitRecord) {
        if let Some(dir) = self.nodes[n].processes.dirs.get_mut(&attempt) {
            dir.exit.get_or_insert_with(|| record.clone());
        }
    }

    /// As Supervisor::adopt.
    pub(crate) fn adopt(&mut self, n: usize, attempt: AttemptId) {
        let now = self.now;
        let node = &mut self.nodes[n];
        let (wall, boot, boots) = (node.clock.wall(now), BootMs(node.clock.boot_ms(now)), node.boots);
        let dir = node.processes.dirs.get(&attempt).cloned();
        let marker = dir.as_ref().and_then(|dir| dir.marker);
        let started = marker.filter(|(_, _, booted)| *booted == boots).map(|(pid, at, _)| (pid, at));
        let record = dir.as_ref().and_then(|dir| dir.exit.clone());
        let (has_shim, lives) = (
            node.processes.shims.contains_key(&attempt),
            node.processes.tasks.get(&attempt).is_some_and(Task::lives),
        );
        let found = if has_shim || lives {
            let (pid, at) = started.unwrap_or((0, wall));
            let shadow = Attempt::new(attempt, pid, at, boot, None);
            let watch = Watch { shadow, orphan: !has_shim, record, unkillable_told: false, overdue: false };
            if let Some(agent) = &mut node.agent {
                agent.watched.insert(attempt, watch);
            }
            if !has_shim {
                self.begin_orphan(n, attempt);
            }
            Found::Running { started }
        } else {
            match (record, marker) {
                (Some(record), _) if record.cause == Cause::NotStarted => Found::NeverStarted,
                (Some(record), _) => Found::Ended(Box::new(task_ended(record))),
                (None, None) => Found::NeverStarted,
                (None, Some(_)) => {
                    let record = lost(attempt, wall);
                    self.keep_record(n, attempt, &record);
                    Found::Ended(Box::new(task_ended(record)))
                }
            }
        };
        self.hit_found(&found, !has_shim);
        self.agent_later(n, 0, AgentHappens::Core(Box::new(Event::Adopted { attempt, found })));
    }

    /// A dead mount answers again: the SIGKILL that waited takes effect before anything else does.
    pub(crate) fn killable(&mut self, n: usize, attempt: AttemptId) {
        let Some(task) = self.nodes[n].processes.tasks.get_mut(&attempt) else { return };
        task.unkillable_until = 0;
        if std::mem::take(&mut task.is_doomed) {
            self.kill_task(n, attempt);
        }
    }

    /// As Supervisor::forget: what still lives keeps its folder.
    pub(crate) fn clean_up(&mut self, n: usize, attempts: &[AttemptId]) {
        for attempt in attempts {
            let processes = &mut self.nodes[n].processes;
            match processes.tasks.get(attempt).filter(|task| task.lives()) {
                Some(task) if task.unkillable_until > self.now => {}
                Some(_) => return self.violate("17", format!("{attempt} is cleaned up and lives")),
                None => {
                    processes.dirs.remove(attempt);
                    processes.shims.remove(attempt);
                    processes.tasks.remove(attempt);
                }
            }
        }
    }

    /// As the agent's start does: folders of gangs that are not held are removed where nothing lives.
    pub(crate) fn sweep_folders(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let Some(agent) = &node.agent else { return };
        let (held, stuck) = (agent.state.gangs(), agent.state.stuck());
        let processes = &mut node.processes;
        let lives: Vec<AttemptId> = processes
            .dirs
            .keys()
            .filter(|id| {
                held.contains_key(&id.gang_id())
                    || stuck.contains(id)
                    || processes.tasks.get(id).is_some_and(Task::lives)
            })
            .copied()
            .collect();
        processes.dirs.retain(|id, _| lives.contains(id));
        processes.tasks.retain(|id, _| lives.contains(id));
        processes.shims.retain(|id, _| lives.contains(id));
    }

    /// Nothing of the node's processes outlives the power; files that nobody synced may be lost.
    pub(crate) fn end_all_processes(&mut self, n: usize) {
        let attempts: Vec<AttemptId> = self.nodes[n].processes.dirs.keys().copied().collect();
        for attempt in attempts {
            let lost = self.draw(0..2) == 0;
            let processes = &mut self.nodes[n].processes;
            if processes.shims.contains_key(&attempt)
                || processes.tasks.get(&attempt).is_some_and(Task::lives)
            {
                self.truth.shim_killed(attempt);
            }
            if lost {
                processes.dirs.remove(&attempt);
                self.truth.shim_killed(attempt);
            }
        }
        let processes = &mut self.nodes[n].processes;
        processes.shims = BTreeMap::new();
        processes.tasks = BTreeMap::new();
        processes.roles = BTreeMap::new();
        self.nodes[n].waiting.retain(|what| !matches!(what, What::Shim { .. }));
    }
}

/// How long a task runs, in ms, and how it ends.
fn fate(chance: &mut Rng, rank: Rank) -> (u64, Exit) {
    let ms = match chance.u8(..4) {
        _ if rank == Rank::PREPARATION => chance.u64(1..5_000),
        0 => chance.u64(1..2_000),
        1 | 2 => chance.u64(2_000..60_000),
        _ => chance.u64(60_000..400_000),
    };
    let exit = match chance.u8(..20) {
        0 => Exit::Code(1),
        1 => Exit::Signal(11),
        _ => Exit::Code(0),
    };
    (ms, exit)
}

fn hash(attempt: AttemptId) -> u64 {
    let mut hash = attempt.job.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ u64::from(attempt.gang.0)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (hash ^ u64::from(attempt.rank.0)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

fn not_started(attempt: AttemptId, exit: Exit, at: WallMs) -> TaskEnded {
    TaskEnded {
        attempt,
        exit,
        cause: EndCause::NotStarted,
        started: WallMs(0),
        ended: at,
        stderr_tail: String::new(),
        message: "planted".to_owned(),
    }
}

fn lost(attempt: AttemptId, at: WallMs) -> ExitRecord {
    ExitRecord { cause: Cause::Lost, ..ExitRecord::not_started(attempt, at, "nobody saw it".to_owned()) }
}

fn task_ended(record: ExitRecord) -> TaskEnded {
    TaskEnded {
        attempt: record.attempt,
        exit: record.exit,
        cause: record.cause.into(),
        started: record.started,
        ended: record.ended,
        stderr_tail: String::new(),
        message: record.message,
    }
}
