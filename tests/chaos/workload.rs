//! The jobs: what each asks for, and what it has to end with.

use std::path::Path;

use serde_json::{Value, json};
use trainyard_tests::with;

use crate::noise::Noise;

/// What a client does with a job after it was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Waits for its end.
    Run,
    /// Terminates it: at once, or when it runs.
    Cancel { at_once: bool },
    /// Deletes it: at once, or when it runs.
    Delete { at_once: bool },
}

/// A job.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) name: String,
    /// Tasks, each on a node of its own.
    pub(crate) ranks: u32,
    /// With which rank 0 ends after its failures; the others end with 0.
    pub(crate) code: i32,
    /// So many ends of rank 0 are with another code.
    pub(crate) failures: u32,
    pub(crate) retries: u32,
    /// Bytes of stdout and stderr.
    pub(crate) sizes: [usize; 2],
    /// In which they are written.
    pub(crate) pieces: usize,
    pub(crate) pause_ms: u64,
    /// Ignores SIGTERM.
    pub(crate) stubborn: bool,
    /// Leaves a child in a session of its own.
    pub(crate) daemon: bool,
    pub(crate) wish: Wish,
    /// Goes on until there is this file.
    pub(crate) until: Option<String>,
}

impl Plan {
    /// A plain job of this many tasks.
    pub(crate) fn new(name: &str, ranks: u32) -> Plan {
        Plan {
            name: name.to_owned(),
            ranks,
            code: 0,
            failures: 0,
            retries: 0,
            sizes: [50_000, 10_000],
            pieces: 5,
            pause_ms: 5,
            stubborn: false,
            daemon: false,
            wish: Wish::Run,
            until: None,
        }
    }

    /// One of a mixed load.
    pub(crate) fn draw(noise: &mut Noise, index: usize) -> Plan {
        let mut plan = Plan::new(&format!("job-{index:06}"), 1);
        plan.ranks = if noise.percent(30) { 2 + u32::try_from(noise.below(2)).expect("0 or 1") } else { 1 };
        let kib =
            |noise: &mut Noise, most: u64| usize::try_from(1024 + noise.below(most * 1024)).expect("small");
        plan.sizes = [kib(noise, 256), kib(noise, 64)];
        let is_long = noise.percent(25);
        plan.pieces = usize::try_from(if is_long { 40 } else { 2 + noise.below(8) }).expect("small");
        plan.pause_ms = if is_long { 50 } else { noise.below(30) };
        plan.daemon = noise.percent(15);
        match noise.below(20) {
            0..=2 => plan.code = 1 + i32::try_from(noise.below(6)).expect("below 6"),
            3 => (plan.code, plan.retries) = (9, 1),
            4 | 5 => (plan.failures, plan.retries) = (1, 2),
            6 | 7 => plan.wish = Wish::Cancel { at_once: noise.percent(30) },
            8 => plan.wish = Wish::Delete { at_once: noise.percent(30) },
            _ => {}
        }
        if plan.wish != Wish::Run {
            (plan.pieces, plan.pause_ms, plan.stubborn) = (100, 50, noise.percent(30));
        }
        plan
    }

    /// The name of a log file.
    pub(crate) fn file(&self, rank: u32, stream: usize) -> String {
        let kind = if stream == 0 { "stdout" } else { "stderr" };
        if self.ranks == 1 { format!("{kind}.txt") } else { format!("{kind}-{rank}.txt") }
    }

    /// What an attempt writes to stdout (0) or stderr (1).
    pub(crate) fn stream(&self, gang: u32, rank: u32, stream: usize) -> Vec<u8> {
        Noise::named(&format!("{}/{gang}/{rank}/{}", self.name, stream + 1)).bytes(self.sizes[stream])
    }

    /// Bytes of a stream after so many pieces.
    pub(crate) fn written(&self, stream: usize, pieces: usize) -> usize {
        self.sizes[stream] * pieces.min(self.pieces) / self.pieces
    }

    /// The body of its PUT.
    pub(crate) fn body(&self, script: &Path, audit: &Path, out: &Path) -> Value {
        let [stdout, stderr] = self.sizes;
        let mut line = format!(
            "{} {} {} {stdout} {stderr} {} {}",
            audit.display(),
            self.code,
            self.failures,
            self.pieces,
            self.pause_ms
        );
        for (extra, wanted) in [(" stubborn", self.stubborn), (" daemon", self.daemon)] {
            line.push_str(if wanted { extra } else { "" });
        }
        if let Some(file) = &self.until {
            line.push_str(&format!(" until={file}"));
        }
        let toolkit = if self.ranks == 1 {
            json!({ "customToolkitSettings": { "commandLine": format!("exec python3 {} {line}", script.display()) } })
        } else {
            json!({ "pyTorchSettings": { "pythonScriptFilePath": script, "commandLineArgs": line } })
        };
        let cluster = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/trainyard/providers/\
                       Microsoft.BatchAI/workspaces/default/clusters/default";
        let properties = json!({
            "cluster": { "id": cluster },
            "nodeCount": self.ranks,
            "retries": self.retries,
            "stdOutErrPathPrefix": out,
        });
        json!({ "properties": with(properties, &toolkit) })
    }
}

/// The task's program: a file of the checkout.
pub(crate) fn script() -> std::path::PathBuf {
    trainyard_tests::repository().join("tests/chaos/task.py")
}
