//! Job files of others: all validate; what is not built never runs.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use trainyard_tests::{Sandbox, custom, shared, with};

/// Every job file below the folder: clusters and file servers have no `nodeCount`.
fn job_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            found.extend(job_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "json")
            && fs::read_to_string(&path).is_ok_and(|text| text.contains("\"nodeCount\""))
        {
            found.push(path);
        }
    }
    found
}

#[test]
fn every_job_file_of_batch_ais_recipes_and_cli_validates() {
    let Some(folder) = shared("batchai") else {
        trainyard_tests::skipped("the recipes of Batch AI are not beside this checkout");
        return;
    };
    let (recipes, cli) = (job_files(&folder.join("recipes")), job_files(&folder.join("cli")));
    assert_eq!((recipes.len(), cli.len()), (17, 5));
    let sandbox = Sandbox::new();
    for file in recipes.iter().chain(&cli) {
        let path = file.to_str().expect("a UTF-8 path");
        let done = sandbox.run(["job", "validate", path]);
        assert_eq!(done.code, 0, "{path}: {}", done.stderr);
    }
}

#[test]
fn a_container_job_fails_with_not_built_and_starts_no_process() {
    let sandbox = Sandbox::new();
    let ran = sandbox.text("audit/ran");
    let container = json!({
        "containerSettings": { "imageSourceRegistry": { "image": "tensorflow/tensorflow:1.8.0" } },
        "jobPreparation": { "commandLine": format!("touch {ran}") },
    });
    let file = sandbox.job("job", with(custom(&format!("touch {ran}")), &container));
    let checked = sandbox.run(["job", "validate", &file]).expect(0);
    assert!(checked.stderr.contains("not built yet: containerSettings"), "{}", checked.stderr);
    let job = sandbox.run(["run", &file, "-o", "json"]).expect(1).last_line_json();
    assert_eq!(job["properties"]["executionState"], "failed");
    let error = &job["properties"]["executionInfo"]["errors"][0];
    // Nothing was started, so it may have no times; the reason is there in any case.
    assert_eq!(job["properties"]["trainyard"]["reason"]["code"], "NotBuilt", "{error} {job:#}");
    assert!(!sandbox.path("audit/ran").exists(), "a container job ran on the host");
}
