//! Seats: which task sits on which node, with which GPUs.

use super::task::{NodeGrant, Role};
use crate::unit::GpuUuid;

/// One task, as its toolkit sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seat<'a> {
    /// Which grant.
    pub(crate) node: usize,
    pub(crate) role: Role,
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `-wk-0` in `stdout-wk-0.txt`.
    pub(crate) file_suffix: String,
    pub(crate) gpus: Vec<GpuUuid>,
    /// Which GPUs its processes see.
    pub(crate) sees: Sees,
    /// Variables of this task only.
    pub(crate) env: Vec<(&'static str, String)>,
    pub(crate) program: Program<'a>,
}

/// Which GPUs the processes of a task see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sees {
    /// Its own.
    Own,
    /// All that the job has on the node: the script picks its own by its local rank.
    OfNode,
}

/// What a task runs.
#[derive(Clone, Debug)]
pub(crate) enum Program<'a> {
    /// A command of the user.
    Line { field: &'static str, text: &'a str },
    /// A Python script. `key` is the toolkit's settings key, for errors.
    Script { key: &'static str, script: &'a str, interpreter: Option<&'a str>, args: &'a str },
}

/// All tasks of a gang, and what the toolkit adds to each of its processes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seating<'a> {
    /// Node by node; by rank.
    pub(crate) seats: Vec<Seat<'a>>,
    /// Variables of all tasks and of the preparation.
    pub(crate) env: Vec<(&'static str, String)>,
    /// What the user should know, by node.
    pub(crate) notes: Vec<(usize, String)>,
}

/// So many tasks on each node: as even as it goes, earlier nodes first.
///
/// Where the GPUs suffice no node gets more tasks than it has GPUs.
pub(crate) fn spread(count: usize, grants: &[NodeGrant]) -> Vec<usize> {
    // A node without GPUs among others with: it was granted, so it can do one task's work.
    let room: Vec<usize> = grants.iter().map(|grant| grant.gpus.len().max(1)).collect();
    let limited = grants.iter().any(|grant| !grant.gpus.is_empty()) && room.iter().sum::<usize>() >= count;
    let mut tasks = vec![0_usize; grants.len()];
    for _ in 0..count {
        let free = (0..grants.len()).filter(|node| !limited || tasks[*node] < room[*node]);
        let node =
            free.min_by_key(|node| tasks[*node]).expect("a gang has a node, and room for `count` if limited");
        tasks[node] += 1;
    }
    tasks
}

/// The GPUs of a node, split between so many tasks in order: each GPU to exactly one of them.
pub(crate) fn split(gpus: &[GpuUuid], tasks: usize) -> Vec<Vec<GpuUuid>> {
    let (each, more) = (gpus.len() / tasks.max(1), gpus.len() % tasks.max(1));
    let mut rest = gpus.iter().cloned();
    (0..tasks).map(|task| rest.by_ref().take(each + usize::from(task < more)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::NodeId;
    use crate::plan::PortSpace;

    fn grants(gpus: &[usize]) -> Vec<NodeGrant> {
        let grant = |(node, gpus): (usize, &usize)| NodeGrant {
            node: NodeId(format!("n{node}")),
            address: "127.0.0.1".into(),
            root: "/r".into(),
            gpus: (0..*gpus).map(|gpu| GpuUuid(format!("GPU-{node}-{gpu}"))).collect(),
            port_space: PortSpace { boot_id: "b".into(), network_namespace: 1 },
            base_environment: std::collections::BTreeMap::new(),
            privileged: false,
        };
        gpus.iter().enumerate().map(grant).collect()
    }

    #[test]
    fn tasks_go_where_gpus_are() {
        for (count, gpus, want) in [
            (3, vec![0, 0, 0], vec![1, 1, 1]),
            (2, vec![0, 0, 0], vec![1, 1, 0]),
            (5, vec![0, 0], vec![3, 2]),
            (4, vec![1, 3], vec![1, 3]),
            (3, vec![4, 4], vec![2, 1]),
            (2, vec![1, 0], vec![1, 1]),
            (3, vec![1], vec![3]),
        ] {
            assert_eq!(spread(count, &grants(&gpus)), want, "{count} tasks on {gpus:?}");
        }
    }

    proptest! {
        #[test]
        fn each_gpu_goes_to_one_task(gpus in 0..20_usize, tasks in 1..10_usize) {
            let all = grants(&[gpus]).remove(0).gpus;
            let parts = split(&all, tasks);
            prop_assert_eq!(parts.len(), tasks);
            let sizes: Vec<usize> = parts.iter().map(Vec::len).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
            prop_assert_eq!(parts.concat(), all);
        }
    }
}
