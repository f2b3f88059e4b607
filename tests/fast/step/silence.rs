//! Nodes that are not heard of: unknown, fenced or kept, and never failed; clocks that jump.

use trainyard_core::spec::job::OnLeaseLost;

use super::*;

/// A job on node 0 of two, which is then not heard of any more.
fn silent(spec: JobSpec, local: bool) -> World {
    let mut world = World::new(local);
    (0..2).for_each(|n| world.connect(n));
    world.submit(0, spec);
    world.obey(0);
    assert!(world.runs_on(0));
    world.disconnect(0);
    world
}

fn with_lease(on_lease_lost: Option<OnLeaseLost>, lease_seconds: Option<u32>) -> JobSpec {
    JobSpec { on_lease_lost, lease_seconds, ..spec(1, false, 0) }
}

#[test]
fn fault_11_a_silence_shorter_than_the_lease_changes_nothing() {
    let mut world = silent(with_lease(None, None), false);
    world.advance(LEASE_MS - 1_000);
    assert_eq!(world.gang_of(1), 1, "cannot reach is not failed");
    world.connect(0);
    assert!(world.runs_on(0));
    world.settle();
    assert_eq!((world.reason_of(1), world.job(1).gangs), (&EndReason::Succeeded, 1));
}

#[test]
fn fault_12_fence_an_attempt_is_tried_again_after_the_lease_and_its_margin_and_not_before() {
    let mut world = silent(with_lease(None, None), false);
    world.advance(LEASE_MS + 14_000);
    assert_eq!(world.gang_of(1), 1, "within the margin");
    world.advance(1_001);
    assert!(!world.runs_on(0), "the node itself has ended it");
    world.advance(2_000);
    assert_eq!(world.gang_of(1), 2);
    assert_eq!(world.job(1).retries_used, 0);
    world.settle();
}

#[test]
fn fault_12_keep_an_attempt_is_never_tried_again_before_a_fresh_report() {
    // Remote nodes: kept because the job says so.
    let mut world = silent(with_lease(Some(OnLeaseLost::Keep), None), false);
    world.advance(2 * 24 * 3_600_000);
    assert_eq!(world.gang_of(1), 1);
    assert!(world.runs_on(0));
    world.crash(false);
    world.connect(1);
    world.advance(2 * 24 * 3_600_000);
    assert_eq!(world.gang_of(1), 1, "a restart of the coordinator changes nothing");
    world.connect(0);
    world.exit(0, 0);
    world.obey(0);
    assert_eq!((world.reason_of(1), world.job(1).gangs), (&EndReason::Succeeded, 1));
}

#[test]
fn a_job_chooses_its_lease_also_on_the_coordinators_machine() {
    let mut world = silent(with_lease(Some(OnLeaseLost::Fence), Some(3_600)), true);
    world.advance(LEASE_MS * 2);
    assert_eq!(world.gang_of(1), 1, "an hour has not passed");
    let JobPhase::Active(gang) = &world.job(1).phase else { panic!("active") };
    assert_eq!(gang.lease_ms, 3_600_000);

    let mut world = World::new(true);
    world.state.config.job_leases = false;
    world.state.config.keep_local = false;
    world.connect(0);
    world.submit(0, with_lease(Some(OnLeaseLost::Keep), None));
    let JobPhase::Active(gang) = &world.job(1).phase else { panic!("active") };
    assert_eq!(gang.lease_ms, LEASE_MS, "`run` keeps nothing");
}

#[test]
fn fault_13_reports_of_a_session_that_is_over_change_nothing() {
    let mut world = World::new(false);
    world.connect(0);
    world.submit(0, spec(1, false, 0));
    world.obey(0);
    let old = world.agents[&node(0)].session.expect("a session");
    // Half-open: the coordinator gave the session up, the node speaks on for a while.
    world.event(Event::NodeLeft { node: node(0), epoch: old }, false);
    let attempt = GangId { job: JobId(1), gang: trainyard_core::id::GangNo(1) }.attempt(Rank(0));
    let late = vec![Report::Ended(ended(attempt, Exit::Code(9), EndCause::Itself))];
    world.event(Event::Heard { node: node(0), epoch: old, reports: late }, false);
    assert!(world.state.nodes[&node(0)].session.is_none(), "no late word makes it known again");
    assert_eq!(world.gang_of(1), 1);
    world.agents.get_mut(&node(0)).expect("known node").session = None;
    world.settle();
}

#[test]
fn fault_29_a_jump_of_the_wall_clock_ends_no_lease_and_no_job() {
    const DAY_MS: i64 = 24 * 3_600_000;
    for jump in [DAY_MS, -DAY_MS, 400 * DAY_MS] {
        let mut world = silent(with_lease(None, None), false);
        world.now.wall = WallMs(world.now.wall.0 + jump);
        world.event(Event::Woke, false);
        world.advance(1_000);
        assert_eq!(world.gang_of(1), 1, "{jump}: a lease is counted by the monotonic clock");
        assert_eq!(world.job(1).execution_state(), "running", "{jump}: so is the limit of a job");
        world.connect(0);
        world.settle();
        assert_eq!((world.reason_of(1), world.job(1).gangs), (&EndReason::Succeeded, 1), "{jump}");
    }
}

#[test]
fn fault_03_a_thousand_agents_that_come_back_at_once_find_all_that_they_run() {
    const MANY: u32 = 1_000;
    let mut state = State::new(config(false), Generation(2), JobId(1), Epoch(1));
    for round in 1..=2 {
        for n in 0..MANY {
            let id = NodeId(format!("gpu-{n}"));
            let facts = NodeFacts {
                address: format!("10.1.{}.{}", n / 250, n % 250 + 1),
                port_space: PortSpace { boot_id: format!("boot-{n}"), network_namespace: 1 },
                ..facts(0, false)
            };
            let hello = Hello { node: id, facts, held: vec![], last_generation: Generation(1) };
            let event = Event::NodeJoined { reply: ReplyTo(u64::from(n)), hello: Box::new(hello) };
            let now = Now { tick: Tick(u64::from(round * n)), wall: WallMs(1) };
            let step = step(&mut state, now, event);
            let welcomed = step.then.iter().any(|it| matches!(it, Effect::Reply(_, Answer::Welcome(_))));
            assert!(welcomed, "gpu-{n} in round {round}");
        }
    }
    assert_eq!(state.nodes.values().filter(|node| node.session.is_some()).count(), MANY as usize);
    assert_eq!(state.check(), Vec::<String>::new());
}
