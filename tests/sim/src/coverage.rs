//! What happened at all. A simulation in which nothing went wrong proves nothing: what never happened is reported.

use std::collections::BTreeMap;

/// Counts by name; names are `group: thing` or `group: from > to`.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    counts: BTreeMap<String, u64>,
}

impl Coverage {
    /// It happened.
    pub fn hit(&mut self, group: &str, thing: impl std::fmt::Display) {
        *self.counts.entry(format!("{group}: {thing}")).or_insert(0) += 1;
    }

    /// Adds what happened in another run.
    pub fn add(&mut self, other: &Coverage) {
        for (name, count) in &other.counts {
            *self.counts.entry(name.clone()).or_insert(0) += count;
        }
    }

    /// All counts.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }

    /// What must happen in a run of many seeds, and did not.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let faults = crate::fault::Kind::ALL.iter().map(|(kind, _)| format!("fault: {}", kind.name()));
        let expected = EXPECTED
            .iter()
            .flat_map(|(group, things)| things.iter().map(move |thing| format!("{group}: {thing}")));
        faults.chain(expected).filter(|name| !self.counts.contains_key(name)).collect()
    }
}

/// States and edges that a run of many seeds has to go through.
const EXPECTED: &[(&str, &[&str])] = &[
    (
        "job",
        &[
            "new > queued",
            "queued > active",
            "active > queued",
            "active > ended",
            "queued > ended",
            "active > active",
        ],
    ),
    (
        "reason",
        &[
            "Succeeded",
            "TaskFailed",
            "TaskNotStarted",
            "PreparationFailed",
            "SetupFailed",
            "PortsTaken",
            "NodeLost",
            "Terminated",
            "WallClockExceeded",
        ],
    ),
    (
        "node of a gang",
        &[
            "preparing > prepared",
            "prepared > started",
            "preparing > started",
            "started > ended",
            "preparing > ended",
            "prepared > ended",
            "started > lost",
            "lost > ended",
        ],
    ),
    (
        "gang on its node",
        &[
            "none > setting up",
            "setting up > preparation",
            "setting up > prepared",
            "setting up > running",
            "setting up > closing",
            "preparation > prepared",
            "preparation > running",
            "preparation > closing",
            "prepared > running",
            "prepared > closing",
            "running > closing",
            "closing > ended",
            "ended > none",
            "awaiting > setting up",
            "awaiting > closing",
            "preparation > awaiting",
        ],
    ),
    ("end", &["itself", "stopped", "fenced", "oom", "notStarted", "lost", "unkillable"]),
    ("found", &["running", "running without shim", "ended", "never started", "lost"]),
    ("command", &["prepare", "start", "stop", "release", "endedAck"]),
    ("stale command", &["prepare", "start", "stop", "release", "endedAck"]),
    ("answer", &["created", "existed", "conflict", "terminating", "deleted", "not found", "welcome", "full"]),
    ("shim", &["terminate", "kill", "write record", "finish", "unkillable"]),
    ("session", &["welcomed", "agent saw silence", "coordinator saw silence", "reset"]),
];
