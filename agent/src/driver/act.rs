//! Effects, carried out after the commit of their turn. None of them waits on the loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use trainyard_core::agent::{self, Effect, Found, State};
use trainyard_core::id::{AttemptId, GangId, Rank};
use trainyard_core::plan::{Command, NodePlan};
use trainyard_core::session::{EndCause, Report, TaskEnded};
use trainyard_core::shim::{BootMs, ExitRecord, Step};
use trainyard_core::unit::{Exit, WallMs};
use trainyard_proto::v1;

use super::{Act, Driver, Event, Outgoing, clock};
use crate::files;
use crate::journal::Journal;
use crate::spool::{Notes, Spool, tail_of};
use crate::supervisor::{Adopted, LaunchError, SignalError, launch_of};

/// How long the end of a gang waits for its files in `std_dir`: a dead mount must not hold a job.
const MIRROR_WAIT: Duration = Duration::from_secs(2);
/// Bytes of stderr that are reported with an end.
const STDERR_TAIL_BYTES: u64 = 4096;
/// File requests at once.
const FILES_MAX: usize = 16;

impl<J: Journal> Driver<J> {
    pub(super) fn carry_out(&mut self, acts: Vec<Act>) {
        let mut reports = Vec::new();
        for act in acts {
            match act {
                Act::Effect(Effect::Report(report)) => reports.push(report),
                Act::Effect(effect) => self.effect(effect),
                Act::Greet { session, greeting, reply } => {
                    self.send_reports(&mut reports);
                    // A session that has ended meanwhile says so by `Lost`.
                    drop(reply.send(greeting));
                    self.session = Some(session);
                }
                Act::Leave => {
                    self.send_reports(&mut reports);
                    self.session = None;
                }
                // Whoever asked may be gone.
                Act::Answer { answer, reply } => drop(reply.send(*answer)),
                Act::Pong(reply) => drop(reply.send(())),
                Act::File { outbox, request, allowed } => self.serve_file(outbox, request, allowed),
            }
        }
        self.send_reports(&mut reports);
    }

    /// Reports of one turn are one message. Without a session they are in the next Hello.
    fn send_reports(&mut self, reports: &mut Vec<Report>) {
        if let Some(session) = self.session.as_ref().filter(|_| !reports.is_empty()) {
            // It fails when the session has just ended; then the next Hello says it.
            session.outbox.send(Outgoing::Reports(std::mem::take(reports))).ok();
        }
        reports.clear();
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            // Collected by the caller.
            Effect::Report(_) => {}
            Effect::Disconnect { reason } => {
                tracing::error!(reason, "the coordinator is refused");
                self.node.last_error = Some(reason);
                // The link ends when nobody can speak to it any more.
                self.session = None;
            }
            Effect::OpenLogs { gang } => {
                let attempts = self.state.gangs().get(&gang).map(files_of).unwrap_or_default();
                if let Err(error) = self.spool.open(gang, attempts) {
                    tracing::error!(%gang, %error, "the spool folder of the gang cannot be made");
                }
            }
            Effect::SetUp { gang, plan, stale_temp } => self.set_up(gang, plan, stale_temp),
            Effect::Wipe { job_temps } => {
                let setup = self.setup.clone();
                self.in_background("wipe", move || {
                    let job_temps = setup.wipe(job_temps);
                    Some(agent::Event::Wiped { job_temps })
                });
            }
            Effect::Mirror { gang, std_dir } => {
                if let Some(notes) = self.notes(gang) {
                    self.spool.mirror(gang, std_dir.into(), notes);
                }
            }
            Effect::Launch { attempt, command, fence_boot_ms } => {
                self.launch(attempt, *command, fence_boot_ms)
            }
            Effect::Adopt { attempt } => self.adopt(attempt),
            Effect::Stop { attempt, grace_ms } => {
                log_order(attempt, "stop", self.supervisor.stop(attempt, grace_ms));
            }
            Effect::Renew { attempt, fence_boot_ms } => {
                log_order(attempt, "renew", self.supervisor.renew(attempt, Some(BootMs(fence_boot_ms))));
            }
            Effect::EndLogs { gang, files } => self.spool.end(gang, files),
            Effect::CloseLogs { gang } => self.close_logs(gang),
            Effect::CleanUp { gang, plan, attempts } => self.clean_up(gang, plan, attempts),
            Effect::Note { gang, text } => {
                if let Some(notes) = self.notes(gang) {
                    notes.write(&text);
                }
            }
        }
    }

    fn notes(&self, gang: GangId) -> Option<Notes> {
        let plan = &self.state.gangs().get(&gang)?.plan;
        Some(self.spool.notes(gang, &plan.execution_log))
    }

    /// Runs what may hang in a thread of its own: not the runtime's, whose end would wait for it.
    fn in_background(&self, name: &str, work: impl FnOnce() -> Option<agent::Event> + Send + 'static) {
        let Some(events) = self.events.upgrade() else { return };
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            if let Some(event) = work() {
                // It fails when the agent is ending: the next one starts from the journal.
                events.blocking_send(Event::Core(event)).ok();
            }
        });
        if let Err(error) = spawned {
            tracing::error!(name, %error, "no thread can be started");
        }
    }

    fn set_up(&self, gang: GangId, plan: Box<NodePlan>, stale_temp: bool) {
        let setup = self.setup.clone();
        let notes = self.spool.notes(gang, &plan.execution_log);
        self.in_background("setup", move || {
            let problem = setup.set_up(&plan, stale_temp, &notes);
            Some(agent::Event::SetUp { gang, problem })
        });
    }

    fn launch(&self, attempt: AttemptId, command: Command, fence_boot_ms: Option<u64>) {
        let supervisor = Arc::clone(&self.supervisor);
        // Nobody is left: the agent is ending, and the next one finds that this never started.
        let Some(events) = self.events.upgrade() else { return };
        let folder = self.spool.gang_folder(attempt.gang_id());
        let (stdout, stderr) = (folder.join(&command.stdout), folder.join(&command.stderr));
        let launch = launch_of(attempt, &command, &stdout, &stderr, fence_boot_ms.map(BootMs));
        self.runtime.spawn(async move {
            // Of a start that went well the supervisor's own event tells, in order with the end.
            if let Err(error) = supervisor.launch(launch).await {
                let event = agent::Event::Ended(Box::new(not_started(attempt, &error)));
                // It fails when the agent is ending: the next one finds what became of it.
                events.send(Event::Core(event)).await.ok();
            }
        });
    }

    fn adopt(&self, attempt: AttemptId) {
        let supervisor = Arc::clone(&self.supervisor);
        let Some(events) = self.events.upgrade() else { return };
        let spool = self.spool.clone();
        let stderr = stderr_of(&self.state, attempt);
        self.runtime.spawn(async move {
            let found = match supervisor.adopt(attempt).await {
                Adopted::Running(started) => {
                    Found::Running { started: started.map(|started| (started.pid, started.at)) }
                }
                Adopted::Ended(record) | Adopted::Lost(record) => {
                    Found::Ended(Box::new(ended_with(record, stderr, &spool)))
                }
                Adopted::NeverStarted => Found::NeverStarted,
            };
            events.send(Event::Core(agent::Event::Adopted { attempt, found })).await.ok();
        });
    }

    fn close_logs(&self, gang: GangId) {
        let mirrored = self.spool.caught_up(gang);
        let notes = self.notes(gang);
        let Some(events) = self.events.upgrade() else { return };
        self.runtime.spawn(async move {
            // No answer: there is no mirror, as for a gang that was stopped before it was set up.
            if tokio::time::timeout(MIRROR_WAIT, mirrored).await.is_err()
                && let Some(notes) = notes
            {
                notes.write("logs: the output directory does not take them in time; copying goes on in the background");
            }
            events.send(Event::Core(agent::Event::LogsClosed { gang })).await.ok();
        });
    }

    fn clean_up(&self, gang: GangId, plan: Option<Box<NodePlan>>, attempts: Vec<AttemptId>) {
        let supervisor = Arc::clone(&self.supervisor);
        let spool = self.spool.clone();
        let setup = self.setup.clone();
        let runtime = self.runtime.clone();
        let cleaning = self.cleaning.clone();
        cleaning.send_modify(|count| *count += 1);
        self.in_background("clean-up", move || {
            for attempt in attempts {
                if let Err(error) = runtime.block_on(supervisor.forget(attempt)) {
                    // Its run folder stays, and the next start of the agent tries again.
                    tracing::warn!(%attempt, %error, "the attempt cannot be forgotten");
                }
            }
            if let Some(plan) = plan {
                let notes = spool.notes(gang, &plan.execution_log);
                match setup.clean_up(&plan) {
                    Ok(()) => notes.write("cleaned up"),
                    Err(error) => notes.write(&format!("clean-up: {error}")),
                }
            }
            spool.end_all(gang);
            spool.release(gang);
            cleaning.send_modify(|count| *count -= 1);
            None
        });
    }

    fn serve_file(&self, outbox: mpsc::UnboundedSender<Outgoing>, request: v1::FileRequest, allowed: bool) {
        let refuse = |error: &str| {
            let reply = v1::FileReply { id: request.id, error: error.to_owned(), ..v1::FileReply::default() };
            // The session may have ended.
            outbox.send(Outgoing::File(reply)).ok();
        };
        if !allowed {
            return refuse("not found: no such directory of this gang");
        }
        let slot = Slot(Arc::clone(&self.file_slots));
        if slot.0.fetch_add(1, Ordering::Relaxed) >= FILES_MAX {
            return refuse("busy: too many file requests at once");
        }
        let spawned = std::thread::Builder::new().name("files".into()).spawn({
            let (outbox, request) = (outbox.clone(), request.clone());
            move || {
                outbox.send(Outgoing::File(files::answer(&request))).ok();
                drop(slot);
            }
        });
        if let Err(error) = spawned {
            refuse(&format!("no thread can be started: {error}"));
        }
    }
}

/// One of the places for file requests; given back when dropped.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The log files of each attempt of a gang.
fn files_of(gang: &agent::Gang) -> Vec<Vec<String>> {
    let tasks = gang.plan.tasks.iter().map(|task| &task.command);
    let commands = tasks.chain(&gang.plan.preparation);
    commands.map(|command| vec![command.stdout.clone(), command.stderr.clone()]).collect()
}

/// Name of the file in the spool that has the stderr of an attempt.
fn stderr_of(state: &State, attempt: AttemptId) -> Option<String> {
    let plan = &state.gangs().get(&attempt.gang_id())?.plan;
    let command = match attempt.rank {
        Rank::PREPARATION => plan.preparation.as_ref()?,
        rank => &plan.tasks.iter().find(|task| task.rank == rank)?.command,
    };
    Some(command.stderr.clone())
}

/// The end of an attempt as it is reported, with what its stderr ends with.
pub(super) fn task_ended(state: &State, spool: &Spool, record: ExitRecord) -> TaskEnded {
    let stderr = stderr_of(state, record.attempt);
    ended_with(record, stderr, spool)
}

fn ended_with(record: ExitRecord, stderr: Option<String>, spool: &Spool) -> TaskEnded {
    let folder = spool.gang_folder(record.attempt.gang_id());
    let mut message = record.message;
    if record.leftovers > 0 {
        let more = format!("{} processes were left over and killed", record.leftovers);
        message = if message.is_empty() { more } else { format!("{message}; {more}") };
    }
    TaskEnded {
        attempt: record.attempt,
        exit: record.exit,
        cause: record.cause.into(),
        started: record.started,
        ended: record.ended,
        stderr_tail: stderr.map(|file| tail_of(&folder.join(file), STDERR_TAIL_BYTES)).unwrap_or_default(),
        message,
    }
}

/// The report of an attempt that survives SIGKILL.
pub(super) fn unkillable(state: &State, attempt: AttemptId) -> TaskEnded {
    let attempts = state.gangs().get(&attempt.gang_id()).map(agent::Gang::attempts).unwrap_or_default();
    let started =
        attempts.into_iter().find(|(rank, _)| *rank == attempt.rank).and_then(|(_, held)| match held {
            agent::Attempt::Running { at, .. } => Some(*at),
            agent::Attempt::Launching | agent::Attempt::Ended { .. } => None,
        });
    TaskEnded {
        attempt,
        exit: Exit::Unknown,
        cause: EndCause::Unkillable,
        started: started.unwrap_or(WallMs(0)),
        ended: clock::wall(),
        stderr_tail: String::new(),
        message: "it is still there a minute after SIGKILL, mostly for a dead mount; this node takes no work until it is gone"
            .into(),
    }
}

/// The end of an attempt that never began.
fn not_started(attempt: AttemptId, error: &LaunchError) -> TaskEnded {
    // As a shell says it: a program that cannot be executed is its author's affair, all else is the node's.
    let exit = match error {
        LaunchError::Refused { step: Step::Exec | Step::Directory, source, .. } => match source.kind() {
            std::io::ErrorKind::NotFound => Exit::Code(127),
            _ => Exit::Code(126),
        },
        LaunchError::Refused { .. }
        | LaunchError::AlreadyLaunched(_)
        | LaunchError::RunDir { .. }
        | LaunchError::Cgroup(_)
        | LaunchError::Listen { .. }
        | LaunchError::Spawn { .. }
        | LaunchError::ShimDied => Exit::Unknown,
    };
    TaskEnded {
        attempt,
        exit,
        cause: EndCause::NotStarted,
        started: WallMs(0),
        ended: clock::wall(),
        stderr_tail: String::new(),
        message: error.in_words(),
    }
}

fn log_order(attempt: AttemptId, order: &'static str, sent: Result<(), SignalError>) {
    match sent {
        // It has ended meanwhile, or is about to be adopted; both are reported.
        Ok(()) | Err(SignalError::NotRunning(_)) => {}
        Err(error @ SignalError::Busy(_)) => tracing::warn!(%attempt, order, %error, "an order is lost"),
    }
}
