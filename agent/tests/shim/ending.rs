//! How attempts end: by themselves, by a stop, by the fence, by the kernel; and that nothing is left of them.

use trainyard_agent::supervisor::{AttemptLimits, ShimEvent, boot_now};
use trainyard_core::shim::{Cause, ExitRecord};
use trainyard_core::unit::Exit;

use crate::yard::{Yard, gone, is_running, modes, signal};

#[tokio::test(flavor = "multi_thread")]
async fn codes_and_signals_are_told_and_kept() {
    for mode in modes() {
        let mut yard = Yard::new(mode);
        for (script, exit) in [
            ("exit 0", Exit::Code(0)),
            ("exit 255", Exit::Code(255)),
            ("kill -9 $$", Exit::Signal(9)),
            ("kill -15 $$", Exit::Signal(15)),
            ("ulimit -c 0; kill -11 $$", Exit::Signal(11)),
        ] {
            let (attempt, _) = yard.run(script).await;
            let record = yard.ended(attempt).await;
            assert_eq!((record.exit, record.cause), (exit, Cause::Itself), "{script}");
            let kept = std::fs::read_to_string(yard.supervisor.exit_record_path(attempt)).unwrap();
            assert_eq!(ExitRecord::parse(&kept), Ok(record));
            assert!(yard.supervisor.stop(attempt, 0).is_err(), "it does not run any more");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_35_a_stop_terminates_and_after_the_grace_kills() {
    for mode in modes() {
        let mut yard = Yard::new(mode);
        yard.pipe("ready");
        let (attempt, _) =
            yard.run("trap 'exit 3' TERM; echo > $D/ready; while :; do sleep 0.05; done").await;
        yard.hear("ready").await;
        yard.supervisor.stop(attempt, 600_000).unwrap();
        let record = yard.ended(attempt).await;
        assert_eq!((record.exit, record.cause), (Exit::Code(3), Cause::Stopped));

        // [fault 35] One that will not hear.
        let (attempt, _) = yard.run("trap '' TERM; echo > $D/ready; while :; do sleep 1000; done").await;
        yard.hear("ready").await;
        yard.supervisor.stop(attempt, 100).unwrap();
        let record = yard.ended(attempt).await;
        assert_eq!((record.exit, record.cause), (Exit::Signal(9), Cause::Stopped));
        assert!(yard.supervisor.processes(attempt).is_empty());

        let (attempt, started) = yard.run("trap '' TERM; sleep 1000").await;
        yard.supervisor.stop(attempt, 0).unwrap();
        assert_eq!(yard.ended(attempt).await.exit, Exit::Signal(9));
        gone(started.shim_pid).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_a_stopped_task_have_the_rest_of_the_grace_for_their_checkpoint() {
    for mode in modes() {
        let mut yard = Yard::new(mode);
        yard.pipe("ready");
        let script = "sh -c 'trap \"sleep 0.2; echo saved > $D/saved; exit\" TERM; echo > $D/ready; \
             while :; do sleep 0.05; done' & wait";
        let (attempt, _) = yard.run(script).await;
        yard.hear("ready").await;
        yard.supervisor.stop(attempt, 600_000).unwrap();
        let record = yard.ended(attempt).await;
        assert_eq!((record.exit, record.cause), (Exit::Signal(15), Cause::Stopped));
        assert!(yard.dir().join("saved").exists(), "mode with cgroups: {}", yard.has_cgroups());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_34_fault_28_an_orphan_that_left_its_session_is_killed_and_its_open_output_holds_nothing() {
    // [faults 28 and 34]
    for mode in modes() {
        let mut yard = Yard::new(mode);
        yard.pipe("ready");
        let script = "(setsid sh -c 'trap \"\" TERM HUP; echo $$ > $D/ready; while :; do sleep 1000; done' &) ; \
             read x < $D/end; exit 4";
        yard.pipe("end");
        let (attempt, _) = yard.run(script).await;
        let daemon: u32 = yard.hear("ready").await.parse().unwrap();
        assert!(yard.supervisor.processes(attempt).contains(&daemon));
        assert!(is_running(daemon));
        yard.say("end").await;
        let record = yard.ended(attempt).await;
        assert_eq!((record.exit, record.cause), (Exit::Code(4), Cause::Itself));
        assert_eq!(record.leftovers, 2, "the daemon and its sleep: {}", record.message);
        assert!(!is_running(daemon));
        yard.supervisor.forget(attempt).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_31_processes_that_breed_are_all_killed() {
    // [fault 31] Each branch forks two more; a kill of what is listed alone would be outrun.
    for mode in modes() {
        let mut yard = Yard::with_limits(mode, AttemptLimits { memory_bytes: None, processes: Some(100) });
        if !yard.has_cgroups() {
            eprintln!("SKIPPED: breeding processes without cgroups: nothing limits them");
            continue;
        }
        yard.pipe("ready");
        let script = "b() { b & b & }; (b & b & echo > $D/ready); while :; do sleep 1; done 2>/dev/null";
        let (attempt, _) = yard.run(script).await;
        yard.hear("ready").await;
        yard.supervisor.stop(attempt, 0).unwrap();
        let record = yard.ended(attempt).await;
        assert_eq!(record.cause, Cause::Stopped);
        assert!(yard.supervisor.processes(attempt).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_12_the_fence_ends_a_task_though_no_agent_lives() {
    // [N6]
    for mode in modes() {
        let mut yard = Yard::new(mode);
        let mut launch = yard.script("trap '' TERM; while :; do sleep 1000; done");
        launch.deadline = Some(boot_now().plus_ms(2_000));
        let attempt = launch.attempt;
        let started = yard.launch(launch).await.unwrap();
        yard.restart();
        gone(started.shim_pid).await;
        assert!(!is_running(started.pid));
        let trainyard_agent::supervisor::Adopted::Ended(record) = yard.supervisor.adopt(attempt).await else {
            panic!("it has ended");
        };
        assert_eq!((record.exit, record.cause), (Exit::Signal(9), Cause::Fenced));
        assert!(record.ran_ms >= 1, "{record}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_task_lives_past_its_first_deadline() {
    let mut yard = Yard::new(modes()[0]);
    yard.pipe("end");
    let mut launch = yard.script("read x < $D/end; exit 5");
    let deadline = boot_now().plus_ms(3_000);
    launch.deadline = Some(deadline);
    let attempt = launch.attempt;
    yard.launch(launch).await.unwrap();
    yard.supervisor.renew(attempt, Some(boot_now().plus_ms(3_600_000))).unwrap();
    // The passing of time is what is tested here.
    while boot_now() <= deadline.plus_ms(100) {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    yard.say("end").await;
    let record = yard.ended(attempt).await;
    assert_eq!((record.exit, record.cause), (Exit::Code(5), Cause::Itself));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_32_the_out_of_memory_killer_is_named() {
    // [fault 32]
    let limits = AttemptLimits { memory_bytes: Some(48 << 20), processes: None };
    for mode in modes() {
        let mut yard = Yard::with_limits(mode, limits);
        let script = "head -c 300000000 /dev/zero | tail > /dev/null; exit $?";
        let attempt = yard.script("").attempt;
        let groups = yard.supervisor.cgroup_paths(attempt);
        let has_memory = groups.v1.contains_key("memory")
            || groups.v2.as_ref().and_then(|dir| dir.parent()).is_some_and(|dir| {
                let on = std::fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
                on.contains("memory")
            });
        if !has_memory {
            eprintln!("SKIPPED: out of memory: no memory controller");
            continue;
        }
        let (attempt, _) = yard.run(script).await;
        let record = yard.ended(attempt).await;
        assert_eq!((record.exit, record.cause), (Exit::Code(137), Cause::Oom));
        assert!(record.message.contains("out-of-memory"), "{record}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_to_the_shim_end_nothing() {
    use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGUSR1};
    let mut yard = Yard::new(modes()[0]);
    yard.pipe("end");
    let (attempt, started) = yard.run("read x < $D/end; exit 6").await;
    for number in [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGPIPE] {
        signal(started.shim_pid, number);
    }
    yard.say("end").await;
    assert_eq!(yard.ended(attempt).await.exit, Exit::Code(6));
    assert!(matches!(yard.events()[..], [ShimEvent::Started { .. }]));
}
