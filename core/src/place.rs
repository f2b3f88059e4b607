//! Which nodes a waiting job gets, and a reason for each job that is left waiting.
//!
//! One order for all: priority, then age. A job that the nodes could take, but not now, holds back
//! everything behind it, so that no job starves while an equal later one starts. A job that the
//! cluster is too small for holds back nobody.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::coordinator::reason::{NodeRejection, Rejection, WaitReason};
use crate::id::{JobId, NodeId};
use crate::unit::{GpuUuid, WallMs};

/// A waiting job, as far as placement looks at it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The job.
    pub job: JobId,
    /// Its name, for those behind it.
    pub name: String,
    /// Nodes that it needs, all at once.
    pub node_count: u32,
    /// GPUs per node; `None`: all healthy ones that the node has, also none.
    pub gpus_per_node: Option<u32>,
    /// Nodes that it takes only where no others will do.
    pub avoid: Vec<NodeId>,
}

/// A node, as far as placement looks at it.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The node.
    pub node: NodeId,
    /// The job that has it.
    pub busy: Option<JobId>,
    /// Not heard of since.
    pub unknown_since: Option<WallMs>,
    /// It holds work that this coordinator never gave it.
    pub foreign_work: bool,
    /// Why it takes no work.
    pub problem: Option<String>,
    /// It takes no new work: since when, and why.
    pub drained: Option<(WallMs, String)>,
    /// Healthy GPUs in PCI order.
    pub gpus: Vec<GpuUuid>,
    /// Why NVML does not answer; empty where it does.
    pub gpu_problem: String,
}

/// A node, and the GPUs of it that a job gets.
pub type Share = (NodeId, Vec<GpuUuid>);

/// What became of one look at the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Jobs to start, in order, with what each gets.
    pub starts: Vec<(JobId, Vec<Share>)>,
    /// Why jobs wait. Those behind the last entry were not looked at.
    pub waiting: Vec<(JobId, WaitReason)>,
    /// The job that holds back everything behind it.
    pub head: Option<JobId>,
}

/// Goes through the queue once.
pub fn place(queue: impl IntoIterator<Item = Request>, offers: &[Offer]) -> Placement {
    let mut placement = Placement::default();
    let mut taken: BTreeSet<&NodeId> = BTreeSet::new();
    for request in queue {
        let need = request.node_count as usize;
        let started = |node: &NodeId| taken.contains(node).then(|| started_on(&placement, node)).flatten();
        let mut look = look(&request, offers, &started, true);
        if !request.avoid.is_empty() && look.reachable() < need {
            // Better there than never.
            look = self::look(&request, offers, &started, false);
        }
        let Look { mut fitting, mut rejected } = look;
        if fitting.len() >= need {
            fitting.truncate(need);
            taken.extend(fitting.iter().map(|(offer, _)| &offer.node));
            let nodes = fitting.into_iter().map(|(offer, gpus)| (offer.node.clone(), gpus)).collect();
            placement.starts.push((request.job, nodes));
            continue;
        }
        let free = fitting.len() as u32;
        let passing = rejected.iter().filter(|r| r.why.is_passing()).count() as u32;
        let have = free + passing;
        if have >= request.node_count {
            let reason = WaitReason::NodesBusy { need: request.node_count, free, rejected };
            placement.waiting.push((request.job, reason));
            placement.head = Some(request.job);
            break;
        }
        let reason = if offers.is_empty() {
            WaitReason::NoNodes { need: request.node_count }
        } else {
            rejected.retain(|r| !r.why.is_passing());
            WaitReason::NotEnoughNodes { need: request.node_count, have, rejected }
        };
        placement.waiting.push((request.job, reason));
    }
    placement
}

/// What each node says to one job.
struct Look<'a> {
    fitting: Vec<(&'a Offer, Vec<GpuUuid>)>,
    rejected: Vec<NodeRejection>,
}

impl Look<'_> {
    /// Nodes that take the job now or later.
    fn reachable(&self) -> usize {
        self.fitting.len() + self.rejected.iter().filter(|rejection| rejection.why.is_passing()).count()
    }
}

fn look<'a>(
    request: &Request,
    offers: &'a [Offer],
    started: &impl Fn(&NodeId) -> Option<JobId>,
    avoid: bool,
) -> Look<'a> {
    let mut look = Look { fitting: Vec::new(), rejected: Vec::new() };
    for offer in offers {
        let avoided = avoid && request.avoid.contains(&offer.node);
        match fit(request, offer, started(&offer.node)) {
            Ok(_) if avoided => {
                look.rejected.push(NodeRejection { node: offer.node.clone(), why: Rejection::Avoided })
            }
            Ok(gpus) => look.fitting.push((offer, gpus)),
            Err(why) if avoided && why.is_passing() => {
                look.rejected.push(NodeRejection { node: offer.node.clone(), why: Rejection::Avoided })
            }
            Err(why) => look.rejected.push(NodeRejection { node: offer.node.clone(), why }),
        }
    }
    look
}

fn started_on(placement: &Placement, node: &NodeId) -> Option<JobId> {
    placement.starts.iter().find(|(_, nodes)| nodes.iter().any(|(n, _)| n == node)).map(|(job, _)| *job)
}

/// The GPUs that the job would get on this node, or why it cannot have the node now.
fn fit(request: &Request, offer: &Offer, started: Option<JobId>) -> Result<Vec<GpuUuid>, Rejection> {
    let need = request.gpus_per_node.unwrap_or(0);
    let have = offer.gpus.len() as u32;
    if have < need {
        return Err(Rejection::TooFewGpus { need, have, problem: offer.gpu_problem.clone() });
    }
    if offer.foreign_work {
        return Err(Rejection::ForeignWork);
    }
    if let Some(problem) = &offer.problem {
        return Err(Rejection::Degraded { problem: problem.clone() });
    }
    if let Some((since, why)) = &offer.drained {
        return Err(Rejection::Drained { since: *since, why: why.clone() });
    }
    if let Some(since) = offer.unknown_since {
        return Err(Rejection::Unknown { since });
    }
    if let Some(job) = offer.busy.or(started) {
        return Err(Rejection::Busy { job });
    }
    let take = request.gpus_per_node.unwrap_or(have) as usize;
    Ok(offer.gpus.iter().take(take).cloned().collect())
}

/// `node-2` before `node-10`: digits compare as numbers.
#[must_use]
pub fn natural_order(a: &str, b: &str) -> Ordering {
    let split = |text: &str| {
        let digits = text.bytes().rev().take_while(u8::is_ascii_digit).count().min(18);
        let (head, tail) = text.split_at(text.len() - digits);
        (head.to_owned(), tail.parse::<u64>().unwrap_or(0))
    };
    split(a).cmp(&split(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(job: u64, nodes: u32) -> Request {
        Request {
            job: JobId(job),
            name: format!("job-{job}"),
            node_count: nodes,
            gpus_per_node: None,
            avoid: vec![],
        }
    }

    fn offer(name: &str) -> Offer {
        Offer {
            node: NodeId(name.to_owned()),
            busy: None,
            unknown_since: None,
            foreign_work: false,
            problem: None,
            drained: None,
            gpus: vec![],
            gpu_problem: String::new(),
        }
    }

    #[test]
    fn a_job_that_waits_for_busy_nodes_is_not_overtaken() {
        let mut offers = vec![offer("node-0"), offer("node-1")];
        offers[0].busy = Some(JobId(1));
        let placement = place([request(2, 2), request(3, 1)], &offers);
        assert!(placement.starts.is_empty(), "job 3 must not take the node that job 2 waits for");
        assert_eq!(placement.head, Some(JobId(2)));
    }

    #[test]
    fn a_job_too_large_for_the_cluster_holds_back_nobody() {
        let placement = place([request(1, 5), request(2, 1)], &[offer("node-0")]);
        assert_eq!(placement.starts, [(JobId(2), vec![(NodeId("node-0".to_owned()), vec![])])]);
        assert!(matches!(placement.waiting[0].1, WaitReason::NotEnoughNodes { need: 5, have: 1, .. }));
    }

    #[test]
    fn two_jobs_of_one_look_never_share_a_node() {
        let placement =
            place([request(1, 1), request(2, 1), request(3, 1)], &[offer("node-0"), offer("node-1")]);
        let nodes: Vec<_> = placement.starts.iter().flat_map(|(_, n)| n).map(|(n, _)| n.0.as_str()).collect();
        assert_eq!(nodes, ["node-0", "node-1"]);
        let WaitReason::NodesBusy { rejected, .. } = &placement.waiting[0].1 else { panic!("{placement:?}") };
        assert_eq!(rejected[0].why, Rejection::Busy { job: JobId(1) });
    }

    #[test]
    fn gpus_are_counted_and_cut() {
        let mut with = offer("gpu-0");
        with.gpus = ["GPU-a", "GPU-b", "GPU-c"].map(|g| GpuUuid(g.to_owned())).to_vec();
        let wants = Request { gpus_per_node: Some(2), ..request(1, 1) };
        let placement = place([wants.clone()], &[offer("cpu-0"), with.clone()]);
        assert_eq!(placement.starts[0].1, [(NodeId("gpu-0".to_owned()), with.gpus[..2].to_vec())]);
        let placement = place([Request { gpus_per_node: Some(4), ..wants }], &[with]);
        assert!(matches!(placement.waiting[0].1, WaitReason::NotEnoughNodes { .. }));
    }

    #[test]
    fn a_node_that_failed_the_job_is_taken_only_where_no_other_will_do() {
        let mut offers = vec![offer("node-0"), offer("node-1")];
        let avoids = Request { avoid: vec![NodeId("node-0".to_owned())], ..request(1, 1) };
        let nodes = |placement: &Placement| -> Vec<String> {
            placement.starts.iter().flat_map(|(_, nodes)| nodes).map(|(node, _)| node.0.clone()).collect()
        };
        assert_eq!(nodes(&place([avoids.clone()], &offers)), ["node-1"]);
        offers[1].busy = Some(JobId(9));
        let placement = place([avoids.clone()], &offers);
        let WaitReason::NodesBusy { rejected, .. } = &placement.waiting[0].1 else { panic!("{placement:?}") };
        assert_eq!(rejected[0].why, Rejection::Avoided, "the other node will be free again");
        offers[1].drained = Some((WallMs(1), "repair".to_owned()));
        assert_eq!(nodes(&place([avoids], &offers)), ["node-0"]);
    }

    #[test]
    fn a_drained_node_takes_nothing_and_holds_back_nobody() {
        let mut offers = vec![offer("node-0"), offer("node-1")];
        offers[0].drained = Some((WallMs(0), "new disk".to_owned()));
        let placement = place([request(1, 2), request(2, 1)], &offers);
        assert_eq!(placement.starts, [(JobId(2), vec![(NodeId("node-1".to_owned()), vec![])])]);
        let text = placement.waiting[0].1.to_string();
        assert!(text.contains("node-0: drained since 1970-01-01T00:00:00Z (new disk)"), "{text}");
    }

    #[test]
    fn nodes_sort_as_people_count() {
        let mut names = ["node-10", "node-2", "b", "node-1", "a9"];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(names, ["a9", "b", "node-1", "node-2", "node-10"]);
    }
}
