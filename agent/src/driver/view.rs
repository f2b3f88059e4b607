//! What the agent says of itself to somebody on the node: made from the state, between two events.

use std::path::Path;

use trainyard_core::agent::{Attempt, Gang, Phase};
use trainyard_core::id::{AttemptId, GangId, Rank};
use trainyard_core::plan::Command;
use trainyard_core::unit::WallMs;

use super::{Driver, clock};
use crate::journal::Journal;
use crate::local::{Answer, Environment, GangStatus, Logs, Request, SpoolStatus, Status, Task};

/// What the loop knows beside the core's state, for display.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) coordinator: String,
    pub(crate) root: String,
    pub(crate) privileged: bool,
    pub(crate) limitations: Vec<String>,
    /// The session that may speak now; earlier ones may not.
    pub(crate) current_session: u64,
    pub(crate) last_contact: Option<WallMs>,
    pub(crate) last_error: Option<String>,
}

impl Node {
    pub(crate) fn on_contact(&mut self) {
        self.last_contact = Some(clock::wall());
        self.last_error = None;
    }
}

pub(super) fn answer<J: Journal>(driver: &Driver<J>, request: &Request) -> Answer {
    match request {
        Request::Status => Answer::Status(status(driver)),
        Request::Tasks => Answer::Tasks(tasks(driver)),
        Request::Env { task } => find(driver, task, environment),
        Request::Logs { task } => find(driver, task, logs),
    }
}

fn status<J: Journal>(driver: &Driver<J>) -> Status {
    let node = &driver.node;
    let session = driver.state.session();
    Status {
        node: node.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        root: node.root.clone(),
        coordinator: node.coordinator.clone(),
        connected: session.is_some(),
        generation: driver.state.generation().0,
        epoch: session.map(|(_, epoch)| epoch.0),
        last_contact_ms: node.last_contact.map(|at| at.0),
        last_error: node.last_error.clone(),
        privileged: node.privileged,
        limitations: node.limitations.clone(),
        problems: problems(driver),
        spool: spool(driver.spool.usage()),
        gangs: driver.state.gangs().iter().map(|(id, gang)| gang_status(*id, gang)).collect(),
    }
}

fn problems<J: Journal>(driver: &Driver<J>) -> Vec<String> {
    let stuck = driver.state.stuck().iter().map(|attempt| format!("attempt {attempt} survived SIGKILL"));
    let disk = crate::inventory::problem(Path::new(&driver.node.root), "");
    stuck.chain(Some(disk).filter(|problem| !problem.is_empty())).collect()
}

fn spool(usage: crate::spool::Usage) -> SpoolStatus {
    let crate::spool::Usage { held_bytes, files, quota_bytes, dropped_bytes, gaps, free_bytes, problem } =
        usage;
    SpoolStatus { held_bytes, files, quota_bytes, dropped_bytes, gaps, free_bytes, problem }
}

fn gang_status(id: GangId, gang: &Gang) -> GangStatus {
    let phase = match gang.phase {
        Phase::Awaiting => "waits for its plan: the agent was restarted before the start",
        Phase::SettingUp => "setting up",
        Phase::Preparation(_) => "preparation",
        Phase::Prepared => "prepared",
        Phase::Running(_) => "running",
        Phase::Closing(_) => "closing",
        Phase::Ended(_) => "ended",
    };
    let running =
        gang.attempts().iter().filter(|(_, attempt)| matches!(attempt, Attempt::Running { .. })).count();
    GangStatus {
        gang: id.to_string(),
        job: job_name(gang),
        phase: phase.to_owned(),
        stopping: gang.stop.is_some(),
        running,
        lease_ms: gang.lease_ms,
        std_dir: gang.plan.std_dir.clone(),
    }
}

fn job_name(gang: &Gang) -> String {
    let name = gang.plan.tasks.iter().find_map(|task| task.command.env.get("AZ_BATCHAI_JOB_NAME"));
    let temp = || Path::new(&gang.plan.job_temp).file_name().map(|name| name.to_string_lossy().into_owned());
    name.cloned().or_else(temp).unwrap_or_default()
}

fn tasks<J: Journal>(driver: &Driver<J>) -> Vec<Task> {
    let gangs = driver.state.gangs().iter();
    gangs.flat_map(|(id, gang)| programs(gang).into_iter().map(|program| task(*id, gang, &program))).collect()
}

struct Program<'a> {
    name: &'a str,
    rank: Rank,
    command: &'a Command,
    gpus: Vec<String>,
}

fn programs(gang: &Gang) -> Vec<Program<'_>> {
    let preparation = gang.plan.preparation.iter().map(|command| Program {
        name: "preparation",
        rank: Rank::PREPARATION,
        command,
        gpus: Vec::new(),
    });
    let tasks = gang.plan.tasks.iter().map(|task| Program {
        name: &task.name,
        rank: task.rank,
        command: &task.command,
        gpus: task.gpus.iter().map(|gpu| gpu.0.clone()).collect(),
    });
    preparation.chain(tasks).collect()
}

fn task(id: GangId, gang: &Gang, program: &Program<'_>) -> Task {
    let attempts = gang.attempts();
    let attempt = attempts.iter().find(|(rank, _)| *rank == program.rank).map(|(_, attempt)| *attempt);
    let mut task = Task {
        attempt: id.attempt(program.rank).to_string(),
        name: program.name.to_owned(),
        job: job_name(gang),
        state: "waiting".to_owned(),
        pid: None,
        started_ms: None,
        ended_ms: None,
        exit: None,
        cgroups: Vec::new(),
        gpus: program.gpus.clone(),
    };
    match attempt {
        None if program.rank == Rank::PREPARATION && gang.preparation_done => task.state = "ended".into(),
        None => {}
        Some(Attempt::Launching) => task.state = "launching".into(),
        Some(Attempt::Running { pid, at }) => {
            task.state = "running".into();
            task.pid = Some(*pid);
            task.started_ms = Some(at.0);
            task.cgroups = cgroups_of(*pid);
        }
        Some(Attempt::Ended { ended, .. }) => {
            task.state = "ended".into();
            task.started_ms = Some(ended.started.0).filter(|at| *at != 0);
            task.ended_ms = Some(ended.ended.0);
            task.exit = Some(ended.exit.to_string());
        }
    }
    task
}

/// The cgroups of a process, as the kernel names them; none once it is gone.
fn cgroups_of(pid: u32) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The task of this attempt id or name: of the newest gang, where several have one of that name.
fn find<J: Journal>(
    driver: &Driver<J>,
    wanted: &str,
    answer: impl Fn(&Driver<J>, AttemptId, &Gang, &Program<'_>) -> Answer,
) -> Answer {
    for (id, gang) in driver.state.gangs().iter().rev() {
        for program in programs(gang) {
            let attempt = id.attempt(program.rank);
            if program.name == wanted || attempt.to_string() == wanted {
                return answer(driver, attempt, gang, &program);
            }
        }
    }
    let known: Vec<String> =
        tasks(driver).into_iter().map(|task| format!("{} ({})", task.name, task.attempt)).collect();
    let known =
        if known.is_empty() { "it holds none".to_owned() } else { format!("it holds {}", known.join(", ")) };
    Answer::Error { error: format!("this node has no task `{wanted}`; {known}") }
}

fn environment<J: Journal>(_: &Driver<J>, attempt: AttemptId, gang: &Gang, program: &Program<'_>) -> Answer {
    let attempts = gang.attempts();
    let pid =
        attempts.iter().find(|(rank, _)| *rank == program.rank).and_then(|(_, attempt)| match attempt {
            Attempt::Running { pid, .. } => Some(*pid),
            Attempt::Launching | Attempt::Ended { .. } => None,
        });
    Answer::Env(Environment {
        attempt: attempt.to_string(),
        name: program.name.to_owned(),
        argv: program.command.argv.clone(),
        cwd: program.command.cwd.clone(),
        env: program.command.env.clone(),
        secrets: program.command.secret_env.keys().cloned().collect(),
        pid,
    })
}

fn logs<J: Journal>(driver: &Driver<J>, attempt: AttemptId, gang: &Gang, program: &Program<'_>) -> Answer {
    let spool = driver.spool.gang_folder(attempt.gang_id());
    let std_dir = Path::new(&gang.plan.std_dir);
    let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    Answer::Logs(Logs {
        attempt: attempt.to_string(),
        name: program.name.to_owned(),
        stdout: text(spool.join(&program.command.stdout)),
        stderr: text(spool.join(&program.command.stderr)),
        mirrored_stdout: text(std_dir.join(&program.command.stdout)),
        mirrored_stderr: text(std_dir.join(&program.command.stderr)),
    })
}
