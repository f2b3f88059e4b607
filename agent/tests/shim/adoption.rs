//! Agents come and go, and so may shims: what the next agent finds, and that every end is told once.

use nix::sys::signal::Signal::{SIGKILL, SIGSTOP};
use trainyard_agent::supervisor::{Adopted, ShimEvent, boot_now};
use trainyard_core::shim::Cause;
use trainyard_core::unit::Exit;

use crate::yard::{Yard, gone, is_running, modes, signal};

#[tokio::test(flavor = "multi_thread")]
async fn fault_04_the_next_agent_finds_the_same_task_and_hears_its_end() {
    // [N5]
    for mode in modes() {
        let mut yard = Yard::new(mode);
        yard.pipe("end");
        let (attempt, started) = yard.run("read x < $D/end; exit 5").await;
        for _ in 0..20 {
            yard.restart();
            assert_eq!(yard.supervisor.adopt(attempt).await, Adopted::Running(Some(started)));
        }
        assert_eq!(yard.supervisor.list().unwrap(), [attempt]);
        assert!(yard.supervisor.processes(attempt).contains(&started.pid));
        yard.say("end").await;
        let record = yard.ended(attempt).await;
        assert_eq!((record.exit, record.cause), (Exit::Code(5), Cause::Itself));
        assert_eq!(yard.events(), [], "the end is told once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_between_two_agents_is_found() {
    // [N2]
    for mode in modes() {
        let mut yard = Yard::new(mode);
        yard.pipe("end");
        let (attempt, started) = yard.run("read x < $D/end; exit 5").await;
        yard.restart();
        yard.say("end").await;
        gone(started.shim_pid).await;
        let Adopted::Ended(record) = yard.supervisor.adopt(attempt).await else { panic!("it has ended") };
        assert_eq!((record.exit, record.cause, record.pid), (Exit::Code(5), Cause::Itself, started.pid));
        assert_eq!(yard.supervisor.adopt(attempt).await, Adopted::Ended(record), "it never changes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_06_a_killed_shim_leaves_its_task_running_and_watched() {
    // [fault 6], the agent alive.
    for mode in modes() {
        let mut yard = Yard::new(mode);
        yard.pipe("end");
        yard.pipe("ready");
        let (attempt, started) = yard.run("read x < $D/end; echo > $D/ready; read x < $D/end; exit 5").await;
        signal(started.shim_pid, SIGKILL);
        gone(started.shim_pid).await;
        // The task goes on, untouched.
        yard.say("end").await;
        yard.hear("ready").await;
        assert!(yard.supervisor.processes(attempt).contains(&started.pid));
        yard.say("end").await;
        let record = yard.ended(attempt).await;
        assert_eq!((record.exit, record.cause, record.pid), (Exit::Unknown, Cause::Lost, started.pid));
        assert!(!is_running(started.pid));
        yard.restart();
        assert_eq!(yard.supervisor.adopt(attempt).await, Adopted::Ended(record), "it never changes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_06_agent_and_shim_killed_the_task_is_adopted_without_a_signal() {
    // [fault 6]
    for mode in modes() {
        let mut yard = Yard::new(mode);
        yard.pipe("end");
        let (attempt, started) = yard.run("read x < $D/end; exit 5").await;
        yard.restart();
        signal(started.shim_pid, SIGKILL);
        gone(started.shim_pid).await;
        assert_eq!(yard.supervisor.adopt(attempt).await, Adopted::Running(Some(started)));
        assert!(is_running(started.pid));
        yard.say("end").await;
        let record = yard.ended(attempt).await;
        assert_eq!((record.exit, record.cause), (Exit::Unknown, Cause::Lost));

        // Nothing left when the agent comes: lost, and kept as that.
        let (attempt, started) = yard.run("exec sleep 1000").await;
        yard.restart();
        signal(started.shim_pid, SIGKILL);
        gone(started.shim_pid).await;
        signal(started.pid, SIGKILL);
        gone(started.pid).await;
        let Adopted::Lost(record) = yard.supervisor.adopt(attempt).await else {
            panic!("nobody saw its end")
        };
        assert_eq!((record.exit, record.cause, record.pid), (Exit::Unknown, Cause::Lost, started.pid));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_without_shim_leaves_over_is_killed_when_its_main_process_ends() {
    // [fault 6], [fault 34]: else a daemonised child would hold the job for ever. Once watched from the start,
    // once found by the next agent with the main process gone already.
    for mode in modes() {
        for found_late in [false, true] {
            let mut yard = Yard::new(mode);
            yard.pipe("end");
            let (attempt, started) = yard.run("sleep 1000 & read x < $D/end; exit 5").await;
            if found_late {
                yard.restart();
            }
            signal(started.shim_pid, SIGKILL);
            gone(started.shim_pid).await;
            if found_late {
                yard.say("end").await;
                gone(started.pid).await;
                assert_eq!(yard.supervisor.adopt(attempt).await, Adopted::Running(Some(started)));
            } else {
                yard.say("end").await;
            }
            let record = yard.ended(attempt).await;
            assert_eq!((record.exit, record.cause), (Exit::Unknown, Cause::Lost));
            assert!(yard.supervisor.processes(attempt).is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_without_shim_can_be_stopped_and_is_fenced_by_the_agent() {
    for mode in modes() {
        let mut yard = Yard::new(mode);
        yard.pipe("ready");
        let deaf = "trap '' TERM; echo > $D/ready; while :; do sleep 1000; done";
        let (attempt, started) = yard.run(deaf).await;
        yard.hear("ready").await;
        signal(started.shim_pid, SIGKILL);
        yard.supervisor.stop(attempt, 50).unwrap();
        let record = yard.ended(attempt).await;
        assert_eq!((record.exit, record.cause), (Exit::Unknown, Cause::Stopped));
        assert!(!is_running(started.pid));

        let (attempt, started) = yard.run(deaf).await;
        yard.hear("ready").await;
        yard.restart();
        signal(started.shim_pid, SIGKILL);
        gone(started.shim_pid).await;
        assert_eq!(yard.supervisor.adopt(attempt).await, Adopted::Running(Some(started)));
        yard.supervisor.renew(attempt, Some(boot_now().plus_ms(50))).unwrap();
        let record = yard.ended(attempt).await;
        assert_eq!((record.exit, record.cause), (Exit::Unknown, Cause::Fenced));
        assert!(!is_running(started.pid));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_07_a_stopped_shim_does_not_keep_its_task_from_being_stopped() {
    // [fault 7] Takes as long as the agent waits for such a shim, so with one mode only.
    let mut yard = Yard::new(modes()[modes().len() - 1]);
    let (attempt, started) = yard.run("exec sleep 1000").await;
    signal(started.shim_pid, SIGSTOP);
    yard.supervisor.stop(attempt, 10).unwrap();
    let record = yard.ended(attempt).await;
    assert_eq!((record.exit, record.cause), (Exit::Unknown, Cause::Stopped));
    assert!(!is_running(started.pid));
    gone(started.shim_pid).await;
    assert!(matches!(yard.events()[..], [ShimEvent::Started { .. }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_05_an_agent_that_dies_before_the_launch_leaves_an_attempt_that_never_started() {
    // [fault 5] The launch is given up while the shim is being started: whichever of them is first, the task
    // has either run once or never, and the next agent can tell.
    let mut yard = Yard::new(modes()[0]);
    let mut seen = Vec::new();
    for delay_us in (0..40).map(|n| n * 100) {
        let launch = yard.script("echo ran");
        let attempt = launch.attempt;
        tokio::select! {
            biased;
            launched = yard.launch(launch) => drop(launched.unwrap()),
            () = tokio::time::sleep(std::time::Duration::from_micros(delay_us)) => {}
        }
        seen.push(attempt);
    }
    yard.restart();
    for attempt in seen {
        let ran = match yard.supervisor.adopt(attempt).await {
            Adopted::Running(_) => yard.ended(attempt).await.exit == Exit::Code(0),
            Adopted::Ended(record) => record.exit == Exit::Code(0),
            Adopted::NeverStarted => false,
            Adopted::Lost(record) => panic!("{record}"),
        };
        let out = std::fs::read_to_string(yard.dir().join(format!("{attempt}.out"))).unwrap_or_default();
        assert_eq!(out, if ran { "ran\n" } else { "" }, "attempt {attempt}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_10_after_a_reboot_no_process_of_a_recycled_number_is_taken_for_the_task() {
    // Without cgroups: there a task is known by its number alone.
    let mut yard = Yard::new(modes()[0]);
    let (attempt, started) = yard.run("exec sleep 1000").await;
    yard.restart();
    signal(started.shim_pid, SIGKILL);
    gone(started.shim_pid).await;
    // The same process, but what was written down of it is from another boot.
    let marker = yard.root.path().join("a-folder-with-a-long-name-".repeat(5));
    let marker = marker.join("run").join(attempt.to_string()).join("started");
    let text = std::fs::read_to_string(&marker).unwrap();
    let (_, line) = text.split_once('\n').unwrap();
    std::fs::write(&marker, format!("another-boot\n{line}")).unwrap();
    let Adopted::Lost(record) = yard.supervisor.adopt(attempt).await else { panic!("it counts as lost") };
    assert_eq!((record.exit, record.cause), (Exit::Unknown, Cause::Lost));
    assert!(record.message.contains("restarted"), "{record}");
    assert!(is_running(started.pid), "a stranger is not signalled");
    signal(started.pid, SIGKILL);
    gone(started.pid).await;
}
