//! The programs under test, built once: `trainyard` by cargo, in the profile and target folder of this test;
//! the fake NVML by the C compiler.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::build::must;

/// The root of the checkout.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is a folder of the checkout")
}

/// Reference data that stands beside a checkout in some places; `None` where it is absent.
#[must_use]
pub fn shared(below: &str) -> Option<PathBuf> {
    let path = repository().parent()?.join("shared").join(below);
    path.exists().then_some(path)
}

/// The program `trainyard`.
///
/// # Panics
/// It cannot be built.
#[must_use]
pub fn trainyard() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(repository()).args(["build", "--package", "trainyard", "--message-format", "json"]);
        cargo.arg("--target-dir").arg(target_dir());
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        let messages = must(&mut cargo);
        let messages =
            messages.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let mut found = messages.filter_map(|message: serde_json::Value| {
            let is_it = message["target"]["name"] == "trainyard" && message["reason"] == "compiler-artifact";
            is_it.then(|| message["executable"].as_str().map(PathBuf::from))?
        });
        found.next_back().expect("cargo tells where it has put the program")
    })
}

/// The folder that this test itself was built into: `<target>/<profile>/deps/node-...`.
fn target_dir() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let deps = test.parent().filter(|deps| deps.ends_with("deps"));
    let target = deps.and_then(|deps| deps.ancestors().nth(2)).map(Path::to_owned);
    // A test that was moved away from there.
    let given = || std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.or_else(given).unwrap_or_else(|| repository().join("target"))
}

/// The fake NVML library; `None`, with a line that says so, where there is no C compiler.
#[must_use]
pub fn fake_nvml() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        if Command::new("cc").arg("--version").output().is_err() {
            crate::skipped("there is no C compiler to build the fake NVML");
            return None;
        }
        let folder = target_dir().join("trainyard-tests");
        std::fs::create_dir_all(&folder).expect("a folder for the fake NVML");
        // Other test programs may load the library while this one builds it.
        let (library, new) =
            (folder.join("libfake-nvml.so"), folder.join(format!("new-{}.so", std::process::id())));
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o"]).arg(&new);
        must(cc.arg(repository().join("agent/fake-nvml/fake_nvml.c")).arg("-ldl"));
        std::fs::rename(&new, &library).expect("the library in its place");
        Some(library)
    });
    built.as_deref()
}
