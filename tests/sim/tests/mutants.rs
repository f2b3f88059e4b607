//! Every planted bug is caught; and every bug of the list is planted. Built with `--cfg mutants` in a target directory
//! of its own (scripts/mutants) the first test runs, without it the second one.

use trainyard_sim::mutants::ALL;

/// Each must be caught by one of so many seeds.
#[cfg(mutants)]
const SEEDS: u64 = 1_000;

#[cfg(mutants)]
#[test]
fn every_planted_bug_is_caught() {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    // Panics of planted bugs are caught and counted: they need not be printed.
    std::panic::set_hook(Box::new(|_| {}));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (next, found) = (AtomicUsize::new(0), Mutex::new(vec![None; ALL.len()]));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((n, mutant)) =
                    Some(next.fetch_add(1, Ordering::SeqCst)).and_then(|n| Some((n, ALL.get(n)?)))
                {
                    let kill = trainyard_sim::mutants::hunt(mutant.0, 1..=SEEDS, 120);
                    let seed = kill.as_ref().map_or(0, |kill| kill.seed);
                    println!(
                        "{}: {}",
                        mutant.0,
                        if seed > 0 { format!("seed {seed}") } else { "SURVIVES".to_owned() }
                    );
                    found.lock().expect("no thread panics")[n] = Some(kill);
                }
            });
        }
    });
    drop(std::panic::take_hook());
    let found = found.into_inner().expect("no thread panics");
    let mut alive = Vec::new();
    println!("| planted bug | what is wrong then | caught by seed | invariant |");
    println!("| --- | --- | --- | --- |");
    for ((name, bug), kill) in ALL.iter().zip(found) {
        match kill.flatten() {
            Some(kill) => println!("| {name} | {bug} | {} | {} |", kill.seed, kill.violation.invariant),
            None => {
                println!("| {name} | {bug} | none of {SEEDS} | |");
                alive.push(*name);
            }
        }
    }
    assert!(alive.is_empty(), "no seed catches {alive:?}");
    assert!(ALL.len() >= 25);
    trainyard_core_is_sound_without_them();
}

/// The same seeds find nothing in the unchanged cores: they catch the bugs, not themselves.
#[cfg(mutants)]
fn trainyard_core_is_sound_without_them() {
    let found = trainyard_sim::mutants::hunt("", 1..=50, 120);
    assert!(found.is_none(), "without any planted bug: {found:?}");
}

#[cfg(not(mutants))]
#[test]
fn every_bug_of_the_list_is_planted_and_no_other() {
    use std::collections::BTreeSet;
    use std::path::Path;

    fn read(folder: &Path, text: &mut String) {
        for entry in std::fs::read_dir(folder).expect("a folder of the workspace").flatten() {
            let path = entry.path();
            if path.is_dir() {
                read(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(&path).expect("a readable file"));
            }
        }
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    read(&here.join("../../core/src"), &mut text);
    read(&here.join("src/world"), &mut text);
    let planted: BTreeSet<&str> = text
        .split("mutant!(\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .filter(|name| *name != "name")
        .collect();
    let listed: BTreeSet<&str> = ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(planted, listed);
}
