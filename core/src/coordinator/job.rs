//! What clients ask of jobs: submit, cancel, delete; and how a job ends.

use serde_json::json;

use super::effect::{Answer, Effect, Record, Step};
use super::event::{FinishedJob, JobKey, NewJob, Now, ReplyTo};
use super::reason::{EndReason, WaitReason};
use super::state::{Job, JobPhase, State};
use super::{gang, recovery};
use crate::id::JobId;

pub(super) fn on_submitted(
    state: &mut State,
    now: Now,
    reply: ReplyTo,
    new: NewJob,
    finished: Option<FinishedJob>,
    step: &mut Step,
) {
    let folded = new.key.folded();
    let open = state.names.get(&folded).and_then(|id| state.jobs.get(id));
    let finished = finished.filter(|_| !mutant!("finished-name-forgotten"));
    let existing = match open.filter(|_| !mutant!("submit-not-idempotent")) {
        Some(job) => Some((job.id, !job.delete_when_ended && job.spec == new.spec)),
        None => finished.filter(|f| !state.deleted.contains(&f.id)).map(|f| (f.id, f.same_spec)),
    };
    if let Some((id, same)) = existing {
        let answer = if same { Answer::Existed(id) } else { Answer::Conflict(id) };
        step.then.push(Effect::Reply(reply, answer));
        return;
    }
    if recovery::holds_back(state) {
        // Its number could be one that an agent holds.
        step.then.push(Effect::Reply(reply, Answer::Refused(WaitReason::RecoveryNeeded.to_string())));
        return;
    }
    let id = state.next_job;
    state.next_job = JobId(id.0 + 1);
    let job = Job {
        id,
        key: new.key,
        uuid: new.uuid,
        spec: new.spec,
        created: now.wall,
        transition: now.wall,
        started: None,
        phase: JobPhase::Queued { not_before: None },
        gangs: 0,
        lost_gangs: vec![],
        retries_used: 0,
        infrastructure_faults: 0,
        taken_ports: vec![],
        avoid: vec![],
        cancelled: false,
        delete_when_ended: false,
        history: vec![],
    };
    let not_built: Vec<String> = crate::spec::not_built(&job.spec).iter().map(ToString::to_string).collect();
    let detail = json!({ "toolType": job.spec.toolkit.tool_type(), "nodeCount": job.spec.node_count });
    state.names.insert(folded, id);
    state.enqueue(&job);
    state.jobs.insert(id, job);
    state.journal(now, "jobSubmitted", id, None, detail, step);
    if !mutant!("answered-but-not-stored") {
        state.touch(id);
    }
    step.then.push(Effect::Reply(reply, Answer::Created(id)));
    if !not_built.is_empty() {
        end(state, now, id, EndReason::NotBuilt { features: not_built }, step);
    }
}

pub(super) fn on_cancelled(
    state: &mut State,
    now: Now,
    reply: ReplyTo,
    key: &JobKey,
    finished: Option<FinishedJob>,
    step: &mut Step,
) {
    let open = state.names.get(&key.folded()).copied().filter(|id| state.jobs[id].is_open());
    let answer = match open {
        Some(id) => {
            cancel(state, now, id, step);
            Answer::Terminating { job: id, already: false }
        }
        None => match over(state, key, finished) {
            Some(id) => Answer::Terminating { job: id, already: true },
            None => Answer::NotFound(key.clone()),
        },
    };
    step.then.push(Effect::Reply(reply, answer));
}

pub(super) fn on_deleted(
    state: &mut State,
    now: Now,
    reply: ReplyTo,
    key: &JobKey,
    finished: Option<FinishedJob>,
    step: &mut Step,
) {
    let open = state.names.get(&key.folded()).copied().filter(|id| state.jobs[id].is_open());
    let answer = match open {
        Some(id) => {
            if let Some(job) = state.jobs.get_mut(&id) {
                job.delete_when_ended = true;
            }
            cancel(state, now, id, step);
            let later = state.jobs.get(&id).is_some_and(Job::is_open);
            Answer::Deleted { later }
        }
        None => match over(state, key, finished) {
            Some(id) => {
                remove(state, id, step);
                Answer::Deleted { later: false }
            }
            None => Answer::NotFound(key.clone()),
        },
    };
    step.then.push(Effect::Reply(reply, answer));
}

/// The finished job of this name: ended in a step that is not committed yet, or found in the store.
fn over(state: &State, key: &JobKey, finished: Option<FinishedJob>) -> Option<JobId> {
    let recent = state.names.get(&key.folded()).copied();
    recent.or_else(|| finished.map(|f| f.id)).filter(|id| !state.deleted.contains(id))
}

fn cancel(state: &mut State, now: Now, id: JobId, step: &mut Step) {
    let Some(job) = state.jobs.get_mut(&id) else { return };
    if !job.cancelled {
        job.cancelled = true;
        job.transition = now.wall;
    }
    let queued = match &job.phase {
        JobPhase::Queued { .. } => true,
        JobPhase::Active(_) | JobPhase::Ended { .. } => false,
    };
    state.touch(id);
    if queued && !mutant!("cancel-of-queued-forgotten") {
        end(state, now, id, EndReason::Terminated, step);
    } else {
        gang::decide(state, now, id, EndReason::Terminated, step);
    }
}

/// The job is over. Its record follows at the end of the step.
pub(super) fn end(state: &mut State, now: Now, id: JobId, reason: EndReason, step: &mut Step) {
    let Some(job) = state.jobs.get_mut(&id) else { return };
    let tasks = job.tasks().to_vec();
    // A job that never started has both times all the same, as the service reported it.
    job.started.get_or_insert(now.wall);
    job.transition = now.wall;
    let detail = json!({
        "executionState": if reason == EndReason::Succeeded { "succeeded" } else { "failed" },
        "exitCode": reason.exit_code(),
        "reason": reason,
    });
    job.phase = JobPhase::Ended { reason, at: now.wall, tasks, gang: job.gang() };
    let delete = job.delete_when_ended;
    state.dequeue(id);
    state.finished.insert(id);
    state.placement_due = true;
    state.journal(now, "jobEnded", id, None, detail, step);
    if delete {
        remove(state, id, step);
    } else {
        state.touch(id);
    }
}

fn remove(state: &mut State, id: JobId, step: &mut Step) {
    state.untouch(id);
    state.deleted.insert(id);
    if let Some(job) = state.jobs.remove(&id) {
        state.names.remove(&job.key.folded());
    }
    state.finished.insert(id);
    step.commit.push(Record::DeleteJob(id));
    step.then.push(Effect::DropLogs(id));
}
