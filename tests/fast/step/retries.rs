//! Whose fault an end was: what consumes a retry, what takes a node out of service.

use trainyard_core::coordinator::drain::DrainedBy;
use trainyard_core::coordinator::reason::Fault;

use super::*;

#[test]
fn n_infrastructure_faults_consume_no_retry_and_user_failures_do() {
    let mut world = World::new(false);
    (0..3).for_each(|n| world.connect(n));
    world.submit(0, spec(1, false, 1));
    // The first node cannot be set up.
    world.down(0);
    world.prepared(0, 2);
    world.obey(0);
    assert_eq!((world.job(1).retries_used, world.job(1).infrastructure_faults), (0, 1));
    world.advance(2_000);
    // The second one falls silent for good.
    let runs_on =
        |world: &World| (0..3).find(|n| world.state.nodes[&node(*n)].gang.is_some()).expect("a node");
    let second = runs_on(&world);
    assert_ne!(second, 0, "the node that failed is avoided");
    world.obey(second);
    world.disconnect(second);
    world.advance(LEASE_MS + 15_001);
    world.advance(5_000);
    assert_eq!((world.job(1).retries_used, world.job(1).infrastructure_faults), (0, 2));
    // The job itself fails: that one is counted, and the next one is the last.
    let third = runs_on(&world);
    world.obey(third);
    world.exit(third, 3);
    world.obey(third);
    assert_eq!(world.job(1).retries_used, 1);
    world.advance(120_000);
    let fourth = runs_on(&world);
    world.obey(fourth);
    world.exit(fourth, 4);
    world.obey(fourth);
    assert_eq!(world.reason_of(1).exit_code(), Some(4));
    let faults: Vec<Fault> = world.job(1).history.iter().map(|(_, reason)| reason.fault()).collect();
    assert_eq!(faults, [Fault::Infrastructure, Fault::Infrastructure, Fault::User, Fault::User]);
    world.settle();
}

#[test]
fn another_try_waits_longer_each_time() {
    let mut world = World::new(true);
    world.connect(0);
    world.submit(0, spec(1, false, 9));
    let mut pauses = vec![];
    for gang in 1..=9 {
        assert_eq!(world.gang_of(1), gang);
        world.obey(0);
        world.exit(0, 1);
        world.obey(0);
        let until = world.state.next_deadline().expect("the end of the pause");
        pauses.push((until.0 - world.now.tick.0) / 1_000);
        world.advance(until.0 - world.now.tick.0 - 1);
        assert_eq!(world.gang_of(1), 0, "not before its time");
        world.advance(1);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    world.settle();
}

#[test]
fn fault_40_a_gpu_lost_under_a_task_ends_its_gang_as_a_fault_of_the_infrastructure() {
    let mut world = World::new(true);
    (0..2).for_each(|n| world.connect(n));
    world.submit(0, spec(1, false, 0));
    world.obey(0);
    world.gpus(0, "Xid 79: the GPU has fallen off the bus (reboot the node)");
    world.obey(0);
    let (_, reason) = world.job(1).history.last().expect("one gang has ended");
    assert!(matches!(reason, EndReason::GpuLost { gpu, .. } if *gpu == uuid(0, 0)), "{reason:?}");
    let text = reason.to_string();
    assert!(text.contains("GPU-0-0 on node-0") && text.contains("Xid 79"), "{text}");
    assert_eq!(world.job(1).retries_used, 0);
    world.advance(2_000);
    let JobPhase::Active(gang) = &world.job(1).phase else { panic!("tried again") };
    assert_eq!(gang.nodes[0].node, node(1), "elsewhere");
    world.settle();
    assert_eq!(*world.reason_of(1), EndReason::Succeeded);
}

#[test]
fn fault_40_a_task_that_fails_before_its_gpus_fault_is_heard_of_consumes_no_retry() {
    let mut world = World::new(true);
    (0..2).for_each(|n| world.connect(n));
    world.submit(0, spec(1, false, 0));
    world.obey(0);
    world.exit(0, 1);
    let agent = world.agents.get_mut(&node(0)).expect("known node");
    let (epoch, mut reports) = agent.up.pop_front().expect("its exit");
    let rest = reports.split_off(1);
    world.event(Event::Heard { node: node(0), epoch, reports }, false);
    world.gpus(0, "Xid 48: double bit ECC error (reset the GPU)");
    world.event(Event::Heard { node: node(0), epoch, reports: rest }, false);
    let (_, reason) = world.job(1).history.last().expect("one gang has ended");
    assert!(matches!(reason, EndReason::GpuLost { .. }), "{reason:?}");
    assert!(matches!(world.job(1).phase, JobPhase::Queued { .. }));
    world.settle();
}

#[test]
fn fault_39_while_nvml_does_not_answer_what_runs_goes_on() {
    let mut world = World::new(true);
    world.connect(0);
    world.submit(0, spec(1, false, 0));
    world.obey(0);
    let epoch = world.agents[&node(0)].session.expect("a session");
    let mut dark = facts(0, true);
    dark.gpus.iter_mut().for_each(|gpu| gpu.fault = "NVML tells nothing".to_owned());
    dark.gpu_problem = "NVML is not ready".to_owned();
    world.event(Event::FactsChanged { node: node(0), epoch, facts: Box::new(dark) }, false);
    world.obey(0);
    assert_eq!(world.gang_of(1), 1);
    assert!(world.runs_on(0));
    world.settle();
}

#[test]
fn a_node_with_repeated_faults_is_taken_out_of_service_until_it_is_resumed() {
    let mut world = World::new(false);
    world.state.config.node_faults_max = 3;
    world.connect(0);
    world.submit(0, spec(1, false, 0));
    for fault in 1..=3 {
        assert_eq!(world.drains.len(), 0, "fault {fault}");
        world.obey(0);
        world.disconnect(0);
        world.advance(LEASE_MS + 15_001);
        world.connect(0);
        while !world.agents[&node(0)].down.is_empty() {
            world.down(0);
        }
        world.advance(100_000);
    }
    let drain = world.drains[&node(0)].clone();
    assert_eq!(drain.by, DrainedBy::System);
    assert!(drain.reason.starts_with("3 infrastructure faults within 60 min"), "{}", drain.reason);
    assert_eq!(world.gang_of(1), 0);
    world.crash(false);
    world.connect(0);
    world.advance(1_000_000);
    assert_eq!(world.gang_of(1), 0, "also after a restart");
    assert_eq!(world.state.nodes[&node(0)].drain, Some(drain));
    world.resume(0);
    assert!(world.gang_of(1) > 0, "{:?}", (world.job(1), &world.state.waiting));
    world.settle();
}

#[test]
fn faults_that_lie_far_apart_and_one_bad_job_take_no_node_out_of_service() {
    let mut world = World::new(true);
    world.state.config.node_faults_max = 2;
    world.connect(0);
    // A job whose folder is nowhere fails on every node, again and again.
    world.submit(0, spec(1, false, 0));
    for _ in 0..5 {
        while !world.agents[&node(0)].down.is_empty() {
            world.down(0);
        }
        world.prepared(0, 2);
        world.up(0);
        world.advance(65_000);
    }
    assert!(world.job(1).infrastructure_faults >= 5);
    assert!(world.drains.is_empty(), "{:?}", world.drains);
    // Another job fails there too, but not within the hour.
    world.act(&Act::Cancel(0));
    world.obey(0);
    world.advance(3_600_000);
    world.submit(1, spec(1, false, 0));
    while !world.agents[&node(0)].down.is_empty() {
        world.down(0);
    }
    world.prepared(0, 2);
    world.up(0);
    assert_eq!(world.job(2).infrastructure_faults, 1, "{:?}", (world.job(2), &world.state.waiting));
    assert!(world.drains.is_empty(), "{:?}", world.drains);
    world.settle();
}
