//! Job files and requests of the old service are read as they are. They lie beside the checkout; without them
//! this tests nothing, and says so.
#![allow(missing_docs, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use trainyard_core::spec::{self, Options, Read, Source, Warning};

fn taken(path: &Path, document: &str, options: &Options) -> Read {
    spec::read(document.as_bytes(), options).unwrap_or_else(|refusal| panic!("{}\n{refusal}", path.display()))
}

/// Job files of the old service, where this checkout has them beside it.
fn shared() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/batchai");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("SKIPPED: no {}", folder.display());
    None
}

fn files(folder: &Path, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| fits(&path.file_name().unwrap_or_default().to_string_lossy()));
    paths.sort();
    paths
}

#[test]
fn real_job_files_are_taken() {
    let Some(shared) = shared() else { return };
    let mut paths: Vec<PathBuf> = files(&shared.join("recipes"), |_| true)
        .iter()
        .flat_map(|recipe| files(recipe, |name| name.starts_with("job") && name.ends_with(".json")))
        .collect();
    assert_eq!(paths.len(), 17);
    paths.extend(files(&shared.join("cli"), |name| name.contains("job")));
    let samples = files(&shared.join("docs-samples"), |name| name.ends_with("job.json"));
    paths.extend(
        samples.into_iter().filter(|path| !fs::read_to_string(path).expect("text").contains("comment\"")),
    );
    assert!(paths.len() > 30, "{paths:?}");
    for path in paths {
        let text = fs::read_to_string(&path).expect("text");
        let read = taken(&path, &text, &Options::default());
        let odd = |warning: &&Warning| !warning.message.starts_with("not read: ");
        let odd: Vec<_> = read.warnings.iter().filter(odd).collect();
        assert!(odd.is_empty(), "{}: {odd:?}", path.display());
    }
}

#[test]
fn real_requests_are_taken() {
    let Some(shared) = shared() else { return };
    let mut count = 0;
    for era in ["sdk-2018-06", "cli-2018", "cli-2020-21"] {
        for path in files(&shared.join("recordings").join(era), |name| name.ends_with(".json")) {
            let exchanges: Value = serde_json::from_slice(&fs::read(&path).expect("bytes")).expect("JSON");
            for exchange in exchanges.as_array().expect("a list") {
                if exchange["method"] == "PUT"
                    && exchange["path"].as_str().is_some_and(|path| path.contains("/jobs/"))
                {
                    let options = Options { source: Source::RestBody, strict: true, ..Options::default() };
                    taken(&path, &exchange["request_body"].to_string(), &options);
                    count += 1;
                }
            }
        }
    }
    assert!(count >= 25, "{count} requests");
}
