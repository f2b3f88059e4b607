//! What an operator does with nodes: drain, resume, declare lost.

use trainyard_core::coordinator::drain::DrainedBy;
use trainyard_core::coordinator::reason::{Rejection, WaitReason};

use super::*;

fn drain(world: &mut World, n: u8, reason: &str) {
    let event = Event::NodeDrained { reply: ReplyTo(0), node: node(n), reason: reason.to_owned() };
    world.event(event, false);
}

#[test]
fn a_drained_node_finishes_what_it_runs_and_takes_nothing_new_also_after_a_restart() {
    let mut world = World::new(true);
    world.connect(0);
    world.submit(0, spec(1, false, 0));
    world.obey(0);
    drain(&mut world, 0, "new disk");
    world.submit(1, spec(1, false, 0));
    assert!(world.runs_on(0), "what runs goes on");
    world.crash(false);
    world.connect(0);
    world.exit(0, 0);
    world.obey(0);
    assert_eq!(*world.reason_of(1), EndReason::Succeeded);
    assert_eq!(world.gang_of(2), 0, "the second job has to wait");
    let WaitReason::NotEnoughNodes { rejected, .. } = &world.state.waiting[&JobId(2)] else {
        panic!("{:?}", world.state.waiting)
    };
    assert!(matches!(&rejected[0].why, Rejection::Drained { why, .. } if why == "new disk"), "{rejected:?}");
    let kept = world.state.nodes[&node(0)].drain.clone().expect("it is drained");
    assert_eq!((kept.by, kept.reason.as_str()), (DrainedBy::Operator, "new disk"));

    world.resume(0);
    assert_eq!(world.gang_of(2), 1, "it starts at once: {:?}", (world.job(2), &world.state.waiting));
    assert!(world.drains.is_empty(), "durably");
    assert!(world.kinds().contains(&"nodeDrained") && world.kinds().contains(&"nodeResumed"));
    world.settle();
}

#[test]
fn draining_twice_keeps_the_time_and_takes_the_new_reason() {
    let mut world = World::new(true);
    world.connect(0);
    drain(&mut world, 0, "disk");
    let since = world.drains[&node(0)].since;
    world.advance(5_000);
    drain(&mut world, 0, "disk");
    assert_eq!(world.kinds().iter().filter(|kind| **kind == "nodeDrained").count(), 1);
    drain(&mut world, 0, "disk and fan");
    assert_eq!(
        (world.drains[&node(0)].since, world.drains[&node(0)].reason.as_str()),
        (since, "disk and fan")
    );
}

#[test]
fn verbs_on_a_node_that_never_joined_are_told_so() {
    let mut world = World::new(true);
    for event in [
        Event::NodeDrained { reply: ReplyTo(0), node: node(0), reason: String::new() },
        Event::NodeResumed { reply: ReplyTo(0), node: node(0) },
        Event::NodeDeclaredLost { reply: ReplyTo(0), node: node(0), force: true },
    ] {
        world.answers.clear();
        world.event(event, false);
        assert!(
            matches!(&world.answers[..], [Answer::NoSuchNode(id)] if *id == node(0)),
            "{:?}",
            world.answers
        );
    }
}

#[test]
fn a_connected_node_is_not_declared_lost_but_by_force() {
    let mut world = World::new(true);
    (0..2).for_each(|n| world.connect(n));
    world.submit(0, spec(1, false, 0));
    world.obey(0);
    world.answers.clear();
    world.event(Event::NodeDeclaredLost { reply: ReplyTo(0), node: node(0), force: false }, false);
    assert!(matches!(world.answers[..], [Answer::NodeConnected(_)]), "{:?}", world.answers);
    assert_eq!(world.gang_of(1), 1);
    world.event(Event::NodeDeclaredLost { reply: ReplyTo(0), node: node(0), force: true }, false);
    assert_eq!(world.gang_of(1), 0, "its gang is given up");
    world.obey(0);
    assert!(!world.runs_on(0), "and ended there");
    world.settle();
}

#[test]
fn fault_12_a_kept_job_starts_elsewhere_once_its_node_is_declared_lost() {
    let mut world = World::new(true);
    (0..2).for_each(|n| world.connect(n));
    world.submit(0, spec(1, false, 0));
    world.obey(0);
    world.disconnect(0);
    world.advance(500_000_000);
    assert_eq!(world.gang_of(1), 1, "no time is enough");
    world.gone(0);
    world.advance(2_000);
    assert_eq!(world.gang_of(1), 2);
    let JobPhase::Active(gang) = &world.job(1).phase else { panic!("not active") };
    assert_eq!(gang.nodes[0].node, node(1));
    assert_eq!(world.job(1).retries_used, 0);
    assert!(world.kinds().contains(&"nodeDeclaredLost"));
    world.settle();
    assert_eq!(*world.reason_of(1), EndReason::Succeeded);
}

#[test]
fn a_node_that_was_declared_lost_and_comes_back_ends_what_it_holds_and_takes_nothing_new() {
    let mut world = World::new(true);
    world.connect(0);
    world.submit(0, spec(1, false, 0));
    world.obey(0);
    world.disconnect(0);
    world.event(Event::NodeDeclaredLost { reply: ReplyTo(0), node: node(0), force: false }, false);
    assert!(world.runs_on(0), "the operator was wrong");
    world.connect(0);
    world.advance(120_000);
    assert_eq!(world.gang_of(1), 0, "nothing new until somebody has looked");
    world.obey(0);
    assert!(!world.runs_on(0));
    world.settle();
}
