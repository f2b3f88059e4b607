//! The rules, applied to what is known of one job. Pure: each is shown to fail by a planted fault below.

use std::collections::BTreeSet;

use crate::evidence::{Job, Line, ShimKills, Stream};
use crate::workload::{Plan, Wish};

/// Everything that is wrong with a job, in words.
pub(crate) fn check(job: &Job, kills: &ShimKills) -> Vec<String> {
    let mut wrong = Vec::new();
    runs(job, &mut wrong);
    unexplained_ends(job, kills, &mut wrong);
    journal(job, kills, &mut wrong);
    outcome(job, &mut wrong);
    if !job.deleted {
        job.streams.iter().filter_map(|stream| stored(job, stream)).for_each(|text| wrong.push(text));
    }
    wrong.into_iter().map(|text| format!("{}: {text}", job.plan.name)).collect()
}

struct Run {
    gang: u32,
    rank: u32,
    start: u64,
    /// When, and with which code; `None`: it was killed.
    end: Option<(u64, i32)>,
}

fn runs_of(job: &Job) -> Vec<Run> {
    let mut runs = Vec::new();
    for line in &job.lines {
        let Line::Start { gang, rank, pid, at_ns } = *line else { continue };
        let end = job.lines.iter().find_map(|line| match *line {
            Line::End { gang: g, rank: r, pid: p, at_ns, code } if (g, r, p) == (gang, rank, pid) => {
                Some((at_ns, code))
            }
            Line::Start { .. } | Line::End { .. } | Line::Overlap { .. } | Line::Other(_) => None,
        });
        runs.push(Run { gang, rank, start: at_ns, end });
    }
    runs
}

/// N6: no attempt ran twice, no two gangs lived at once.
fn runs(job: &Job, wrong: &mut Vec<String>) {
    let runs = runs_of(job);
    let mut seen = BTreeSet::new();
    for run in &runs {
        if !seen.insert((run.gang, run.rank)) {
            wrong.push(format!("N6: attempt {}.{} was started twice", run.gang, run.rank));
        }
        let inside = |other: &&Run| {
            other.gang != run.gang
                && other.start < run.start
                && other.end.is_some_and(|(end, _)| end > run.start)
        };
        if let Some(other) = runs.iter().find(inside) {
            wrong.push(format!(
                "N6: attempt {}.{} ran while {}.{} did",
                run.gang, run.rank, other.gang, other.rank
            ));
        }
    }
    let mut ends = BTreeSet::new();
    for line in &job.lines {
        match line {
            Line::Start { .. } => {}
            Line::End { gang, rank, .. } => {
                if !seen.contains(&(*gang, *rank)) || !ends.insert((gang, rank)) {
                    wrong.push(format!("N6: an end too many of attempt {gang}.{rank}"));
                }
            }
            Line::Overlap { gang, rank, other_gang, other_rank } => {
                wrong.push(format!("N6: attempt {gang}.{rank} started while {other_gang}.{other_rank} lived"))
            }
            Line::Other(text) => wrong.push(format!("a broken line in its audit file: {text:?}")),
        }
    }
}

/// N5: who was killed, was killed for a reason: no restart of a daemon and no kill of a shim signals a task.
fn unexplained_ends(job: &Job, kills: &ShimKills, wrong: &mut Vec<String>) {
    if job.plan.wish != Wish::Run {
        return;
    }
    let runs = runs_of(job);
    for run in runs.iter().filter(|run| run.end.is_none()) {
        let of_gang = format!("{}.{}.", job.id, run.gang);
        let failed = runs.iter().any(|it| it.gang == run.gang && it.end.is_some_and(|(_, code)| code != 0));
        let shim_was_killed = kills.keys().any(|attempt| attempt.starts_with(&of_gang));
        // A task of the gang that was not started ends the others.
        let not_started = job.journal.iter().any(|entry| entry.detail["cause"] == "notStarted");
        if job.plan.ranks == 1 || !(failed || shim_was_killed || not_started) {
            wrong.push(format!("N5: attempt {}.{} was ended by nobody knows what", run.gang, run.rank));
        }
    }
}

/// N2 and invariants 6 and 16: one end, the right ends of tasks, `lost` only where a shim was killed.
fn journal(job: &Job, kills: &ShimKills, wrong: &mut Vec<String>) {
    let count = |kind: &str| job.journal.iter().filter(|entry| entry.kind == kind).count();
    for kind in ["jobSubmitted", "jobEnded"] {
        if count(kind) != 1 {
            wrong.push(format!("N2: {} entries {kind} in its journal", count(kind)));
        }
    }
    if job.journal.last().is_some_and(|entry| entry.kind != "jobEnded") {
        wrong.push("N2: something happened after its end".to_owned());
    }
    let runs = runs_of(job);
    for rank in 0..job.plan.ranks {
        let ends = job.journal.iter().filter(|entry| entry.kind == "taskEnded" && entry.rank() == rank);
        let ends: Vec<_> = ends.collect();
        let lost = ends.iter().filter(|entry| entry.detail["cause"] == "lost").count();
        let killed = kills.iter().filter(|(attempt, _)| {
            attempt.starts_with(&format!("{}.", job.id)) && attempt.ends_with(&format!(".{rank}"))
        });
        let killed = killed.count();
        if lost > killed {
            wrong.push(format!("N2: rank {rank} was lost {lost} times, {killed} shims of it were killed"));
        }
        let told: Vec<i64> = ends
            .iter()
            .filter(|it| it.detail["cause"] == "itself")
            .filter_map(|it| it.detail["exit"]["code"].as_i64())
            .collect();
        for code in told.iter().collect::<BTreeSet<_>>() {
            let told = told.iter().filter(|it| *it == code).count();
            let own = runs.iter().filter(|run| run.rank == rank);
            let own = own.filter(|run| run.end.is_some_and(|(_, it)| i64::from(it) == *code)).count();
            if told > own {
                wrong.push(format!("N2: rank {rank} ended {own} times with {code}, {told} times are told"));
            }
        }
    }
}

/// N1 and N2: it is there, and has ended as it must.
fn outcome(job: &Job, wrong: &mut Vec<String>) {
    let plan = &job.plan;
    let Some(outcome) = &job.outcome else {
        if !job.deleted {
            wrong.push("N1: it was acknowledged and is not there".to_owned());
        }
        return;
    };
    if job.deleted {
        wrong.push(format!("it was deleted and is there: {outcome:?}"));
        return;
    }
    let terminated = outcome.reason == "Terminated" && outcome.state == "failed" && outcome.code.is_none();
    if job.cancelled && terminated {
        return;
    }
    let (state, reason) = if plan.code == 0 { ("succeeded", "Succeeded") } else { ("failed", "TaskFailed") };
    let right =
        outcome.state == state && outcome.reason == reason && outcome.code == Some(i64::from(plan.code));
    if !right {
        wrong.push(format!("N2: it must end with {} and has {outcome:?}", plan.code));
        return;
    }
    let (used, most) =
        (outcome.retries_used, u64::from(if plan.code == 0 { plan.failures } else { plan.retries }));
    if used > most {
        wrong.push(format!("{used} retries were used, {most} at most were its own fault"));
    }
    let runs = runs_of(job);
    let last = runs.iter().map(|run| run.gang).max().unwrap_or(0);
    let ended = |rank: u32, code: i32| {
        runs.iter()
            .any(|run| run.gang == last && run.rank == rank && run.end.is_some_and(|(_, it)| it == code))
    };
    let must = if plan.code == 0 { plan.ranks } else { 1 };
    for rank in (0..must).filter(|rank| !ended(*rank, plan.code)) {
        wrong.push(format!("N2: its end with {} is told, and rank {rank} did not end so", plan.code));
    }
}

/// N3: produced = stored + gaps, to the byte.
fn stored(job: &Job, stream: &Stream) -> Option<String> {
    let Stream { gang, rank, which, gaps, pieces, .. } = stream;
    let plan: &Plan = &job.plan;
    let complete = job
        .lines
        .iter()
        .any(|line| matches!(line, Line::End { gang: g, rank: r, .. } if (g, r) == (gang, rank)));
    let what = format!("N3: {} of gang {gang}", plan.file(*rank, *which));
    let produced = plan.stream(*gang, *rank, *which);
    let Some(bytes) = &stream.bytes else {
        return (complete || *pieces > 0).then(|| format!("{what} is not there"));
    };
    let in_gap = |at: usize| gaps.iter().any(|(from, to)| (*from..*to).contains(&at));
    let length = bytes.len() + gaps.iter().map(|(from, to)| to - from).sum::<usize>();
    let least = if complete { produced.len() } else { plan.written(*which, *pieces) };
    let most = if complete { produced.len() } else { plan.written(*which, *pieces + 1) };
    if !(least..=most).contains(&length) {
        return Some(format!("{what} has {length} bytes, {least} to {most} were written"));
    }
    let expected = produced[..length].iter().enumerate().filter(|(at, _)| !in_gap(*at));
    let mut pairs = expected.zip(bytes);
    let first = pairs.find(|((_, expected), stored)| expected != stored).map(|((at, _), _)| at);
    first.map(|at| format!("{what} differs from byte {at} on"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::evidence::{Entry, Outcome};

    fn entry(kind: &str, detail: serde_json::Value) -> Entry {
        Entry { kind: kind.to_owned(), job: 5, detail }
    }

    /// A gang of two that was lost once with a shim and then succeeded: nothing is wrong.
    fn good() -> (Job, ShimKills) {
        let plan = Plan::new("good", 2);
        let start = |gang, rank, at_ns| Line::Start { gang, rank, pid: 10 * gang + rank, at_ns };
        let end = |gang, rank, at_ns| Line::End { gang, rank, pid: 10 * gang + rank, at_ns, code: 0 };
        let lines = vec![
            start(1, 0, 100),
            start(1, 1, 101),
            end(1, 0, 200),
            start(2, 0, 300),
            start(2, 1, 301),
            end(2, 1, 390),
            end(2, 0, 400),
        ];
        let told = |task: &str, exit, cause: &str| {
            entry("taskEnded", json!({ "task": task, "exit": exit, "cause": cause }))
        };
        let journal = vec![
            entry("jobSubmitted", json!({})),
            told("worker-0", json!("unknown"), "lost"),
            told("worker-1", json!({ "signal": 15 }), "stopped"),
            entry("jobRequeued", json!({})),
            told("worker-1", json!({ "code": 0 }), "itself"),
            told("worker-0", json!({ "code": 0 }), "itself"),
            entry("jobEnded", json!({})),
        ];
        let mut streams = Vec::new();
        for (gang, rank, pieces) in [(1, 0, 5), (1, 1, 2), (2, 0, 5), (2, 1, 5)] {
            for which in [0, 1] {
                let mut bytes = plan.stream(gang, rank, which);
                bytes.truncate(plan.written(which, pieces));
                streams.push(Stream { gang, rank, which, bytes: Some(bytes), gaps: vec![], pieces });
            }
        }
        let outcome = Outcome {
            state: "succeeded".to_owned(),
            reason: "Succeeded".to_owned(),
            code: Some(0),
            retries_used: 0,
        };
        let job = Job {
            plan,
            id: 5,
            cancelled: false,
            deleted: false,
            outcome: Some(outcome),
            lines,
            journal,
            streams,
        };
        (job, ShimKills::from([("5.1.0".to_owned(), 1)]))
    }

    #[track_caller]
    fn wrong(what: &str, plant: impl FnOnce(&mut Job, &mut ShimKills)) {
        let (mut job, mut kills) = good();
        plant(&mut job, &mut kills);
        let found = check(&job, &kills);
        assert!(found.iter().any(|text| text.contains(what)), "{what:?} is not in {found:#?}");
    }

    #[test]
    fn nothing_is_wrong_with_a_good_job() {
        let (job, kills) = good();
        assert_eq!(check(&job, &kills), Vec::<String>::new());
    }

    #[test]
    fn a_planted_double_start_is_found() {
        let again = Line::Start { gang: 2, rank: 1, pid: 99, at_ns: 305 };
        wrong("attempt 2.1 was started twice", |job, _| job.lines.push(again));
        let end = Line::End { gang: 2, rank: 1, pid: 21, at_ns: 395, code: 0 };
        wrong("an end too many", |job, _| job.lines.push(end));
    }

    #[test]
    fn planted_overlapping_runs_are_found() {
        wrong("2.0 ran while 1.0 did", |job, _| {
            job.lines[2] = Line::End { gang: 1, rank: 0, pid: 10, at_ns: 300 + 1, code: 0 };
        });
        let seen = Line::Overlap { gang: 2, rank: 0, other_gang: 1, other_rank: 1 };
        wrong("2.0 started while 1.1 lived", |job, _| job.lines.push(seen));
    }

    #[test]
    fn a_planted_missing_job_is_found() {
        wrong("acknowledged and is not there", |job, _| job.outcome = None);
        wrong("was deleted and is there", |job, _| job.deleted = true);
    }

    #[test]
    fn planted_wrong_outcomes_are_found() {
        wrong("must end with 0", |job, _| job.outcome.as_mut().unwrap().code = Some(1));
        wrong("must end with 0", |job, _| job.outcome.as_mut().unwrap().reason = "NodeLost".to_owned());
        wrong("retries were used", |job, _| job.outcome.as_mut().unwrap().retries_used = 1);
        wrong("rank 0 did not end so", |job, _| drop(job.lines.pop()));
        wrong("2 entries jobEnded", |job, _| job.journal.push(entry("jobEnded", json!({}))));
        wrong("after its end", |job, _| job.journal.push(entry("jobRequeued", json!({}))));
    }

    #[test]
    fn a_planted_loss_without_a_killed_shim_is_found() {
        wrong("lost 1 times, 0 shims", |_, kills| kills.clear());
        let (job, _) = good();
        let other = ShimKills::from([("5.1.1".to_owned(), 1)]);
        assert!(!check(&job, &other).is_empty(), "the shim of another rank explains nothing");
        wrong("ended 0 times with 3", |job, _| job.journal[4].detail["exit"]["code"] = json!(3));
    }

    #[test]
    fn a_planted_signal_to_a_task_is_found() {
        wrong("ended by nobody knows what", |job, _| drop(job.lines.remove(5)));
    }

    #[test]
    fn planted_log_faults_are_found() {
        let flip = |job: &mut Job| job.streams[0].bytes.as_mut().unwrap()[777] ^= 1;
        wrong("stdout-0.txt of gang 1 differs from byte 777 on", |job, _| flip(job));
        wrong("stdout-0.txt of gang 1 has 49999 bytes", |job, _| {
            job.streams[0].bytes.as_mut().unwrap().truncate(49_999)
        });
        wrong("has 50001 bytes", |job, _| job.streams[0].bytes.as_mut().unwrap().push(0));
        wrong("is not there", |job, _| job.streams[2].bytes = None);
        // Of a killed task: what it counted as written has to be there.
        wrong("stdout-1.txt of gang 1 has 19999 bytes, 20000 to 30000", |job, _| {
            job.streams[2].bytes.as_mut().unwrap().truncate(19_999);
        });
        wrong("stdout-0.txt of gang 1 differs from byte 0 on", |job, _| {
            job.streams[0].bytes = Some(job.plan.stream(2, 0, 0));
        });
    }

    #[test]
    fn a_reported_gap_is_counted_exactly() {
        let (mut job, kills) = good();
        job.streams[0].gaps = vec![(100, 200)];
        drop(job.streams[0].bytes.as_mut().unwrap().drain(100..200));
        assert_eq!(check(&job, &kills), Vec::<String>::new());
        job.streams[0].gaps = vec![(100, 199)];
        assert_eq!(check(&job, &kills).len(), 1);
    }
}
