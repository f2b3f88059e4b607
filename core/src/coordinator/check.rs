//! Invariants of the state: checked after every step in tests, and once after recovery.

use std::collections::BTreeMap;

use super::state::{JobPhase, State};

impl State {
    /// What is wrong with this state; empty: nothing.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut gpus = BTreeMap::new();
        let mut ports = BTreeMap::new();
        for job in self.jobs.values() {
            if self.names.get(&job.key.folded()) != Some(&job.id) {
                wrong.push(format!("job {} is not found by its name", job.id));
            }
            let queued = self.queue.contains(&(std::cmp::Reverse(job.spec.scheduling_priority), job.id));
            let JobPhase::Active(gang) = &job.phase else {
                let waits = matches!(job.phase, JobPhase::Queued { .. });
                if waits != queued {
                    wrong.push(format!("job {}: queued {waits}, in the queue {queued}", job.id));
                }
                continue;
            };
            if queued {
                wrong.push(format!("job {} is active and in the queue", job.id));
            }
            if !self.plans.contains_key(&gang.id) {
                wrong.push(format!("gang {} has no plan", gang.id));
            }
            if gang.outcome.is_some() && gang.nodes.iter().all(|n| n.phase.is_over()) {
                wrong.push(format!("gang {} is over and still there", gang.id));
            }
            for node in &gang.nodes {
                let owner = self.nodes.get(&node.node).and_then(|n| n.gang);
                if owner != Some(gang.id) {
                    wrong.push(format!("gang {} is on {}, which belongs to {owner:?}", gang.id, node.node));
                }
            }
            for (task, gpu) in gang.tasks.iter().flat_map(|t| t.gpus.iter().map(move |g| (t, g))) {
                if let Some(other) = gpus.insert(gpu, gang.id.attempt(task.rank)) {
                    wrong.push(format!("{gpu} belongs to {other} and {}", gang.id.attempt(task.rank)));
                }
            }
        }
        for (id, plan) in self.plans.iter().flat_map(|(id, nodes)| nodes.iter().map(move |n| (id, n))) {
            let Some(space) = self.port_space(*id, &plan.node) else { continue };
            for port in &plan.ports {
                if let Some(other) = ports.insert((space, port), id) {
                    wrong.push(format!("port {port} belongs to {other} and {id}"));
                }
            }
        }
        for node in self.nodes.values() {
            let live = node.gang.is_none_or(|gang| self.plans.contains_key(&gang));
            if !live {
                wrong.push(format!("{} belongs to gang {:?}, which is over", node.id, node.gang));
            }
        }
        wrong
    }
}
