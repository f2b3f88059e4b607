//! Property tests: whatever the core can say comes back the same over the wire.

use std::collections::BTreeMap;

use proptest::prelude::*;
use trainyard_core::id::{Epoch, GangId, GangNo, Generation, JobId, NodeId, Rank};
use trainyard_core::plan::task::{HostMount, PlannedFile, Role};
use trainyard_core::plan::{Command as Program, NodePlan, PortSpace, Preflight, TaskPlan};
use trainyard_core::session::{
    Command, EndCause, GangPhase, GpuFact, HeldAttempt, HeldGang, Hello, NodeFacts, PrepareFailed,
    PrepareFailure, Report, TaskEnded, Welcome,
};
use trainyard_core::text::Secret;
use trainyard_core::unit::{Exit, GpuUuid, Port, WallMs};

use super::{Down, Up, hello_to_wire};
use crate::v1;

fn path() -> impl Strategy<Value = String> {
    "(/[a-z0-9._-]{1,8}){1,4}".prop_filter("no ..", |path| path.split('/').all(|part| part != ".."))
}

fn paths() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(path(), 0..4)
}

fn variables() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[A-Z_]{1,6}", "[^\0]{0,12}", 0..4)
}

fn program() -> impl Strategy<Value = Program> {
    (path(), prop::collection::vec("[^\0]{0,12}", 0..3), variables(), variables(), path()).prop_map(
        |(program, rest, env, secrets, cwd)| Program {
            argv: std::iter::once(program).chain(rest).collect(),
            env,
            secret_env: secrets.into_iter().map(|(name, value)| (name, Secret::new(value))).collect(),
            cwd,
            stdout: "stdout-wk-0.txt".into(),
            stderr: "stderr-wk-0.txt".into(),
        },
    )
}

fn task() -> impl Strategy<Value = TaskPlan> {
    let role = prop::sample::select(vec![Role::ParameterServer, Role::Worker, Role::Master]);
    let gpus = prop::collection::vec("GPU-[0-9a-f]{4}", 0..3);
    (0..u32::MAX, role, any::<u32>(), "[a-z0-9-]{1,8}", program(), gpus).prop_map(
        |(rank, role, index, name, command, gpus)| TaskPlan {
            rank: Rank(rank),
            role,
            index,
            name,
            command,
            gpus: gpus.into_iter().map(GpuUuid).collect(),
        },
    )
}

fn plan() -> impl Strategy<Value = NodePlan> {
    let mounts = prop::collection::vec((path(), path(), any::<bool>()), 0..3);
    let files = prop::collection::vec((path(), ".{0,20}"), 0..3);
    let ports = prop::collection::vec(1..=u16::MAX, 0..5);
    let tasks = prop::collection::vec(task(), 0..3);
    let directories = (paths(), paths(), path(), path());
    (directories, mounts, files, prop::option::of(program()), ports, tasks).prop_map(
        |(
            (directories, mounted_directories, job_temp, std_dir),
            mounts,
            files,
            preparation,
            ports,
            tasks,
        )| NodePlan {
            node: NodeId("node-0".into()),
            job_temp,
            directories,
            host_mounts: mounts
                .into_iter()
                .map(|(source, target, read_only)| HostMount { source, target, read_only })
                .collect(),
            mounted_directories,
            files: files.into_iter().map(|(path, content)| PlannedFile { path, content }).collect(),
            std_dir,
            execution_log: "execution.log".into(),
            preparation,
            preflight: ports.first().map(|port| Preflight {
                gpus: vec![GpuUuid("GPU-1".into())],
                directories: vec!["/data".into()],
                peers: vec![format!("10.0.0.4:{port}")],
                timeout_ms: u64::from(*port),
            }),
            ports: ports.into_iter().map(Port).collect(),
            tasks,
            notes: vec!["a note".into()],
        },
    )
}

fn gang() -> impl Strategy<Value = GangId> {
    (any::<u64>(), any::<u32>()).prop_map(|(job, gang)| GangId { job: JobId(job), gang: GangNo(gang) })
}

fn exit() -> impl Strategy<Value = Exit> {
    prop_oneof![(0..=255).prop_map(Exit::Code), (1..=64).prop_map(Exit::Signal), Just(Exit::Unknown)]
}

fn ended() -> impl Strategy<Value = TaskEnded> {
    let cause = prop::sample::select(vec![
        EndCause::Itself,
        EndCause::Stopped,
        EndCause::Fenced,
        EndCause::Oom,
        EndCause::NotStarted,
        EndCause::Lost,
        EndCause::Unkillable,
    ]);
    (gang(), any::<u32>(), exit(), cause, any::<(i64, i64)>(), ".{0,20}", ".{0,20}").prop_map(
        |(gang, rank, exit, cause, (started, ended), stderr_tail, message)| TaskEnded {
            attempt: gang.attempt(Rank(rank)),
            exit,
            cause,
            started: WallMs(started),
            ended: WallMs(ended),
            stderr_tail,
            message,
        },
    )
}

fn prepare_failed() -> impl Strategy<Value = PrepareFailed> {
    let kind = prop_oneof![
        exit().prop_map(PrepareFailure::Command),
        Just(PrepareFailure::Setup),
        prop::collection::vec((1..=u16::MAX).prop_map(Port), 0..4).prop_map(PrepareFailure::PortsTaken),
    ];
    (gang(), kind, ".{0,20}").prop_map(|(gang, kind, message)| PrepareFailed { gang, kind, message })
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        (gang(), plan(), any::<bool>(), any::<u64>()).prop_map(
            |(gang, plan, start_when_prepared, lease_ms)| {
                Command::Prepare { gang, plan: Box::new(plan), start_when_prepared, lease_ms }
            }
        ),
        gang().prop_map(Command::Start),
        (gang(), any::<u64>(), ".{0,20}").prop_map(|(gang, grace_ms, reason)| Command::Stop {
            gang,
            grace_ms,
            reason
        }),
        gang().prop_map(Command::Release),
        prop::collection::vec((gang(), any::<u32>()).prop_map(|(gang, rank)| gang.attempt(Rank(rank))), 0..4)
            .prop_map(Command::EndedAck),
    ]
}

fn report() -> impl Strategy<Value = Report> {
    prop_oneof![
        gang().prop_map(Report::Prepared),
        prepare_failed().prop_map(Report::PrepareFailed),
        (gang(), any::<(u32, u32, i64)>()).prop_map(|(gang, (rank, pid, at))| Report::Started {
            attempt: gang.attempt(Rank(rank)),
            pid,
            at: WallMs(at)
        }),
        ended().prop_map(Report::Ended),
        gang().prop_map(Report::GangEnded),
        (gang(), any::<u32>()).prop_map(|(gang, rank)| Report::Stuck(gang.attempt(Rank(rank)))),
        (gang(), any::<u32>()).prop_map(|(gang, rank)| Report::Gone(gang.attempt(Rank(rank)))),
    ]
}

fn held() -> impl Strategy<Value = HeldGang> {
    let phase = prop::sample::select(vec![
        GangPhase::Preparing,
        GangPhase::Prepared,
        GangPhase::Running,
        GangPhase::Ended,
    ]);
    let started = prop::option::of(any::<(u32, i64)>());
    let attempts = prop::collection::vec((any::<u32>(), started, prop::option::of(ended())), 0..3);
    (gang(), phase, prop::option::of(prepare_failed()), attempts).prop_map(
        |(gang, phase, prepare_failed, attempts)| HeldGang {
            gang,
            phase,
            prepare_failed,
            attempts: attempts
                .into_iter()
                .map(|(rank, started, ended)| HeldAttempt {
                    attempt: gang.attempt(Rank(rank)),
                    started: started.map(|(pid, at)| (pid, WallMs(at))),
                    ended,
                })
                .collect(),
        },
    )
}

proptest! {
    #[test]
    fn commands_survive_the_wire(command in command(), generation: u64, epoch: u64) {
        let wire = Down::Command(command.clone()).into_wire(Generation(generation), Epoch(epoch));
        prop_assert_eq!((wire.generation, wire.epoch), (generation, epoch));
        prop_assert_eq!(Down::try_from(wire), Ok(Down::Command(command)));
    }

    #[test]
    fn reports_survive_the_wire(reports in prop::collection::vec(report(), 0..5)) {
        let wire = v1::Reports { reports: reports.iter().cloned().map(Into::into).collect() };
        let wire = v1::FromAgent { generation: 1, epoch: 2, body: Some(v1::from_agent::Body::Reports(wire)), ..Default::default() };
        prop_assert_eq!(Up::try_from(wire), Ok(Up::Reports(reports, None)));
    }

    #[test]
    fn hello_survives_the_wire(
        held in prop::collection::vec(held(), 0..3),
        base_environment in variables(),
        root in path(),
        gpus in prop::collection::vec(("GPU-[0-9a-f]{4}", ".{0,8}"), 0..3),
        stuck in prop::collection::vec((gang(), any::<u32>()), 0..3),
        last: u64,
    ) {
        let inventory = v1::Inventory {
            gpus: gpus.iter().map(|(uuid, fault)| v1::Gpu {
                uuid: uuid.clone(), fault: fault.clone(), ..v1::Gpu::default()
            }).collect(),
            gpu_problem: "none".into(),
            degraded: "the disk is full".into(),
            ..v1::Inventory::default()
        };
        let hello = Hello {
            node: NodeId("node-0".into()),
            facts: NodeFacts {
                version: "0.1.0".into(),
                address: "127.0.0.2".into(),
                root,
                port_space: PortSpace { boot_id: "b".into(), network_namespace: 7 },
                privileged: true,
                base_environment,
                gpus: gpus.into_iter().map(|(uuid, fault)| GpuFact { uuid: GpuUuid(uuid), fault }).collect(),
                gpu_problem: "none".into(),
                degraded: "the disk is full".into(),
                stuck: stuck.into_iter().map(|(gang, rank)| gang.attempt(Rank(rank))).collect(),
            },
            held,
            last_generation: Generation(last),
        };
        let body = v1::from_agent::Body::Hello(hello_to_wire(hello.clone(), inventory.clone()));
        let wire = v1::FromAgent { generation: 0, epoch: 0, body: Some(body), ..Default::default() };
        prop_assert_eq!(Up::try_from(wire), Ok(Up::Hello(Box::new(hello), Box::new(inventory))));
    }

    #[test]
    fn whatever_comes_in_is_refused_or_taken_but_never_panics(
        path in ".{0,12}", role: i32, ports in prop::collection::vec(any::<u32>(), 0..3), kind: i32, code: i32,
    ) {
        let command = v1::Command { argv: vec![path.clone()], cwd: path.clone(), ..v1::Command::default() };
        let task = v1::TaskPlan { role, command: Some(command), ..v1::TaskPlan::default() };
        let plan = v1::NodePlan {
            job_temp: path.clone(), std_dir: path, ports: ports.clone(), tasks: vec![task], ..v1::NodePlan::default()
        };
        prop_assert!(NodePlan::try_from(plan).is_err(), "execution_log is empty");
        let failed = v1::PrepareFailed {
            kind, taken_ports: ports, exit: Some(v1::Exit { how: Some(v1::exit::How::Code(code)) }), gang: None,
            message: String::new(),
        };
        prop_assert!(PrepareFailed::try_from(failed).is_err(), "the gang is missing");
    }
}

#[test]
fn welcome_takes_generation_and_epoch_from_the_envelope() {
    let welcome = Welcome {
        generation: Generation(3),
        epoch: Epoch(9),
        lease_ms: 900_000,
        heartbeat_ms: 10_000,
        metrics_period_ms: 5_000,
    };
    let wire = Down::Welcome(welcome).into_wire(Generation(3), Epoch(9));
    assert_eq!(Down::try_from(wire), Ok(Down::Welcome(welcome)));
}

#[test]
fn an_inventory_among_reports_is_handed_out_apart() {
    let inventory = v1::Inventory { hostname: "h".into(), ..v1::Inventory::default() };
    let reports = vec![
        v1::Report { body: Some(v1::report::Body::Inventory(inventory.clone())) },
        Report::GangEnded(GangId { job: JobId(1), gang: GangNo(1) }).into(),
    ];
    let body = Some(v1::from_agent::Body::Reports(v1::Reports { reports }));
    let up = Up::try_from(v1::FromAgent { generation: 1, epoch: 1, body, ..Default::default() });
    let report = Report::GangEnded(GangId { job: JobId(1), gang: GangNo(1) });
    assert_eq!(up, Ok(Up::Reports(vec![report], Some(Box::new(inventory)))));
}

#[test]
fn the_rank_of_the_preparation_is_no_task() {
    let task = v1::TaskPlan { rank: u32::MAX, role: 1, ..v1::TaskPlan::default() };
    assert!(TaskPlan::try_from(task).is_err());
}
