//! Races between a cancel, an exit, a launch and the coordinator's death; one GPU for two.

use super::*;

/// Two nodes, prepared for job 1, with the `Start`s on their way.
fn about_to_start() -> World {
    let mut world = World::new(true);
    (0..2).for_each(|n| world.connect(n));
    world.submit(0, spec(2, false, 0));
    for n in 0..2 {
        world.down(n);
        world.prepared(n, 0);
        world.up(n);
    }
    world
}

#[test]
fn fault_15_the_first_exit_of_a_task_is_kept_and_another_one_is_told_of() {
    let mut world = World::new(true);
    (0..2).for_each(|n| world.connect(n));
    // TensorFlow: two workers, so that the gang lives on after the first exit.
    world.submit(0, spec(2, true, 0));
    (0..2).for_each(|n| world.obey(n));
    (0..2).for_each(|n| world.obey(n));
    let (gang, epoch) = (
        GangId { job: JobId(1), gang: trainyard_core::id::GangNo(1) },
        world.agents[&node(0)].session.expect("a session"),
    );
    let worker =
        world.job(1).tasks().iter().find(|task| task.role == Role::Worker).expect("a worker").clone();
    let attempt = gang.attempt(worker.rank);
    let report = |exit| Event::Heard {
        node: worker.node.clone(),
        epoch,
        reports: vec![Report::Ended(ended(attempt, exit, EndCause::Itself))],
    };
    let acks = |world: &World| {
        let down = world.agents[&worker.node].down.iter();
        down.filter(|(_, command)| *command == Command::EndedAck(vec![attempt])).count()
    };
    world.event(report(Exit::Code(0)), false);
    world.event(report(Exit::Code(0)), false);
    assert!(!world.kinds().contains(&"taskEndConflict"), "the same again is no conflict");
    world.event(report(Exit::Code(7)), false);
    assert_eq!(world.kinds().iter().filter(|kind| **kind == "taskEndConflict").count(), 1);
    let kept = &world.job(1).tasks()[worker.rank.0 as usize].state;
    let trainyard_core::coordinator::state::TaskState::Ended(kept) = kept else { panic!("{kept:?}") };
    assert_eq!(kept.exit, Exit::Code(0));
    assert_eq!(acks(&world), 3, "each is acknowledged, so that the node forgets it");
    world.settle();
    assert_eq!(*world.reason_of(1), EndReason::Succeeded);
}

#[test]
fn fault_44_two_nodes_that_tell_of_one_gpu_never_both_get_it() {
    let mut world = World::new(true);
    for n in 0..2 {
        world.connect(n);
        let mut same = facts(n, true);
        same.gpus = vec![GpuFact { uuid: uuid(9, 9), fault: String::new() }];
        let epoch = world.agents[&node(n)].session.expect("a session");
        world.event(Event::FactsChanged { node: node(n), epoch, facts: Box::new(same) }, false);
    }
    let mut wants = spec(1, false, 0);
    wants.resources = Some(trainyard_core::spec::job::Resources { gpus_per_node: Some(1) });
    world.submit(0, wants.clone());
    world.submit(1, wants);
    let running: Vec<u64> = (1..=2).filter(|id| world.gang_of(*id) == 1).collect();
    assert_eq!(running, [1], "one GPU serves one job");
    let why = world.state.waiting[&JobId(2)].to_string();
    assert!(why.contains("GPU-9-9 is a GPU of node-0 too"), "{why}");
}

#[test]
fn fault_42_a_gpu_is_known_by_its_uuid_whatever_its_place() {
    let mut world = World::new(true);
    world.connect(0);
    let mut wants = spec(1, false, 0);
    wants.resources = Some(trainyard_core::spec::job::Resources { gpus_per_node: Some(1) });
    world.submit(0, wants);
    world.obey(0);
    let given = world.job(1).tasks()[0].gpus.clone();
    assert_eq!(given, [uuid(0, 0)]);
    // After a reboot of the node the order has changed, and what is broken is the other one.
    let epoch = world.agents[&node(0)].session.expect("a session");
    let mut turned = facts(0, true);
    turned.gpus.reverse();
    turned.gpus[0].fault = "broken".to_owned();
    world.event(Event::FactsChanged { node: node(0), epoch, facts: Box::new(turned) }, false);
    assert_eq!(world.gang_of(1), 1, "its own GPU is well, though it is the second one now");
    world.gpus(0, "broken");
    assert_eq!(world.job(1).tasks()[0].gpus, given);
    let JobPhase::Active(gang) = &world.job(1).phase else { panic!("it is being ended") };
    assert!(matches!(&gang.outcome, Some(EndReason::GpuLost { gpu, .. }) if *gpu == uuid(0, 0)));
    world.settle();
}

#[test]
fn fault_45_one_node_that_fails_in_its_setup_releases_all_others_and_no_task_starts() {
    let mut world = World::new(true);
    (0..3).for_each(|n| world.connect(n));
    world.submit(0, spec(3, false, 0));
    (0..3).for_each(|n| world.down(n));
    world.prepared(0, 0);
    world.prepared(1, 0);
    world.prepared(2, 2);
    (0..3).for_each(|n| world.up(n));
    // The others are told to end it, say so, and are free.
    for n in [0, 1] {
        while !world.agents[&node(n)].down.is_empty() {
            world.down(n);
        }
        while !world.agents[&node(n)].up.is_empty() {
            world.up(n);
        }
    }
    assert!(world.started.is_empty(), "no partial gang: {:?}", world.started);
    assert!(matches!(world.job(1).phase, JobPhase::Queued { .. }), "{:?}", world.job(1).phase);
    assert!(world.state.nodes.values().all(|node| node.gang.is_none()));
    assert_eq!(world.job(1).retries_used, 0);
    world.settle();
    assert_eq!(*world.reason_of(1), EndReason::Succeeded);
}

#[test]
fn fault_46_a_crash_between_the_starts_of_a_gang_starts_all_of_it_once() {
    for lose_effects in [false, true] {
        let mut world = about_to_start();
        // One node gets its Start; the coordinator dies before the other does.
        world.down(0);
        world.crash(lose_effects);
        for n in [1, 0] {
            world.connect(n);
            world.obey(n);
        }
        assert_eq!(world.gang_of(1), 1, "the same gang");
        assert!(world.runs_on(0) && world.runs_on(1));
        world.settle();
        assert_eq!(*world.reason_of(1), EndReason::Succeeded);
        assert_eq!(world.job(1).gangs, 1);
    }
}

#[test]
fn fault_46_a_crash_in_the_step_that_would_start_a_gang_leaves_it_prepared_or_started_whole() {
    let mut world = World::new(true);
    (0..2).for_each(|n| world.connect(n));
    world.submit(0, spec(2, false, 0));
    (0..2).for_each(|n| world.down(n));
    world.prepared(0, 0);
    world.up(0);
    world.prepared(1, 0);
    let (epoch, reports) =
        world.agents.get_mut(&node(1)).expect("known node").up.pop_front().expect("a report");
    // Committed, and nothing of what follows is sent.
    world.event(Event::Heard { node: node(1), epoch, reports }, true);
    world.crash(false);
    assert!(world.started.is_empty());
    for n in 0..2 {
        world.connect(n);
        world.obey(n);
    }
    assert!(world.runs_on(0) && world.runs_on(1));
    world.settle();
    assert_eq!(world.job(1).gangs, 1);
}

#[test]
fn fault_47_a_job_cancelled_before_its_launch_never_launches() {
    // Wherever the Prepare or the Start is: with the coordinator, on the wire, or with the node.
    for delivered in 0..4 {
        let mut world = World::new(true);
        (0..2).for_each(|n| world.connect(n));
        world.submit(0, spec(2, false, 3));
        (0..delivered.min(2)).for_each(|n| world.down(n));
        if delivered >= 2 {
            world.prepared(0, 0);
            world.up(0);
        }
        if delivered == 3 {
            // The whole session is lost with what was on its way.
            world.disconnect(0);
            world.disconnect(1);
        }
        world.act(&Act::Cancel(0));
        world.settle();
        assert_eq!(*world.reason_of(1), EndReason::Terminated, "{delivered}");
        assert!(world.started.is_empty(), "{delivered}: {:?}", world.started);
        assert_eq!(world.job(1).gangs, 1, "{delivered}");
    }
}

#[test]
fn fault_47_a_cancel_that_crosses_the_start_leaves_one_outcome() {
    let mut world = about_to_start();
    world.down(0);
    world.act(&Act::Cancel(0));
    world.act(&Act::Cancel(0));
    world.settle();
    assert_eq!(*world.reason_of(1), EndReason::Terminated);
    assert_eq!(world.kinds().iter().filter(|kind| **kind == "jobEnded").count(), 1);
}

#[test]
fn fault_47_a_cancel_that_crosses_an_exit_leaves_the_one_that_was_first() {
    let run = |cancel_first: bool| {
        let mut world = World::new(true);
        world.connect(0);
        world.submit(0, spec(1, false, 3));
        world.obey(0);
        world.exit(0, 0);
        if cancel_first {
            world.act(&Act::Cancel(0));
        }
        world.up(0);
        world.act(&Act::Cancel(0));
        world.settle();
        assert_eq!(world.kinds().iter().filter(|kind| **kind == "jobEnded").count(), 1);
        world.reason_of(1).clone()
    };
    assert_eq!(run(true), EndReason::Terminated);
    assert_eq!(run(false), EndReason::Succeeded);
}

#[test]
fn fault_47_a_cancel_that_crosses_a_requeue_prevents_every_further_launch() {
    // While the failed gang is still ending, and while its job waits for the next try.
    for ended in [false, true] {
        let mut world = World::new(true);
        (0..2).for_each(|n| world.connect(n));
        world.submit(0, spec(1, false, 5));
        world.obey(0);
        world.exit(0, 3);
        let JobPhase::Active(_) = world.job(1).phase else { panic!("it runs") };
        if ended {
            world.obey(0);
            assert!(matches!(world.job(1).phase, JobPhase::Queued { .. }));
        }
        world.act(&Act::Cancel(0));
        world.advance(120_000);
        world.settle();
        assert_eq!(*world.reason_of(1), EndReason::Terminated, "ended: {ended}");
        assert_eq!(world.job(1).gangs, 1, "ended: {ended}");
    }
}
