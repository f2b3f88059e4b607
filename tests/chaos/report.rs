//! What a run has done and found, as JSON and as text.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::client::Handed;
use crate::evidence::{Job, Line};
use crate::faults::Counts;

/// Counts of a run.
pub(crate) struct Report {
    pub(crate) seed: u64,
    started: Instant,
    pub(crate) counts: Counts,
    pub(crate) jobs: u64,
    /// By how they ended.
    outcomes: BTreeMap<String, u64>,
    attempts: u64,
    /// Gangs after the first of a job.
    tried_again: u64,
    /// Ends of tasks that nobody saw.
    lost: u64,
    log_bytes: u64,
    gaps: u64,
    pub(crate) lost_answers: u64,
    pub(crate) coordinator_starts: u64,
    pub(crate) generation: u64,
    pub(crate) violations: Vec<String>,
}

impl Report {
    /// Of a run that begins.
    pub(crate) fn new(seed: u64) -> Report {
        Report {
            seed,
            started: Instant::now(),
            counts: Counts::default(),
            jobs: 0,
            outcomes: BTreeMap::new(),
            attempts: 0,
            tried_again: 0,
            lost: 0,
            log_bytes: 0,
            gaps: 0,
            lost_answers: 0,
            coordinator_starts: 0,
            generation: 0,
            violations: Vec::new(),
        }
    }

    /// Counts a job that was checked.
    pub(crate) fn add(&mut self, handed: &Handed, job: &Job) {
        self.jobs += 1;
        let outcome = match &job.outcome {
            _ if handed.deleted => "deleted".to_owned(),
            Some(outcome) => outcome.reason.clone(),
            None => "none".to_owned(),
        };
        *self.outcomes.entry(outcome).or_default() += 1;
        self.attempts += job.lines.iter().filter(|line| matches!(line, Line::Start { .. })).count() as u64;
        let count = |kind: &str| job.journal.iter().filter(|entry| entry.kind == kind).count() as u64;
        self.tried_again += count("jobRequeued");
        self.lost += job.journal.iter().filter(|entry| entry.detail["cause"] == "lost").count() as u64;
        let stored = job.streams.iter().filter_map(|stream| stream.bytes.as_ref());
        self.log_bytes += stored.map(|bytes| bytes.len() as u64).sum::<u64>();
        self.gaps += job.streams.iter().map(|stream| stream.gaps.len() as u64).sum::<u64>();
    }

    /// One line on how far it is.
    pub(crate) fn progress(&self, kills: u64) -> String {
        format!(
            "chaos: {} of {kills} kills, {} jobs, {} violations, {} s",
            self.counts.kills(),
            self.jobs,
            self.violations.len(),
            self.started.elapsed().as_secs()
        )
    }

    fn json(&self) -> Value {
        let Counts {
            coordinator_kills,
            agent_kills,
            shim_kills,
            blackouts,
            coordinator_stops,
            agent_stops,
            shim_stops,
        } = self.counts;
        json!({
            "seed": self.seed,
            "seconds": self.started.elapsed().as_secs(),
            "kills": self.counts.kills(),
            "killsOf": { "coordinator": coordinator_kills, "agents": agent_kills, "shims": shim_kills },
            "blackouts": blackouts,
            "stopsOf": { "coordinator": coordinator_stops, "agents": agent_stops, "shims": shim_stops },
            "jobs": self.jobs,
            "outcomes": self.outcomes,
            "attempts": self.attempts,
            "triedAgain": self.tried_again,
            "lostTasks": self.lost,
            "logBytesCompared": self.log_bytes,
            "logGaps": self.gaps,
            "lostAnswers": self.lost_answers,
            "coordinatorStarts": self.coordinator_starts,
            "generation": self.generation,
            "violations": self.violations,
        })
    }

    /// As text, a line per fact.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from("chaos report\n");
        for (key, value) in self.json().as_object().into_iter().flatten() {
            if key != "violations" {
                text.push_str(&format!("  {key}: {value}\n"));
            }
        }
        for violation in &self.violations {
            text.push_str(&format!("  VIOLATION {violation}\n"));
        }
        text.push_str(&format!("  {} violations\n", self.violations.len()));
        text
    }

    /// Writes the JSON.
    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, format!("{:#}\n", self.json())).expect("the report can be written");
    }
}
