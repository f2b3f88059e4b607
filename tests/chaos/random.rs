//! The main run: random faults in rounds; after each round everything is checked and the next begins with the
//! same daemons and database.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use trainyard_tests::{Fleet, Rest, Sandbox};

use crate::client::{Client, Handed, Shared};
use crate::evidence::{Entry, Job, Line, Outcome, ShimKills, streams};
use crate::faults::{Faults, NODES};
use crate::noise::Noise;
use crate::report::Report;
use crate::{audit, leftovers, store};

/// In `scripts/test`.
const KILLS: u64 = 30;
/// Between two looks at everything.
const KILLS_A_ROUND: u64 = 200;
/// Every so many jobs stay to the end, and must not change any more; the others are deleted after a round.
const KEPT: usize = 10;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} = {text}: a number is expected")))
}

fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    u64::from(now.subsec_nanos()) ^ (now.as_secs() << 20)
}

#[test]
fn n1_n2_n3_n5_n6_n7_random_kills_lose_nothing_and_run_nothing_twice() {
    let seed = number("CHAOS_SEED").unwrap_or_else(any_seed);
    let kills = number("CHAOS_KILLS").unwrap_or(KILLS);
    let jobs = number("CHAOS_JOBS").unwrap_or(kills);
    eprintln!("chaos: seed {seed}, {kills} kills, at least {jobs} jobs");
    let mut sandbox = Sandbox::new();
    let report = Run::new(&sandbox, seed).through(kills, jobs);
    eprint!("{}", report.text());
    if let Some(path) = std::env::var_os("CHAOS_REPORT").filter(|path| !path.is_empty()) {
        report.write(&PathBuf::from(path));
    }
    if !report.violations.is_empty() {
        sandbox.keep();
        let folder = sandbox.path("");
        panic!(
            "{} violations with seed {seed}; everything is in {}",
            report.violations.len(),
            folder.display()
        );
    }
}

struct Run<'s> {
    sandbox: &'s Sandbox,
    noise: Noise,
    report: Report,
    /// The last entry of the journal that was looked at.
    seen: u64,
    /// Jobs of earlier rounds that are there still.
    kept: Vec<(String, Outcome)>,
}

impl<'s> Run<'s> {
    fn new(sandbox: &'s Sandbox, seed: u64) -> Run<'s> {
        Run { sandbox, noise: Noise::new(seed), report: Report::new(seed), seen: 0, kept: Vec::new() }
    }

    fn through(mut self, kills: u64, jobs: u64) -> Report {
        let settings = ["--heartbeat-s", "1", "--stop-grace-s", "1", "--infrastructure-tries", "50"];
        let mut fleet = Fleet::start(self.sandbox, &settings);
        NODES.iter().for_each(|node| fleet.start_agent(node));
        fleet.until_connected(&NODES);
        let rest = fleet.rest();
        let shared = Shared::default();
        let noise = Noise::new(self.noise.draw());
        let mut faults = Faults::new(&mut fleet, self.sandbox, &shared, noise);
        let mut first = 0;
        while faults.counts.kills() < kills && self.report.violations.is_empty() {
            let goal = kills.min(faults.counts.kills() + KILLS_A_ROUND);
            let share = usize::try_from(jobs * goal / kills).expect("small").saturating_sub(first);
            shared.faults_are_over.store(false, Ordering::SeqCst);
            let mut client = Client {
                rest: faults.fleet.rest(),
                shared: &shared,
                noise: Noise::new(self.noise.draw()),
                audit: self.sandbox.path("audit"),
                out: self.sandbox.path("out"),
            };
            let handed = std::thread::scope(|scope| {
                let client = scope.spawn(move || client.run(first, share));
                faults.until_kills(goal);
                shared.faults_are_over.store(true, Ordering::SeqCst);
                client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            first += handed.len();
            self.look(&rest, &mut faults, &handed);
            self.report.counts = faults.counts;
            self.report.lost_answers = shared.lost_answers.load(Ordering::SeqCst);
            eprintln!("{}", self.report.progress(kills));
            if self.report.violations.is_empty() {
                self.clear(&rest, &handed);
            }
        }
        self.check_kept(&rest);
        self.report
    }

    /// After the faults: checks everything of a round.
    fn look(&mut self, rest: &Rest, faults: &mut Faults<'_, '_>, handed: &[Handed]) {
        rest.until_healthy();
        faults.fleet.until_connected(&NODES);
        let left = leftovers::check(self.sandbox, faults.fleet, &faults.groups);
        self.report.violations.extend(left);
        let audit = self.sandbox.path("audit");
        let mut jobs: Vec<Job> = Vec::new();
        for it in handed {
            self.report.violations.extend(it.wrong.iter().cloned());
            let plan = it.plan.clone();
            let lines = Line::of_job(&audit, &plan.name);
            let streams = if it.deleted { Vec::new() } else { streams(rest, &audit, &plan, &lines) };
            // As it is now, which is how the client saw it end.
            let outcome = outcome(rest, &plan.name);
            if !it.deleted && outcome != it.outcome {
                let (then, now) = (&it.outcome, &outcome);
                self.report.violations.push(format!("N2: {}: first {then:?}, then {now:?}", plan.name));
            }
            let (cancelled, deleted) = (it.cancelled, it.deleted);
            jobs.push(Job { plan, id: 0, cancelled, deleted, outcome, lines, journal: vec![], streams });
        }
        self.check_store(faults, &mut jobs);
        for (handed, job) in handed.iter().zip(&jobs) {
            self.report.violations.extend(audit::check(job, &faults.shim_kills));
            self.report.add(handed, job);
        }
        faults.shim_kills = ShimKills::new();
    }

    /// Stops the coordinator, reads its database, and starts it again.
    fn check_store(&mut self, faults: &mut Faults<'_, '_>, jobs: &mut [Job]) {
        faults.stop_coordinator();
        let stored = store::read(&self.sandbox.path("state/coordinator/coordinator"), self.seen);
        let stored = stored.expect("the database can be read");
        self.seen = stored.last;
        let damage = stored.damage.into_iter().map(|text| format!("the database is damaged: {text}"));
        self.report.violations.extend(damage);
        let (starts, answered) = (faults.starts, faults.answered_starts);
        if !(answered..=starts).contains(&stored.generation) {
            let generation = stored.generation;
            self.report.violations.push(format!(
                "generation {generation} after {starts} starts of the coordinator, {answered} of which answered"
            ));
        }
        (self.report.coordinator_starts, self.report.generation) = (starts, stored.generation);
        let mut journals: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        for (name, entry) in stored.journal {
            journals.entry(name).or_default().push(entry);
        }
        for job in jobs {
            job.journal = journals.remove(&job.plan.name).unwrap_or_default();
            job.id = job.journal.first().map_or(0, |entry| entry.job);
            if job.journal.iter().any(|entry| entry.job != job.id) {
                self.report.violations.push(format!("N1: {} has two numbers", job.plan.name));
            }
        }
        let strangers: Vec<&String> = journals.keys().collect();
        if !strangers.is_empty() {
            self.report.violations.push(format!("jobs that nobody handed in: {strangers:?}"));
        }
        faults.start_coordinator();
    }

    /// So that a long run does not fill the disk.
    fn clear(&mut self, rest: &Rest, handed: &[Handed]) {
        rest.until_healthy();
        for (index, job) in handed.iter().enumerate().filter(|(_, job)| !job.deleted) {
            match &job.outcome {
                Some(outcome) if index.is_multiple_of(KEPT) => {
                    self.kept.push((job.plan.name.clone(), outcome.clone()));
                }
                Some(_) | None => drop(rest.delete(&Rest::job_path(&job.plan.name))),
            }
        }
        for folder in ["audit", "out"] {
            let folder = self.sandbox.path(folder);
            fs::remove_dir_all(&folder).expect("a folder of results can be removed");
            fs::create_dir(&folder).expect("and made again");
        }
    }

    fn check_kept(&mut self, rest: &Rest) {
        rest.until_healthy();
        for (name, then) in std::mem::take(&mut self.kept) {
            let now = outcome(rest, &name);
            if now.as_ref() != Some(&then) {
                self.report.violations.push(format!("N2: {name}: first {then:?}, at the end {now:?}"));
            }
        }
    }
}

fn outcome(rest: &Rest, name: &str) -> Option<Outcome> {
    let (status, body) = rest.try_get(&Rest::job_path(name))?;
    let job = (status == 200).then(|| serde_json::from_slice(&body).ok())??;
    Some(Outcome::of(&job))
}
