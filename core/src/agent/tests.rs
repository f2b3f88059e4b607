//! Examples of a gang's life, and a small world that shakes the state machine: random orders, lost
//! sessions, restarts at any point. The world keeps what a disk and the shims keep.

mod orders;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::*;
use crate::id::{AttemptId, GangNo, JobId, NodeId, Rank};
use crate::plan::task::Role;
use crate::plan::{Command as Program, NodePlan, TaskPlan};
use crate::session::{EndCause, GangPhase, PrepareFailure, TaskEnded};
use crate::text::Secret;
use crate::unit::{Exit, Port, WallMs};

const LEASE_MS: u64 = 60_000;

fn gang(job: u64) -> GangId {
    GangId { job: JobId(job), gang: GangNo(1) }
}

fn program(name: &str) -> Program {
    Program {
        argv: vec!["/bin/true".into()],
        env: BTreeMap::from([("AZ_BATCHAI_OUTPUT_MODEL".into(), "/out/model".into())]),
        secret_env: BTreeMap::from([("KEY".into(), Secret::new("canary".into()))]),
        cwd: "/".into(),
        stdout: format!("stdout-{name}.txt"),
        stderr: format!("stderr-{name}.txt"),
    }
}

fn plan(job: u64, preparation: bool) -> Box<NodePlan> {
    let task = |rank: u32| TaskPlan {
        rank: Rank(rank),
        role: Role::Worker,
        index: rank,
        name: format!("worker-{rank}"),
        command: program(&format!("wk-{rank}")),
        gpus: Vec::new(),
    };
    Box::new(NodePlan {
        node: NodeId("node-0".into()),
        job_temp: format!("/root/jobs/default/default/job{job}"),
        directories: Vec::new(),
        host_mounts: Vec::new(),
        mounted_directories: Vec::new(),
        files: Vec::new(),
        std_dir: "/out/stdouterr".into(),
        execution_log: "execution.log".into(),
        preparation: preparation.then(|| program("job_prep")),
        ports: vec![Port(2222)],
        preflight: None,
        tasks: vec![task(0), task(1)],
        notes: Vec::new(),
    })
}

fn ended(attempt: AttemptId, exit: Exit, cause: EndCause) -> TaskEnded {
    TaskEnded {
        attempt,
        exit,
        cause,
        started: WallMs(1),
        ended: WallMs(2),
        stderr_tail: String::new(),
        message: String::new(),
    }
}

/// One agent with its disk, its shims and an honest ear at the other end.
#[derive(Default)]
struct World {
    state: State,
    now: Now,
    journal: Vec<Record>,
    pending: Vec<Effect>,
    epoch: u64,
    /// When the coordinator has last heard of this node.
    contact_boot_ms: u64,
    shims: BTreeMap<AttemptId, Option<TaskEnded>>,
    launches: BTreeMap<AttemptId, u32>,
    /// Gangs stopped before anything, or before any task, of them was to start.
    stopped_before_preparation: BTreeSet<GangId>,
    stopped_before_start: BTreeSet<GangId>,
    /// What the coordinator has heard, over all sessions and in this one.
    heard_ends: BTreeMap<AttemptId, TaskEnded>,
    heard_ends_now: BTreeSet<AttemptId>,
    heard: Vec<Report>,
}

impl World {
    fn new() -> World {
        let mut world = World::default();
        world.event(Event::Restarted { boot_id: "boot".into() });
        world.connect();
        world
    }

    fn event(&mut self, event: Event) {
        self.now.boot_ms += 10;
        let step = step(&mut self.state, self.now, event);
        self.journal.extend(step.commit);
        self.pending.extend(step.then);
        assert_eq!(self.state.check(), Vec::<String>::new());
        assert_eq!(
            State::recover(self.journal.clone()).snapshot(),
            self.state.snapshot(),
            "disk and memory differ"
        );
        assert_eq!(State::recover(self.state.snapshot()).snapshot(), self.state.snapshot());
    }

    fn command(&mut self, command: Command) {
        let event = Event::Commanded { generation: Generation(1), epoch: Epoch(self.epoch), command };
        self.event(event);
    }

    fn prepare(&mut self, job: u64, preparation: bool, start_when_prepared: bool) {
        let plan = plan(job, preparation);
        self.command(Command::Prepare { gang: gang(job), plan, start_when_prepared, lease_ms: LEASE_MS });
    }

    fn stop(&mut self, gang: GangId) {
        let intended = |wanted: &Record| self.journal.contains(wanted);
        if !intended(&Record::PreparationIntended(gang)) {
            self.stopped_before_preparation.insert(gang);
        }
        if !intended(&Record::StartIntended(gang)) {
            self.stopped_before_start.insert(gang);
        }
        self.command(Command::Stop { gang, grace_ms: 1000, reason: "test".into() });
    }

    fn connect(&mut self) {
        self.event(Event::Disconnected);
        self.pending.retain(|effect| !matches!(effect, Effect::Report(_)));
        self.event(Event::Greeted { boot_ms: self.now.boot_ms });
        self.contact_boot_ms = self.now.boot_ms;
        self.heard_ends_now.clear();
        for end in self.state.held().into_iter().flat_map(|held| held.attempts).filter_map(|held| held.ended)
        {
            self.hear_end(end);
        }
        self.epoch += 1;
        self.event(Event::Welcomed(Welcome {
            generation: Generation(1),
            epoch: Epoch(self.epoch),
            lease_ms: LEASE_MS,
            heartbeat_ms: 10_000,
            metrics_period_ms: 5_000,
        }));
    }

    fn restart(&mut self) {
        self.pending.clear();
        self.state = State::recover(self.journal.clone());
        self.event(Event::Restarted { boot_id: "boot".into() });
        self.connect();
    }

    fn has_heard_the_end(&self, id: GangId) -> bool {
        self.heard.iter().any(|report| match report {
            Report::GangEnded(gang) => *gang == id,
            Report::PrepareFailed(failed) => failed.gang == id,
            Report::Prepared(_)
            | Report::Started { .. }
            | Report::Ended(_)
            | Report::Stuck(_)
            | Report::Gone(_) => false,
        })
    }

    fn hear_end(&mut self, end: TaskEnded) {
        assert!(self.heard_ends_now.insert(end.attempt), "{} was reported twice in one session", end.attempt);
        let first = self.heard_ends.entry(end.attempt).or_insert_with(|| end.clone());
        assert_eq!(*first, end, "an outcome has changed");
    }

    /// Carries out one waiting effect; `choice` decides how it goes.
    fn perform(&mut self, effect: Effect, choice: u8) {
        match effect {
            Effect::Report(Report::Ended(end)) => self.hear_end(end),
            Effect::Report(report) => {
                if let Report::GangEnded(gang) = &report {
                    for attempt in
                        self.launches.keys().filter(|a| a.gang_id() == *gang && a.rank != Rank::PREPARATION)
                    {
                        assert!(
                            self.heard_ends.contains_key(attempt),
                            "{gang} ended before {attempt} was reported"
                        );
                        assert!(
                            self.shims.get(attempt).is_none_or(Option::is_some),
                            "{gang} ended, yet {attempt} runs"
                        );
                    }
                }
                self.heard.push(report);
            }
            Effect::SetUp { gang, .. } => {
                let problem = match choice % 8 {
                    0 => Some(SetupProblem::Failed("no space".into())),
                    1 => Some(SetupProblem::PortsTaken(vec![Port(2222)])),
                    _ => None,
                };
                self.event(Event::SetUp { gang, problem });
            }
            Effect::Launch { attempt, fence_boot_ms, .. } => self.launch(attempt, fence_boot_ms, choice),
            Effect::Adopt { attempt } => {
                let found = match self.shims.get(&attempt) {
                    None => Found::NeverStarted,
                    Some(None) if choice.is_multiple_of(8) => {
                        let lost = ended(attempt, Exit::Unknown, EndCause::Lost);
                        self.shims.insert(attempt, Some(lost.clone()));
                        Found::Ended(Box::new(lost))
                    }
                    Some(None) => {
                        Found::Running { started: choice.is_multiple_of(2).then_some((7, WallMs(1))) }
                    }
                    Some(Some(end)) => Found::Ended(Box::new(end.clone())),
                };
                self.event(Event::Adopted { attempt, found });
            }
            Effect::Stop { attempt, .. } => {
                self.end(attempt, ended(attempt, Exit::Signal(15), EndCause::Stopped))
            }
            Effect::CloseLogs { gang } => self.event(Event::LogsClosed { gang }),
            Effect::Wipe { job_temps } => self.event(Event::Wiped { job_temps }),
            Effect::Renew { attempt, fence_boot_ms } => {
                assert!(
                    self.launches.contains_key(&attempt) && fence_boot_ms < self.contact_boot_ms + LEASE_MS
                );
            }
            Effect::Disconnect { .. }
            | Effect::OpenLogs { .. }
            | Effect::Mirror { .. }
            | Effect::EndLogs { .. }
            | Effect::CleanUp { .. }
            | Effect::Note { .. } => {}
        }
    }

    fn launch(&mut self, attempt: AttemptId, fence_boot_ms: Option<u64>, choice: u8) {
        let count = self.launches.entry(attempt).or_default();
        *count += 1;
        assert_eq!(*count, 1, "{attempt} was launched twice");
        let lease_end = self.contact_boot_ms + LEASE_MS;
        assert!(
            fence_boot_ms.is_some_and(|fence| fence < lease_end),
            "the fence is not before the lease's end"
        );
        let stopped = match attempt.rank {
            Rank::PREPARATION => &self.stopped_before_preparation,
            _ => &self.stopped_before_start,
        };
        assert!(!stopped.contains(&attempt.gang_id()), "{attempt} was launched after its gang was stopped");
        match choice % 8 {
            // The program cannot be executed.
            0 => {
                let end = ended(attempt, Exit::Code(127), EndCause::NotStarted);
                self.shims.insert(attempt, Some(end.clone()));
                self.event(Event::Ended(Box::new(end)));
            }
            // It starts, but the agent dies before it hears of it.
            1 => {
                self.shims.insert(attempt, None);
                self.restart();
            }
            _ => {
                self.shims.insert(attempt, None);
                self.event(Event::Launched { attempt, pid: 7, at: WallMs(1) });
            }
        }
    }

    fn end(&mut self, attempt: AttemptId, end: TaskEnded) {
        if let Some(shim @ None) = self.shims.get_mut(&attempt) {
            *shim = Some(end.clone());
            self.event(Event::Ended(Box::new(end)));
        }
    }

    fn end_running(&mut self, choice: u8) {
        let running: Vec<AttemptId> =
            self.shims.iter().filter(|(_, end)| end.is_none()).map(|(attempt, _)| *attempt).collect();
        if !running.is_empty() {
            let attempt = running[usize::from(choice) % running.len()];
            self.end(attempt, ended(attempt, Exit::Code(i32::from(choice % 3)), EndCause::Itself));
            // A second, other end must change nothing.
            self.event(Event::Ended(Box::new(ended(attempt, Exit::Signal(9), EndCause::Lost))));
        }
    }

    fn perform_all(&mut self) {
        while !self.pending.is_empty() {
            let effect = self.pending.remove(0);
            self.perform(effect, 7);
        }
    }

    fn act(&mut self, action: u8, job: u64, choice: u8) {
        let id = gang(job);
        match action {
            0 => self.prepare(job, job != 1, choice.is_multiple_of(2)),
            1 => self.command(Command::Start(id)),
            2 => self.stop(id),
            // The coordinator releases what it has heard the end of, maybe more than once.
            3 if self.has_heard_the_end(id) => self.command(Command::Release(id)),
            3 => {}
            4 => self.command(Command::EndedAck(self.heard_ends.keys().copied().collect())),
            5 => self.connect(),
            6 => self.restart(),
            7 => {
                self.contact_boot_ms = self.now.boot_ms;
                self.event(Event::HeartbeatAcked { boot_ms: self.now.boot_ms });
            }
            8 => {
                // A late message of an earlier session.
                let command = Command::Start(id);
                let epoch = Epoch(self.epoch - 1);
                self.event(Event::Commanded { generation: Generation(1), epoch, command });
            }
            9 | 10 => self.end_running(choice),
            11 => self.now.boot_ms += 20_000,
            _ if self.pending.is_empty() => {}
            _ => {
                let mut index = usize::from(choice) % self.pending.len();
                // Reports go out in order; all other effects are independent.
                let is_report = |effect: &Effect| matches!(effect, Effect::Report(_));
                if is_report(&self.pending[index]) {
                    index = self.pending.iter().position(is_report).expect("one is there");
                }
                let effect = self.pending.remove(index);
                self.perform(effect, choice / 3);
            }
        }
    }

    /// All faults stop: everything must come to its end, and nothing be left.
    fn settle(&mut self) {
        self.connect();
        self.perform_all();
        for job in 1..=3 {
            self.stop(gang(job));
            self.perform_all();
        }
        assert!(self.shims.values().all(Option::is_some), "something still runs");
        for attempt in self.launches.keys().filter(|attempt| attempt.rank != Rank::PREPARATION) {
            assert!(self.heard_ends.contains_key(attempt), "{attempt} was started, and its end never told");
        }
        for job in 1..=3 {
            self.command(Command::Release(gang(job)));
        }
        assert_eq!(self.state.held(), Vec::new(), "something is still held");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_breaks_a_promise(
        actions in prop::collection::vec((0u8..24, 1u64..=3, any::<u8>()), 0..120)
    ) {
        let mut world = World::new();
        for (action, job, choice) in actions {
            world.act(action, job, choice);
        }
        world.settle();
    }
}

#[test]
fn the_random_world_reaches_what_it_is_about() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let actions = prop::collection::vec((0u8..24, 1u64..=3, any::<u8>()), 100..120);
    let (mut launched, mut stopped, mut failed, mut over) = (0, 0, 0, 0);
    for _ in 0..200 {
        let tree = actions.new_tree(&mut runner).expect("no filter");
        let mut world = World::new();
        for (action, job, choice) in tree.current() {
            world.act(action, job, choice);
        }
        launched += world.launches.len();
        stopped += world.stopped_before_start.len();
        failed += world.heard.iter().filter(|report| matches!(report, Report::PrepareFailed(_))).count();
        over += world.heard.iter().filter(|report| matches!(report, Report::GangEnded(_))).count();
    }
    assert!(
        launched > 50 && stopped > 50 && failed > 20 && over > 50,
        "{launched} {stopped} {failed} {over}"
    );
}

fn reports(world: &World) -> Vec<Report> {
    world.heard.clone()
}

#[test]
fn fault_36_what_survives_sigkill_is_said_before_its_end_and_until_it_is_gone() {
    let mut world = World::new();
    world.prepare(2, false, true);
    world.perform_all();
    let (stuck, other) = (gang(2).attempt(Rank(0)), gang(2).attempt(Rank(1)));
    let end = || Box::new(ended(stuck, Exit::Unknown, EndCause::Unkillable));
    world.event(Event::Stuck(end()));
    let told: Vec<&Report> = world
        .pending
        .iter()
        .filter_map(|effect| if let Effect::Report(report) = effect { Some(report) } else { None })
        .collect();
    assert_eq!(told[..], [&Report::Stuck(stuck), &Report::Ended(*end())], "never the end alone");
    world.shims.insert(stuck, Some(*end()));
    world.end(other, ended(other, Exit::Code(0), EndCause::Itself));
    world.perform_all();
    assert_eq!(world.heard.last(), Some(&Report::GangEnded(gang(2))), "its job need not wait");
    world.command(Command::EndedAck(vec![stuck, other]));
    world.command(Command::Release(gang(2)));
    let forgotten = world.pending.iter().find_map(|effect| {
        if let Effect::CleanUp { attempts, .. } = effect { Some(attempts.clone()) } else { None }
    });
    assert_eq!(forgotten, Some(vec![other]), "what lives is not forgotten");
    world.perform_all();
    // Neither a restart nor a repetition changes anything.
    world.shims.insert(stuck, None);
    world.restart();
    assert!(world.pending.contains(&Effect::Adopt { attempt: stuck }));
    world.perform_all();
    world.event(Event::Stuck(end()));
    assert_eq!(world.state.stuck().iter().collect::<Vec<_>>(), [&stuck], "the next Hello says it");
    world.event(Event::Ended(end()));
    assert!(world.state.stuck().is_empty());
    assert!(world.pending.contains(&Effect::Report(Report::Gone(stuck))));
    let clean = Effect::CleanUp { gang: gang(2), plan: None, attempts: vec![stuck] };
    assert!(world.pending.contains(&clean));
    world.perform_all();
}

#[test]
fn a_gang_is_prepared_started_and_ended() {
    let mut world = World::new();
    world.prepare(1, true, false);
    world.perform_all();
    world.end(
        gang(1).attempt(Rank::PREPARATION),
        ended(gang(1).attempt(Rank::PREPARATION), Exit::Code(0), EndCause::Itself),
    );
    world.perform_all();
    assert_eq!(reports(&world), [Report::Prepared(gang(1))]);
    world.command(Command::Start(gang(1)));
    world.perform_all();
    assert_eq!(world.state.held()[0].phase, GangPhase::Running);
    for rank in [0, 1] {
        let attempt = gang(1).attempt(Rank(rank));
        world.end(attempt, ended(attempt, Exit::Code(0), EndCause::Itself));
    }
    world.perform_all();
    assert_eq!(world.heard.last(), Some(&Report::GangEnded(gang(1))));
    assert_eq!(world.heard_ends.len(), 2);
    assert_eq!(world.state.held()[0].attempts.len(), 2, "ends are kept until they are acknowledged");
    world.command(Command::EndedAck(world.heard_ends.keys().copied().collect()));
    assert_eq!(world.state.held()[0].attempts.len(), 0);
    assert!(world.state.serves(gang(1), "/out/model") && !world.state.serves(gang(2), "/out/model"));
    world.command(Command::Release(gang(1)));
    assert_eq!(world.state.held(), []);
    assert!(world.state.serves(gang(1), "/out/stdouterr"), "files of a released gang are still served");
}

#[test]
fn fault_08_a_command_of_an_earlier_session_or_generation_changes_nothing() {
    let mut world = World::new();
    world.prepare(2, false, false);
    world.perform_all();
    let epoch = world.epoch;
    world.connect();
    let before = world.state.snapshot();
    for (generation, epoch) in [(1, epoch), (0, epoch + 1), (2, epoch + 1), (1, epoch + 2)] {
        for command in [
            Command::Start(gang(2)),
            Command::Stop { gang: gang(2), grace_ms: 0, reason: "late".into() },
            Command::Release(gang(2)),
        ] {
            let (generation, epoch) = (Generation(generation), Epoch(epoch));
            world.event(Event::Commanded { generation, epoch, command });
        }
    }
    assert_eq!(world.state.snapshot(), before);
    assert!(world.launches.is_empty() && world.pending.is_empty(), "{:?}", world.pending);
    world.command(Command::Start(gang(2)));
    world.perform_all();
    assert_eq!(world.launches.len(), 2, "one of the present session is obeyed");
}

#[test]
fn a_failed_preparation_starts_nothing() {
    let mut world = World::new();
    world.prepare(1, true, true);
    world.perform_all();
    let preparation = gang(1).attempt(Rank::PREPARATION);
    world.end(preparation, ended(preparation, Exit::Code(3), EndCause::Itself));
    world.perform_all();
    let [Report::PrepareFailed(failed)] = &reports(&world)[..] else { panic!("{:?}", world.heard) };
    assert_eq!(failed.kind, PrepareFailure::Command(Exit::Code(3)));
    assert_eq!(world.launches.len(), 1);
}

#[test]
fn a_restart_before_the_start_waits_for_the_plan_with_its_secrets() {
    let mut world = World::new();
    world.prepare(1, false, false);
    world.perform_all();
    assert_eq!(world.state.held()[0].phase, GangPhase::Prepared);
    world.restart();
    assert_eq!(world.state.held()[0].phase, GangPhase::Preparing, "without secrets it is not ready");
    world.command(Command::Start(gang(1)));
    world.perform_all();
    assert!(world.launches.is_empty());
    world.prepare(1, false, false);
    world.perform_all();
    assert_eq!(world.launches.len(), 2, "the Start that came before is carried out");
}

#[test]
fn fault_16_a_lower_generation_is_refused_and_a_higher_one_is_kept() {
    let mut world = World::new();
    let welcome = |generation| {
        Event::Welcomed(Welcome {
            generation: Generation(generation),
            epoch: Epoch(50),
            lease_ms: LEASE_MS,
            heartbeat_ms: 10_000,
            metrics_period_ms: 5_000,
        })
    };
    for (generation, session) in [(4, true), (3, false), (4, true), (5, true)] {
        world.event(Event::Disconnected);
        world.event(Event::Greeted { boot_ms: 1 });
        world.event(welcome(generation));
        assert_eq!(world.state.session().is_some(), session, "generation {generation}");
    }
    world.restart();
    assert_eq!(world.state.generation(), Generation(5));
}

#[test]
fn fences_move_with_the_heartbeats_but_not_with_each() {
    let mut world = World::new();
    world.prepare(1, false, true);
    world.perform_all();
    world.pending.clear();
    let mut renewals = 0;
    for beat in 1..=30 {
        world.event(Event::HeartbeatAcked { boot_ms: beat * 5_000 });
        renewals += world.pending.drain(..).filter(|effect| matches!(effect, Effect::Renew { .. })).count();
    }
    // 150 s at a lease of 60 s: at most every 15 s, for each of the two tasks.
    assert!((14..=20).contains(&renewals), "{renewals}");
}

#[test]
fn a_gang_whose_lease_ran_out_while_it_was_prepared_is_not_started_on_its_own() {
    let mut world = World::new();
    world.prepare(1, false, true);
    world.event(Event::Disconnected);
    world.now.boot_ms += 10 * LEASE_MS;
    world.perform_all();
    assert!(world.launches.is_empty());
    world.connect();
    world.command(Command::Start(gang(1)));
    world.perform_all();
    assert_eq!(world.launches.len(), 2);
}

#[test]
fn fault_12_a_gang_whose_lease_ran_out_in_its_setup_waits_for_a_fresh_start_also_once_connected_again() {
    let mut world = World::new();
    world.prepare(1, false, true);
    world.event(Event::Disconnected);
    world.now.boot_ms += 10 * LEASE_MS;
    // Meanwhile another node was given the job; the `Stop` is on its way when the setup ends.
    world.connect();
    world.perform_all();
    assert!(world.launches.is_empty(), "{:?}", world.launches);
    assert!(world.heard.contains(&Report::Prepared(gang(1))), "{:?}", world.heard);
    world.command(Command::Start(gang(1)));
    world.perform_all();
    assert_eq!(world.launches.len(), 2);
}

#[test]
fn temporaries_of_ended_jobs_are_wiped_when_another_starts() {
    let mut world = World::new();
    world.prepare(1, false, true);
    world.perform_all();
    world.stop(gang(1));
    world.perform_all();
    world.command(Command::Release(gang(1)));
    world.prepare(2, false, false);
    let wiped = |effect: &&Effect| matches!(effect, Effect::Wipe { .. });
    assert_eq!(
        world.pending.iter().find(wiped),
        Some(&Effect::Wipe { job_temps: vec!["/root/jobs/default/default/job1".into()] })
    );
    world.perform_all();
    world.prepare(3, false, false);
    assert_eq!(world.pending.iter().find(wiped), None, "once is enough, and what is held is never wiped");
}

#[test]
fn secrets_are_not_written_to_the_journal() {
    let mut world = World::new();
    world.prepare(1, true, true);
    let text = serde_json::to_string(&world.journal).unwrap();
    assert!(text.contains("AZ_BATCHAI_OUTPUT_MODEL") && !text.contains("canary"));
    let back: Vec<Record> = serde_json::from_str(&text).unwrap();
    assert_eq!(State::recover(back).held(), world.state.held());
}
