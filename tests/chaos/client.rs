//! A client that hands in jobs without end, asks again where an answer was lost, and remembers what was said.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use trainyard_tests::Rest;

use crate::evidence::Outcome;
use crate::noise::Noise;
use crate::workload::{Plan, Wish, script};

/// Jobs that are open at once.
const OPEN_MAX: usize = 8;
/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(80);
/// After the last fault everything has to end within this.
const PATIENCE: Duration = Duration::from_secs(150);

/// What the client and the one who breaks things tell each other.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) faults_are_over: AtomicBool,
    /// Requests that were answered.
    pub(crate) answers: AtomicU64,
    /// Requests whose answer was lost.
    pub(crate) lost_answers: AtomicU64,
}

/// A job that was acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Handed {
    pub(crate) plan: Plan,
    pub(crate) cancelled: bool,
    pub(crate) deleted: bool,
    /// Deleted and gone, or over.
    pub(crate) is_over: bool,
    pub(crate) outcome: Option<Outcome>,
    /// Answers that must not be.
    pub(crate) wrong: Vec<String>,
}

/// The client.
pub(crate) struct Client<'a> {
    pub(crate) rest: Rest,
    pub(crate) shared: &'a Shared,
    pub(crate) noise: Noise,
    pub(crate) audit: PathBuf,
    pub(crate) out: PathBuf,
}

impl Client<'_> {
    /// Hands in jobs, numbered from `first`, until the faults are over and there were `jobs` at least; and
    /// waits until all of them are over.
    pub(crate) fn run(&mut self, first: usize, jobs: usize) -> Vec<Handed> {
        let mut handed: Vec<Handed> = Vec::new();
        let mut deadline = None;
        loop {
            let faults_are_over = self.shared.faults_are_over.load(Ordering::SeqCst);
            let open = handed.iter().filter(|job| !job.is_over).count();
            if open < OPEN_MAX && (!faults_are_over || handed.len() < jobs) {
                let plan = Plan::draw(&mut self.noise, first + handed.len());
                handed.push(self.submit(plan));
                continue;
            }
            for job in handed.iter_mut().filter(|job| !job.is_over) {
                self.look(job);
            }
            if faults_are_over && handed.len() >= jobs {
                let deadline = deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
                let late = Instant::now() > *deadline;
                for job in handed.iter_mut().filter(|job| late && !job.is_over) {
                    job.wrong.push(format!("{}: it is not over long after the last fault", job.plan.name));
                }
                if late || handed.iter().all(|job| job.is_over) {
                    return handed;
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn count<T>(&self, answer: Option<T>) -> Option<T> {
        let which = if answer.is_some() { &self.shared.answers } else { &self.shared.lost_answers };
        which.fetch_add(1, Ordering::SeqCst);
        answer
    }

    fn put(&self, plan: &Plan) -> Option<u16> {
        let body = plan.body(&script(), &self.audit, &self.out);
        self.count(self.rest.put(&Rest::job_path(&plan.name), &body))
    }

    /// Until it is acknowledged. Sometimes hands it in again afterwards, or another one of its name.
    fn submit(&mut self, plan: Plan) -> Handed {
        let mut wrong = Vec::new();
        loop {
            match self.put(&plan) {
                Some(200 | 202) => break,
                None | Some(503) => std::thread::sleep(PAUSE / 8),
                Some(status) => {
                    wrong.push(format!("N1: {} was refused with {status}", plan.name));
                    break;
                }
            }
        }
        let other = Plan { pause_ms: plan.pause_ms + 1, ..plan.clone() };
        for (again, right) in [(&plan, 200), (&other, 409)] {
            if let Some(status) = self.noise.percent(10).then(|| self.put(again)).flatten()
                && status != right
                && status != 503
            {
                wrong.push(format!("N1: {} handed in again: {status}, not {right}", plan.name));
            }
        }
        Handed { plan, cancelled: false, deleted: false, is_over: false, outcome: None, wrong }
    }

    fn look(&mut self, job: &mut Handed) {
        let path = Rest::job_path(&job.plan.name);
        let Some((status, body)) = self.count(self.rest.try_get(&path)) else { return };
        match status {
            200 => {}
            404 if job.deleted => return job.is_over = true,
            404 => {
                job.is_over = true;
                return job.wrong.push(format!("N1: {} was acknowledged and is gone", job.plan.name));
            }
            _ => return,
        }
        let shown: Value = serde_json::from_slice(&body).unwrap_or_default();
        let outcome = Outcome::of(&shown);
        let is_time = |at_once: bool| at_once || outcome.state == "running" || outcome.is_end();
        match job.plan.wish {
            Wish::Cancel { at_once } if !job.cancelled && is_time(at_once) => {
                let answer = self.count(self.rest.post(&path.replace('?', "/terminate?")));
                job.cancelled = matches!(answer, Some(200 | 202));
            }
            Wish::Delete { at_once } if !job.deleted && is_time(at_once) => {
                job.deleted = matches!(self.count(self.rest.delete(&path)), Some(200 | 202 | 204));
            }
            Wish::Run | Wish::Cancel { .. } | Wish::Delete { .. } => {}
        }
        let is_asked = match job.plan.wish {
            Wish::Run => true,
            Wish::Cancel { .. } => job.cancelled,
            Wish::Delete { .. } => false,
        };
        if outcome.is_end() && is_asked {
            job.is_over = true;
            job.outcome = Some(outcome);
        }
    }
}
