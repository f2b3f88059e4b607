//! What no plan may contain. Tests and debug builds ask; each finding is a fault of the planner.

use std::collections::BTreeSet;

use super::task::{Command, GangPlan, NodeGrant, NodePlan};
use crate::id::Rank;

/// Every fault of the plan, a sentence each. `grants` are those that it was made for.
#[must_use]
pub fn lint(plan: &GangPlan, grants: &[NodeGrant]) -> Vec<String> {
    let mut faults = Vec::new();
    let planned: Vec<_> = plan.nodes.iter().map(|node| &node.node).collect();
    if planned != grants.iter().map(|grant| &grant.node).collect::<Vec<_>>() {
        faults.push("the nodes are not those of the grants".to_owned());
    }
    tasks(plan, &mut faults);
    ports(plan, grants, &mut faults);
    gpus(plan, grants, &mut faults);
    files(plan, &mut faults);
    for node in &plan.nodes {
        paths(node, &mut faults);
        let commands = node.tasks.iter().map(|task| &task.command).chain(&node.preparation);
        commands.for_each(|command| secrets(node, command, &mut faults));
    }
    faults
}

fn tasks(plan: &GangPlan, faults: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (at, task) in plan.tasks().enumerate() {
        if !seen.insert((task.role, task.index)) {
            faults.push(format!("two tasks are {:?} {}", task.role, task.index));
        }
        if task.rank == Rank::PREPARATION || task.rank.0 as usize != at {
            faults.push(format!("task {} has rank {} at place {at}", task.name, task.rank));
        }
    }
    for (role, index) in &seen {
        if *index > 0 && !seen.contains(&(*role, index - 1)) {
            faults.push(format!("there is a {role:?} {index}, but none before it"));
        }
    }
}

fn ports(plan: &GangPlan, grants: &[NodeGrant], faults: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (node, grant) in plan.nodes.iter().zip(grants) {
        for port in &node.ports {
            if !seen.insert((&grant.port_space, port)) {
                faults.push(format!("port {port} is given twice in the port space of {}", node.node));
            }
        }
    }
}

fn gpus(plan: &GangPlan, grants: &[NodeGrant], faults: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (node, grant) in plan.nodes.iter().zip(grants) {
        for gpu in node.tasks.iter().flat_map(|task| &task.gpus) {
            if !grant.gpus.contains(gpu) {
                faults.push(format!("{gpu} is not granted on {}", node.node));
            }
            if !seen.insert(gpu) {
                faults.push(format!("{gpu} is given twice"));
            }
        }
    }
}

/// Names of files must differ among all nodes: their `std_dir` may be one directory on a share.
fn files(plan: &GangPlan, faults: &mut Vec<String>) {
    let commands = plan.nodes.iter().flat_map(|n| n.tasks.iter().map(|t| &t.command).chain(&n.preparation));
    let names = commands.flat_map(|command| [&command.stdout, &command.stderr]);
    let mut seen = BTreeSet::new();
    for name in names.chain(plan.nodes.iter().map(|node| &node.execution_log)) {
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            faults.push(format!("`{name}` is no file name"));
        }
        if !seen.insert(name) {
            faults.push(format!("two streams are called {name}"));
        }
    }
}

fn paths(node: &NodePlan, faults: &mut Vec<String>) {
    let commands = node.tasks.iter().map(|task| &task.command).chain(&node.preparation);
    let paths = [&node.job_temp, &node.std_dir]
        .into_iter()
        .chain(&node.directories)
        .chain(&node.mounted_directories)
        .chain(node.host_mounts.iter().flat_map(|mount| [&mount.source, &mount.target]))
        .chain(node.files.iter().map(|file| &file.path))
        .chain(commands.flat_map(|command| [&command.cwd, &command.argv[0]]));
    for path in paths {
        if !path.starts_with('/') || path.split('/').any(|name| name == "..") {
            faults.push(format!("`{path}` of {} is not an absolute path", node.node));
        }
    }
}

fn secrets(node: &NodePlan, command: &Command, faults: &mut Vec<String>) {
    for name in command.secret_env.keys().filter(|name| command.env.contains_key(*name)) {
        faults.push(format!("{name} is both a secret and not on {}", node.node));
    }
}
