//! Rules of docs/style.md that a program can check.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Every Rust file of the workspace, by path from its root.
fn rust_files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["core", "proto", "coordinator", "agent", "cli", "tests"].iter().map(|d| root().join(d)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace").flatten() {
            let path = entry.path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).expect("a readable file")));
            }
        }
    }
    assert!(found.len() > 50, "the walk found only {} files: is the layout still as expected?", found.len());
    found
}

/// Fails with every file for which `wrong` says why.
fn check(rule: &str, wrong: impl Fn(&str, &str) -> Option<String>) {
    let bad: Vec<String> = rust_files()
        .iter()
        .filter_map(|(name, text)| Some(format!("{name}: {}", wrong(name, text)?)))
        .collect();
    assert!(bad.is_empty(), "{rule}\n  {}", bad.join("\n  "));
}

/// Lines of code: without comments, and without what follows `#[cfg(test)]` at the end of a file.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..end].lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[test]
fn core_reaches_nothing_outside() {
    let banned = [
        "tokio",
        "std::fs",
        "std::net",
        "std::process",
        "std::thread",
        "Instant::now",
        "SystemTime",
        "rand::",
        "getrandom",
    ];
    check("core decides; it has no runtime, file, socket, process, clock or randomness", |name, text| {
        if !name.starts_with("core/src/") {
            return None;
        }
        code(text).find_map(|(n, line)| {
            banned.iter().find(|word| line.contains(**word)).map(|word| format!("line {} uses {word}", n + 1))
        })
    });
}

#[test]
fn unsafe_stands_in_sys_files_only() {
    check("`unsafe` belongs in a file named sys.rs, each with a SAFETY comment", |name, text| {
        if name.ends_with("/sys.rs") || name.ends_with("tidy.rs") {
            return None;
        }
        code(text).find_map(|(n, line)| {
            let word =
                line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe impl");
            word.then(|| format!("line {}", n + 1))
        })
    });
}

#[test]
fn wire_types_stay_at_the_edge() {
    let edge = [
        "proto/",
        "coordinator/src/grpc",
        "coordinator/src/metrics.rs",
        "agent/src/link",
        "agent/src/spool",
        "agent/src/inventory",
        "agent/src/metric",
        "agent/src/gpu",
        "agent/src/wire.rs",
        "agent/src/node.rs",
        "agent/src/files.rs",
        "agent/src/driver",
        "tests/",
        "coordinator/tests/",
        "agent/tests/",
    ];
    check("generated wire types appear at the edge only; elsewhere use core's types", |name, text| {
        if edge.iter().any(|e| name.starts_with(e)) {
            return None;
        }
        code(text)
            .find_map(|(n, line)| line.contains("trainyard_proto::v1").then(|| format!("line {}", n + 1)))
    });
}

#[test]
fn every_file_says_what_it_holds() {
    check("the first line of a file is `//!` and says what it holds", |_, text| {
        let first = text.lines().next().unwrap_or_default();
        (!first.starts_with("//! ") || first.len() < 12).then(|| format!("begins with {first:?}"))
    });
}

#[test]
fn no_test_is_switched_off_and_nothing_is_left_undone() {
    let banned = ["#[ignore", "todo!(", "unimplemented!(", "dbg!("];
    check("finish it, or say in the closing note that it is missing", |name, text| {
        if name.ends_with("tidy.rs") {
            return None;
        }
        banned.iter().find(|word| text.contains(**word)).map(|word| format!("has {word}"))
    });
}

#[test]
fn files_are_named_by_their_noun() {
    let banned = ["utils", "util", "common", "helper", "helpers", "manager", "misc"];
    check("a file is named by its noun", |name, _| {
        let stem = Path::new(name).file_stem()?.to_string_lossy().into_owned();
        banned.contains(&stem.as_str()).then(|| "names no noun".to_owned())
    });
}

#[test]
fn crate_edges_are_as_drawn() {
    let allowed: [(&str, &[&str]); 6] = [
        ("core", &[]),
        ("proto", &["core"]),
        ("coordinator", &["core", "proto"]),
        ("agent", &["core", "proto"]),
        ("agent/shim", &["core"]),
        ("cli", &["core", "coordinator", "agent"]),
    ];
    for (folder, edges) in allowed {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a manifest");
        let normal = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        for line in normal.lines().filter(|line| line.starts_with("trainyard-")) {
            let used =
                line.trim_start_matches("trainyard-").split([' ', '.', '=']).next().unwrap_or_default();
            assert!(
                edges.contains(&used),
                "{folder} must not depend on {used}: ARCHITECTURE.md draws the edges"
            );
        }
    }
}

#[test]
fn shell_scripts_parse() {
    let mut scripts = vec![root().join(".ci/run")];
    for folder in ["scripts", "examples/common"] {
        for entry in fs::read_dir(root().join(folder)).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            if text.starts_with("#!") && text.lines().next().is_some_and(|line| line.contains("bash")) {
                scripts.push(entry.path());
            }
        }
    }
    for script in scripts {
        let out = std::process::Command::new("bash").arg("-n").arg(&script).output().expect("bash runs");
        assert!(out.status.success(), "{}: {}", script.display(), String::from_utf8_lossy(&out.stderr));
    }
}
