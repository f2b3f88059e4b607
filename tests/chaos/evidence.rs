//! What is known of one job afterwards: from the client, the tasks themselves, the journal and the stored logs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use trainyard_tests::Rest;

use crate::workload::Plan;

/// How often the shims of attempts were killed, by `job.gang.rank` (numbers).
pub(crate) type ShimKills = BTreeMap<String, u32>;

/// A job and all that is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) plan: Plan,
    /// The coordinator's number for it.
    pub(crate) id: u64,
    /// A terminate was acknowledged.
    pub(crate) cancelled: bool,
    /// A delete was acknowledged.
    pub(crate) deleted: bool,
    /// How it ended, as the API says; `None`: it is not there.
    pub(crate) outcome: Option<Outcome>,
    /// What its tasks wrote to the audit file.
    pub(crate) lines: Vec<Line>,
    /// What the coordinator wrote to its journal.
    pub(crate) journal: Vec<Entry>,
    pub(crate) streams: Vec<Stream>,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// `executionState`
    pub(crate) state: String,
    /// `properties.trainyard.reason.code`
    pub(crate) reason: String,
    pub(crate) code: Option<i64>,
    pub(crate) retries_used: u64,
}

impl Outcome {
    /// From a job's resource.
    pub(crate) fn of(job: &Value) -> Outcome {
        let (properties, ours) = (&job["properties"], &job["properties"]["trainyard"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Outcome {
            state: text(&properties["executionState"]),
            reason: text(&ours["reason"]["code"]),
            code: properties["executionInfo"]["exitCode"].as_i64(),
            retries_used: ours["retriesUsed"].as_u64().unwrap_or(0),
        }
    }

    /// Whether it is final.
    pub(crate) fn is_end(&self) -> bool {
        matches!(self.state.as_str(), "succeeded" | "failed")
    }
}

/// A line of an audit file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Start {
        gang: u32,
        rank: u32,
        pid: u32,
        at_ns: u64,
    },
    End {
        gang: u32,
        rank: u32,
        pid: u32,
        at_ns: u64,
        code: i32,
    },
    Overlap {
        gang: u32,
        rank: u32,
        other_gang: u32,
        other_rank: u32,
    },
    /// Something else: a broken line.
    Other(String),
}

impl Line {
    /// Of its text.
    pub(crate) fn parse(text: &str) -> Line {
        let (kind, rest) = text.split_once(' ').unwrap_or((text, ""));
        let numbers: Option<Vec<u64>> = rest.split(' ').map(|word| word.parse().ok()).collect();
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        match (kind, numbers.as_deref()) {
            ("start", Some(&[gang, rank, pid, at_ns])) => {
                Line::Start { gang: small(gang), rank: small(rank), pid: small(pid), at_ns }
            }
            ("end", Some(&[gang, rank, pid, at_ns, code])) => Line::End {
                gang: small(gang),
                rank: small(rank),
                pid: small(pid),
                at_ns,
                code: i32::try_from(code).unwrap_or(-1),
            },
            ("overlap", Some(&[gang, rank, other_gang, other_rank])) => Line::Overlap {
                gang: small(gang),
                rank: small(rank),
                other_gang: small(other_gang),
                other_rank: small(other_rank),
            },
            _ => Line::Other(text.to_owned()),
        }
    }

    /// All lines of a job's audit file.
    pub(crate) fn of_job(audit: &Path, name: &str) -> Vec<Line> {
        let text = fs::read_to_string(audit.join(format!("{name}.audit"))).unwrap_or_default();
        text.lines().map(Line::parse).collect()
    }
}

/// An entry of the coordinator's journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `taskEnded`, ...
    pub(crate) kind: String,
    pub(crate) job: u64,
    pub(crate) detail: Value,
}

impl Entry {
    /// The rank of the task that it is about.
    pub(crate) fn rank(&self) -> u32 {
        let name = self.detail["task"].as_str().unwrap_or_default();
        name.strip_prefix("worker-").and_then(|rank| rank.parse().ok()).unwrap_or(0)
    }
}

/// A stored log file of an attempt that has started.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) gang: u32,
    pub(crate) rank: u32,
    /// 0: stdout, 1: stderr.
    pub(crate) which: usize,
    /// Stored bytes, those of gaps left out; `None`: there is no such file.
    pub(crate) bytes: Option<Vec<u8>>,
    /// Reported gaps: from, to.
    pub(crate) gaps: Vec<(usize, usize)>,
    /// Pieces that the task counts as written.
    pub(crate) pieces: usize,
}

/// The stored log files of all attempts of a job that have started.
pub(crate) fn streams(rest: &Rest, audit: &Path, plan: &Plan, lines: &[Line]) -> Vec<Stream> {
    let mut found = Vec::new();
    for line in lines {
        let Line::Start { gang, rank, .. } = *line else { continue };
        let count = fs::read_to_string(audit.join(format!("{}.{gang}.{rank}.count", plan.name)));
        let pieces = count.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let list = get(rest, &Rest::extra_path(&plan.name, &format!("logs?gang={gang}")));
        let list: Value = list.and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default();
        for which in [0, 1] {
            let file = plan.file(rank, which);
            let shown = list["value"].as_array().into_iter().flatten().find(|it| it["file"] == file.as_str());
            let number = |value: &Value| usize::try_from(value.as_u64().unwrap_or(0)).unwrap_or(0);
            let gaps = shown.and_then(|it| it["gaps"].as_array());
            let gaps = gaps.into_iter().flatten().map(|gap| (number(&gap[0]), number(&gap[1]))).collect();
            let path = Rest::extra_path(&plan.name, &format!("logs/{file}?offset=0&gang={gang}"));
            found.push(Stream { gang, rank, which, bytes: get(rest, &path), gaps, pieces });
        }
    }
    found
}

fn get(rest: &Rest, path: &str) -> Option<Vec<u8>> {
    rest.try_get(path).filter(|(status, _)| *status == 200).map(|(_, body)| body)
}
