//! Faults taking effect, and ending again.
//!
//! The guarantees hold while the shim or the agent of a node can run (N6's stated exception): a fault that would
//! take both away at once past the lease is skipped here, and counts as no fault.

use trainyard_core::agent::SetupProblem;
use trainyard_core::id::AttemptId;
use trainyard_core::unit::Port;

use super::net::{Down, Up};
use super::shim::{Happens as ShimHappens, Task};
use super::{What, World};
use crate::fault::{Fault, Kind};

/// What ends a fault.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Heal {
    Coordinator,
    Agent(usize),
    Shim(usize, AttemptId),
    Frozen(usize),
    Wire(usize),
    Slow(usize),
    Gpu(usize),
    PowerOn(usize),
    Killable(usize, AttemptId),
    Everything,
}

/// What has been injected.
#[derive(Debug)]
pub(crate) struct Faults {
    pub(crate) injected: u64,
    /// When the last one has happened; then all is healed.
    pub(crate) end: u64,
}

impl Faults {
    pub(crate) fn new(end: u64) -> Faults {
        Faults { injected: 0, end }
    }
}

impl World {
    pub(crate) fn inject(&mut self, fault: Fault) {
        let node = usize::from(fault.node) % self.nodes.len();
        let name = fault.kind.name();
        if self.take_effect(fault, node) {
            self.faults.injected += 1;
            self.coverage.hit("fault", name);
            self.note("fault", fault.at_ms, || format!("{name} on node {node} for {} ms", fault.for_ms));
        }
    }

    fn take_effect(&mut self, fault: Fault, n: usize) -> bool {
        let Fault { for_ms, pick, kind, .. } = fault;
        match kind {
            Kind::CoordinatorKill => {
                let was = self.coordinator.is_up();
                self.kill_coordinator(for_ms);
                was
            }
            Kind::CoordinatorKillBeforeCommit | Kind::CoordinatorKillAfterCommit => {
                self.coordinator.dies_at_commit = Some(kind == Kind::CoordinatorKillAfterCommit);
                self.coordinator.is_up()
            }
            Kind::CoordinatorStop => {
                let stops = self.coordinator.is_up() && !self.coordinator.is_stopped();
                if stops {
                    self.coordinator.stopped_until = self.now + for_ms;
                    self.after(for_ms, What::Heal(Heal::Coordinator));
                }
                stops
            }
            Kind::DiskFull => {
                self.coordinator.full_until = self.coordinator.full_until.max(self.now + for_ms);
                true
            }
            Kind::SlowDisk => {
                self.coordinator.slow_until = self.coordinator.slow_until.max(self.now + for_ms);
                true
            }
            Kind::AgentKill => {
                let was = self.nodes[n].agent.is_some();
                // Without its agent an attempt without a shim has no fence: Restart=always bounds that.
                let down_ms = if self.has_orphans(n) { for_ms.min(2_000) } else { for_ms };
                self.kill_agent(n, down_ms);
                was
            }
            Kind::AgentKillBeforeEffects | Kind::AgentKillAmidEffects => {
                self.nodes[n].dies_at_commit = Some(kind == Kind::AgentKillAmidEffects);
                self.nodes[n].agent.is_some()
            }
            Kind::AgentStop => {
                let node = &self.nodes[n];
                let stops = node.agent.is_some() && !node.stands_still() && !self.has_orphans(n);
                if stops {
                    self.nodes[n].agent_stopped_until = self.now + for_ms;
                    self.after(for_ms, What::Heal(Heal::Agent(n)));
                }
                stops
            }
            Kind::ShimKill | Kind::ShimStop => self.on_a_shim(n, kind, for_ms, pick),
            Kind::AgentAndShimKill | Kind::CutOffOrphan => {
                if !self.on_a_shim(n, Kind::ShimKill, for_ms, pick) {
                    return false;
                }
                self.kill_agent(n, for_ms.min(2_000));
                if kind == Kind::CutOffOrphan {
                    self.net.cut.insert(n, (true, true));
                    self.after(for_ms * 2, What::Heal(Heal::Wire(n)));
                }
                true
            }
            Kind::PowerCut => self.cut_power(n, for_ms),
            Kind::Freeze => {
                let freezes = self.nodes[n].frozen_until == 0 && !self.shape.one_machine;
                if freezes {
                    self.nodes[n].frozen_until = self.now + for_ms;
                    self.after(for_ms, What::Heal(Heal::Frozen(n)));
                }
                freezes
            }
            Kind::Partition | Kind::PartitionUp | Kind::PartitionDown => {
                let cut = self.net.cut.entry(n).or_insert((false, false));
                cut.0 |= kind != Kind::PartitionDown;
                cut.1 |= kind != Kind::PartitionUp;
                self.after(for_ms, What::Heal(Heal::Wire(n)));
                true
            }
            Kind::Reset => self.reset(n),
            Kind::SlowNetwork => {
                self.net.slow.insert(n, 4_000);
                self.after(for_ms, What::Heal(Heal::Slow(n)));
                true
            }
            Kind::ReplayCommand => self.replay_command(n, pick),
            Kind::ReplayReports => self.replay_reports(n, pick),
            Kind::ClockJump => {
                let day_ms = if pick % 2 == 0 { 86_400_000 } else { -86_400_000 };
                match pick % 3 {
                    0 => self.coordinator.clock.wall_offset += day_ms,
                    _ => self.nodes[n].clock.wall_offset += day_ms,
                }
                true
            }
            Kind::GpuLost => self.lose_gpu(n, for_ms, pick),
            Kind::SetupFails => {
                self.nodes[n].next_setup = Some(SetupProblem::Failed("planted".to_owned()));
                true
            }
            Kind::PortTaken => {
                self.nodes[n].next_setup = Some(SetupProblem::PortsTaken(vec![Port(2222)]));
                true
            }
            Kind::LaunchFails => {
                self.nodes[n].next_launch_fails = true;
                true
            }
            Kind::Unkillable => {
                let Some(attempt) = self.pick_task(n, pick) else { return false };
                // Longer than it takes to be called unkillable.
                let for_ms = for_ms + 90_000;
                if let Some(task) = self.nodes[n].processes.tasks.get_mut(&attempt) {
                    task.unkillable_until = self.now + for_ms;
                }
                self.after(for_ms, What::Heal(Heal::Killable(n, attempt)));
                true
            }
            Kind::OutOfMemory => {
                let Some(attempt) = self.pick_task(n, pick) else { return false };
                let happens = ShimHappens::Ends { exit: trainyard_core::unit::Exit::Signal(9), oom: true };
                self.after(1, What::Shim { node: n, attempt, happens });
                true
            }
        }
    }

    fn pick_task(&self, n: usize, pick: u32) -> Option<AttemptId> {
        let living: Vec<AttemptId> =
            self.nodes[n].processes.tasks.iter().filter(|(_, task)| task.main).map(|(id, _)| *id).collect();
        living.get(pick as usize % living.len().max(1)).copied()
    }

    /// Whether an attempt lives whose shim is dead or stands still.
    fn has_orphans(&self, n: usize) -> bool {
        let processes = &self.nodes[n].processes;
        processes
            .tasks
            .iter()
            .filter(|(_, task)| task.lives())
            .any(|(attempt, _)| processes.shims.get(attempt).is_none_or(|shim| shim.stopped_until > 0))
    }

    fn on_a_shim(&mut self, n: usize, kind: Kind, for_ms: u64, pick: u32) -> bool {
        let node = &self.nodes[n];
        // Somebody must be able to end the attempt.
        if node.agent.is_none() || node.stands_still() {
            return false;
        }
        let shims: Vec<AttemptId> = node.processes.shims.keys().copied().collect();
        let Some(attempt) = shims.get(pick as usize % shims.len().max(1)).copied() else { return false };
        if kind == Kind::ShimKill {
            self.kill_shim(n, attempt);
        } else if let Some(shim) = self.nodes[n].processes.shims.get_mut(&attempt) {
            shim.stopped_until = self.now + for_ms;
            self.after(for_ms, What::Heal(Heal::Shim(n, attempt)));
        }
        true
    }

    fn cut_power(&mut self, n: usize, for_ms: u64) -> bool {
        if self.shape.one_machine {
            let boots = self.nodes[n].boots + 1;
            self.kill_coordinator(for_ms);
            let boot_id = format!("boot-{boots}");
            self.coordinator.reboot(boot_id.clone());
            for node in 0..self.nodes.len() {
                self.power_off(node, for_ms, boot_id.clone());
            }
        } else {
            let boot_id = format!("boot-{n}-{}", self.nodes[n].boots + 1);
            self.power_off(n, for_ms, boot_id);
        }
        true
    }

    fn power_off(&mut self, n: usize, for_ms: u64, boot_id: String) {
        self.end_agent(n);
        self.end_all_processes(n);
        self.lose_unsynced(n);
        let now = self.now;
        let node = &mut self.nodes[n];
        node.life += 1;
        node.frozen_until = 0;
        node.boots += 1;
        node.facts.port_space.boot_id = boot_id;
        node.clock.reboot(now);
        self.note("power off", n as u64, String::new);
        self.after(for_ms.max(100), What::Heal(Heal::PowerOn(n)));
    }

    fn reset(&mut self, n: usize) -> bool {
        let ids: Vec<u64> =
            self.net.connections.iter().filter(|(_, c)| c.node == n).map(|(id, _)| *id).collect();
        for id in &ids {
            self.coverage.hit("session", "reset");
            self.send_up(*id, Up::Closed);
            self.send_down(*id, Down::Closed);
        }
        !ids.is_empty()
    }

    fn replay_reports(&mut self, n: usize, pick: u32) -> bool {
        let past = &self.nodes[n].past_reports;
        if past.is_empty() || !self.coordinator.is_up() || self.coordinator.is_stopped() {
            return false;
        }
        let (epoch, reports) = past[pick as usize % past.len()].clone();
        let node = self.nodes[n].id.clone();
        self.heard(node, epoch, reports);
        true
    }

    fn lose_gpu(&mut self, n: usize, for_ms: u64, pick: u32) -> bool {
        let gpus = &mut self.nodes[n].facts.gpus;
        if gpus.is_empty() {
            return false;
        }
        let gpu = pick as usize % gpus.len();
        gpus[gpu].fault = "Xid 79: the GPU has fallen off the bus".to_owned();
        self.facts_changed(n);
        self.after(for_ms, What::Heal(Heal::Gpu(n)));
        true
    }

    pub(crate) fn heal(&mut self, heal: Heal) {
        match heal {
            Heal::Coordinator
                if self.coordinator.stopped_until > 0 && self.coordinator.stopped_until <= self.now =>
            {
                self.continue_coordinator();
            }
            Heal::Agent(n)
                if self.nodes[n].agent_stopped_until > 0 && self.nodes[n].agent_stopped_until <= self.now =>
            {
                self.nodes[n].agent_stopped_until = 0;
                self.go_on(n);
            }
            Heal::Frozen(n) if self.nodes[n].frozen_until > 0 && self.nodes[n].frozen_until <= self.now => {
                self.nodes[n].frozen_until = 0;
                self.nodes[n].thawed_at = self.now;
                self.go_on(n);
            }
            Heal::Coordinator | Heal::Agent(_) | Heal::Frozen(_) => {}
            Heal::Shim(n, attempt) => {
                let due = self.nodes[n].processes.shims.get(&attempt);
                if due.is_some_and(|shim| shim.stopped_until > 0 && shim.stopped_until <= self.now) {
                    self.continue_shim(n, attempt);
                }
            }
            Heal::Wire(n) => {
                self.net.cut.remove(&n);
                self.deliver_all(Some(n));
            }
            Heal::Slow(n) => drop(self.net.slow.remove(&n)),
            Heal::Gpu(n) => {
                self.nodes[n].facts.gpus.iter_mut().for_each(|gpu| gpu.fault.clear());
                self.facts_changed(n);
            }
            Heal::PowerOn(n) => {
                if self.nodes[n].agent.is_none() {
                    self.start_agent(n);
                }
            }
            Heal::Killable(n, attempt) => self.killable(n, attempt),
            Heal::Everything => self.heal_everything(),
        }
    }

    fn go_on(&mut self, n: usize) {
        for what in std::mem::take(&mut self.nodes[n].waiting) {
            self.after(0, what);
        }
        self.deliver_all(Some(n));
        self.after(2_000, What::CheckCopies);
    }

    fn heal_everything(&mut self) {
        self.coordinator.full_until = 0;
        self.coordinator.slow_until = 0;
        self.coordinator.dies_at_commit = None;
        if self.coordinator.is_stopped() {
            self.continue_coordinator();
        }
        if !self.coordinator.is_up() {
            self.start_coordinator();
        }
        for n in 0..self.nodes.len() {
            let node = &mut self.nodes[n];
            node.dies_at_commit = None;
            node.next_setup = None;
            node.next_launch_fails = false;
            node.agent_stopped_until = 0;
            node.frozen_until = 0;
            node.thawed_at = self.now;
            if node.agent.is_none() {
                self.start_agent(n);
            }
            let stopped: Vec<AttemptId> = self.nodes[n].processes.shims.keys().copied().collect();
            stopped.into_iter().for_each(|attempt| self.continue_shim(n, attempt));
            let tasks: Vec<AttemptId> = self.nodes[n].processes.tasks.keys().copied().collect();
            tasks.into_iter().for_each(|attempt| self.killable(n, attempt));
            self.nodes[n].facts.gpus.iter_mut().for_each(|gpu| gpu.fault.clear());
            self.facts_changed(n);
            self.go_on(n);
        }
        self.net.cut.clear();
        self.net.slow.clear();
        self.deliver_all(None);
    }
}

/// Whether the processes of a task can be ended at all.
pub(crate) fn is_stuck(task: &Task, now: u64) -> bool {
    task.unkillable_until > now
}
