//! The example that needs only Python and numpy, as a user runs it.

use std::fs;
use std::path::Path;
use std::process::Command;

use trainyard_tests::{Sandbox, repository};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            // What earlier runs have left in a checkout is not part of the example.
            if !from.ends_with("results") { copy(&from, &to) } else { fs::create_dir(&to).expect("a folder") }
        } else {
            fs::copy(&from, &to).expect("a copy");
        }
    }
}

#[test]
fn the_parameter_server_example_trains_and_leaves_its_model() {
    let sandbox = Sandbox::new();
    copy(&repository().join("examples"), &sandbox.path("examples"));
    // The same environment as a job's preparation makes, so that a failing pip is no failing Trainyard.
    let prepared = Command::new(sandbox.path("examples/common/prepare-env.sh"))
        .arg(sandbox.path("examples/parameter-server/requirements.txt"))
        .output();
    match prepared {
        Ok(output) if output.status.success() => {}
        other => {
            trainyard_tests::skipped(&format!("numpy cannot be installed for the example: {other:?}"));
            return;
        }
    }
    let cache = std::env::var("TRAINYARD_CACHE").ok();
    let xdg = std::env::var("XDG_CACHE_HOME").ok().map(|folder| format!("{folder}/trainyard"));
    let home = std::env::var("HOME").ok().map(|folder| format!("{folder}/.cache/trainyard"));
    let cache = cache.or(xdg).or(home).expect("HOME is set");
    let file = sandbox.text("examples/parameter-server/job.json");
    let done = sandbox.run(["run", &file, "-o", "json", "-e", &format!("TRAINYARD_CACHE={cache}")]).expect(0);
    let job = done.last_line_json();
    let segment = job["properties"]["jobOutputDirectoryPathSegment"].as_str().expect("a segment");
    let results = sandbox.path("examples/parameter-server/results").join(segment);
    let log = fs::read_to_string(results.join("stdouterr/stdout-wk-0.txt")).expect("the log of worker 0");
    let accuracy =
        log.lines().rev().find_map(|line| line.strip_prefix("test accuracy ")?.trim().parse::<f64>().ok());
    assert!(accuracy.is_some_and(|accuracy| accuracy > 0.9), "{log}");
    let model = fs::metadata(results.join("outputs/model/model.npz")).expect("the model");
    assert!(model.len() > 0);
}
