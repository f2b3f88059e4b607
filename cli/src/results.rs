//! Where the results of a job lie on this machine, read from its plan. Pure, but for looking at mounts.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A directory with results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// `logs`, or the id of an output directory.
    pub(crate) what: String,
    /// Absolute, on the node; through a mounted directory of the node to where it really lies.
    pub(crate) path: PathBuf,
}

/// The log directory and every output directory of a plan, each once.
pub(crate) fn places(plan: &Value) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    let mut add = |what: &str, path: &str, mounts: &Value| {
        let place = Place { what: what.to_owned(), path: real_path(path, mounts) };
        if !places.contains(&place) {
            places.push(place);
        }
    };
    let nodes = plan["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    for node in nodes {
        if let Some(path) = node["stdDir"].as_str() {
            add("logs", path, &node["hostMounts"]);
        }
    }
    for node in nodes {
        let tasks = node["tasks"].as_array().map(Vec::as_slice).unwrap_or_default();
        let commands = tasks.iter().map(|task| &task["command"]).chain([&node["preparation"]]);
        for (name, value) in commands.filter_map(|command| command["env"].as_object()).flatten() {
            if let (Some(id), Some(path)) = (name.strip_prefix("AZ_BATCHAI_OUTPUT_"), value.as_str()) {
                add(id, path, &node["hostMounts"]);
            }
        }
    }
    places
}

/// A path below a mounted directory of the node is that directory's.
fn real_path(path: &str, mounts: &Value) -> PathBuf {
    let path = Path::new(path);
    let mounts = mounts.as_array().map(Vec::as_slice).unwrap_or_default();
    let inside = mounts.iter().filter_map(|mount| {
        let (source, target) = (mount["source"].as_str()?, mount["target"].as_str()?);
        let rest = path.strip_prefix(target).ok()?;
        Some((target.len(), Path::new(source).join(rest)))
    });
    let deepest = inside.max_by_key(|(length, _)| *length);
    // `join` of an empty rest would leave a slash at the end.
    deepest.map_or_else(|| path.to_owned(), |(_, real)| real.components().collect())
}

/// Whether something is mounted below this directory, given the text of `/proc/self/mountinfo`.
pub(crate) fn has_mounts_below(dir: &Path, mountinfo: &str) -> bool {
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).any(|point| {
        // Blanks, tabs, newlines and backslashes stand as octal numbers.
        let point =
            point.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
        Path::new(&point).starts_with(dir)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn results_are_found_where_they_really_lie() {
        let mount =
            |source: &str, target: &str| json!({"source": source, "target": target, "readOnly": false});
        let node = |name: &str| {
            json!({
                "node": name,
                "stdDir": "/s/mounts/out/seg/stdouterr",
                "hostMounts": [mount("/home/u", "/s/mounts"), mount("/data/out", "/s/mounts/out")],
                "tasks": [{"command": {"env": {
                    "AZ_BATCHAI_OUTPUT_MODEL": "/s/mounts/out/seg/outputs/model",
                    "AZ_BATCHAI_OUTPUT_ROOT": "/s/mounts/out",
                    "AZ_BATCHAI_OUTPUT_LOCAL": format!("/s/{name}/local"),
                    "HOME": "/root"}}}]})
        };
        let found = places(&json!({"nodes": [node("node-0"), node("node-1")]}));
        let found: Vec<_> = found.iter().map(|p| (p.what.as_str(), p.path.to_str().unwrap())).collect();
        let expected = [
            ("logs", "/data/out/seg/stdouterr"),
            ("MODEL", "/data/out/seg/outputs/model"),
            ("ROOT", "/data/out"),
            ("LOCAL", "/s/node-0/local"),
            ("LOCAL", "/s/node-1/local"),
        ];
        assert_eq!(found, expected);
        assert!(places(&json!(null)).is_empty());
    }

    #[test]
    fn mounts_below_a_directory_are_seen() {
        let info = "22 1 0:20 / /proc rw shared:1 - proc proc rw\n40 1 8:1 / /s/a\\040b/nodes/0 rw - ext4 /dev/sda rw\n";
        assert!(has_mounts_below(Path::new("/s/a b"), info));
        assert!(!has_mounts_below(Path::new("/s/a"), info));
        assert!(has_mounts_below(Path::new("/proc"), info));
    }
}
