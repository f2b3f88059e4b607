//! The state, rebuilt from the records of the store after a start.

use std::collections::{BTreeMap, BTreeSet};

use super::drain::Drain;
use super::event::Now;
use super::recovery::{Lost, Recovery};
use super::state::{Config, Job, JobPhase, Node, State};
use crate::id::{Epoch, GangId, Generation, JobId, NodeId};
use crate::plan::NodePlan;
use crate::session::NodeFacts;
use crate::spec::JobSpec;

/// What the store holds that the state needs.
#[derive(Debug, Default)]
pub struct Stored {
    /// Open jobs, with their secrets.
    pub jobs: Vec<Job>,
    /// Plans of their live gangs.
    pub plans: Vec<(GangId, Vec<NodePlan>)>,
    /// Every node that ever joined.
    pub nodes: Vec<(NodeId, Epoch, NodeFacts)>,
    /// Why some of them take no new work.
    pub drains: Vec<(NodeId, Drain)>,
    /// One more than the highest number ever given.
    pub next_job: JobId,
    /// It was restored from a backup or begun anew, and no operator has adopted it yet.
    pub restored: bool,
    /// Numbers of jobs that earlier recoveries have skipped.
    pub lost: Vec<Lost<JobId>>,
    /// Work that agents held and the database did not know.
    pub foreign: BTreeMap<NodeId, BTreeSet<GangId>>,
}

/// Rebuilds the state. Nobody is connected; each node's lease counts from now.
#[must_use]
pub fn recover(config: Config, generation: Generation, stored: Stored, now: Now) -> State {
    let next_epoch = stored.nodes.iter().map(|(_, epoch, _)| epoch.0 + 1).max().unwrap_or(1);
    let mut state = State::new(config, generation, stored.next_job, Epoch(next_epoch));
    state.recovery = Recovery {
        restored: stored.restored,
        lost: stored.lost,
        foreign: stored.foreign,
        ..Recovery::default()
    };
    for (id, epoch, facts) in stored.nodes {
        let node = Node {
            id: id.clone(),
            epoch,
            facts,
            session: None,
            last_heard: now.tick,
            last_heard_wall: now.wall,
            gang: None,
            drain: None,
            faults: vec![],
        };
        state.nodes.insert(id, node);
    }
    for (id, drain) in stored.drains {
        if let Some(node) = state.nodes.get_mut(&id) {
            node.drain = Some(drain);
        }
    }
    let mut plans: BTreeMap<GangId, Vec<NodePlan>> = stored.plans.into_iter().collect();
    for mut job in stored.jobs {
        if let JobPhase::Active(gang) = &mut job.phase {
            gang.deadline =
                now.tick.plus_ms(remaining_ms(&job.spec, job.started.unwrap_or(now.wall).0, now.wall.0));
            for node in &gang.nodes {
                let node = state.nodes.get_mut(&node.node).filter(|_| !mutant!("recovery-frees-nodes"));
                if let Some(node) = node {
                    node.gang = Some(gang.id);
                }
            }
            if let Some(mut nodes) = plans.remove(&gang.id) {
                if !mutant!("recovery-loses-secrets") {
                    restore_secrets(&mut nodes, &job.spec);
                }
                state.plans.insert(gang.id, nodes);
            }
        }
        state.names.insert(job.key.folded(), job.id);
        state.enqueue(&job);
        state.jobs.insert(job.id, job);
    }
    state
}

fn remaining_ms(spec: &JobSpec, started_ms: i64, now_ms: i64) -> u64 {
    let limit: i64 = spec.constraints.max_wall_clock_time.as_millis().try_into().unwrap_or(i64::MAX);
    // A wall clock that went back must not lengthen the limit.
    let used = (now_ms - started_ms).max(0);
    u64::try_from(limit.saturating_sub(used)).unwrap_or(0)
}

/// Plans are stored without the values of secrets; the spec has them.
fn restore_secrets(nodes: &mut [NodePlan], spec: &JobSpec) {
    let secrets: BTreeMap<_, _> =
        spec.secrets.iter().filter_map(|s| Some((s.name.clone(), s.value.clone()?))).collect();
    for node in nodes {
        let commands = node.preparation.iter_mut().chain(node.tasks.iter_mut().map(|task| &mut task.command));
        for command in commands {
            command.secret_env = secrets.clone();
        }
    }
}
