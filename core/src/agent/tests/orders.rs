//! Commands that come twice, late, or in another order than they were given.

use super::*;

fn launches_of(world: &World, id: GangId) -> Vec<u32> {
    (0..2).map(|rank| world.launches.get(&id.attempt(Rank(rank))).copied().unwrap_or(0)).collect()
}

#[test]
fn fault_14_commands_that_come_twice_or_late_start_nothing_again() {
    let mut world = World::new();
    for _ in 0..2 {
        world.prepare(1, false, false);
        world.perform_all();
    }
    for _ in 0..2 {
        world.command(Command::Start(gang(1)));
        world.perform_all();
    }
    assert_eq!(launches_of(&world, gang(1)), [1, 1]);
    // The whole of it once more while it runs, after its end, and after it was released and forgotten.
    let again = |world: &mut World| {
        world.prepare(1, false, true);
        world.command(Command::Start(gang(1)));
        world.perform_all();
    };
    again(&mut world);
    for rank in [0, 1] {
        let attempt = gang(1).attempt(Rank(rank));
        world.end(attempt, ended(attempt, Exit::Code(0), EndCause::Itself));
    }
    world.perform_all();
    again(&mut world);
    world.command(Command::EndedAck(world.heard_ends.keys().copied().collect()));
    world.command(Command::Release(gang(1)));
    world.perform_all();
    again(&mut world);
    world.restart();
    world.connect();
    again(&mut world);
    assert_eq!(launches_of(&world, gang(1)), [1, 1]);
    assert_eq!(world.state.held(), []);
}

#[test]
fn fault_14_a_stop_that_overtakes_its_plan_prevents_every_launch() {
    let mut world = World::new();
    world.stop(gang(1));
    world.prepare(1, true, true);
    world.command(Command::Start(gang(1)));
    world.perform_all();
    world.restart();
    world.connect();
    world.prepare(1, true, true);
    world.perform_all();
    assert!(world.launches.is_empty(), "{:?}", world.launches);
    assert!(world.has_heard_the_end(gang(1)), "the coordinator knows that nothing of it runs");
}
