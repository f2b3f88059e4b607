//! Builds the shim as a small static binary for `src/shim_binary.rs` to carry, and finds the commit's name.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("..").canonicalize()?;
    build_shim(&root)?;
    println!("cargo:rustc-env=TRAINYARD_COMMIT={}", commit(&root));
    Ok(())
}

/// A nested build with a target folder of its own, so that it waits for no lock of the outer one.
fn build_shim(root: &Path) -> Result<(), Failure> {
    let sources = [
        "agent/shim",
        "core/Cargo.toml",
        "core/src/id.rs",
        "core/src/unit.rs",
        "core/src/shim.rs",
        "core/src/shim",
        "Cargo.toml",
        "Cargo.lock",
    ];
    for source in sources {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let target = env::var("TARGET")?;
    let mut cargo = Command::new(env::var("CARGO")?);
    cargo.current_dir(root).args(["build", "--quiet", "--package", "trainyard-shim", "--profile", "shim"]);
    cargo.arg("--target").arg(&target).arg("--target-dir").arg(out.join("shim"));
    if root.join("Cargo.lock").exists() {
        cargo.arg("--locked");
    }
    // Static and at a fixed address: half the private memory of a position-independent binary.
    let flags = ["-Ctarget-feature=+crt-static", "-Crelocation-model=static"];
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    // Clippy and coverage wrap the compiler of the outer build; and its target-specific settings are not ours.
    for name in
        ["RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR", "CLIPPY_ARGS"]
    {
        cargo.env_remove(name);
    }
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("building trainyard-shim ended with {status}").into());
    }
    let built = out.join("shim").join(&target).join("shim/trainyard-shim");
    std::fs::copy(built, out.join("trainyard-shim"))?;
    Ok(())
}

/// The commit that is built, twelve digits; `unknown` outside of a checkout.
fn commit(root: &Path) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    // HEAD changes with a checkout, its log and the branch's file with a commit.
    let branch = git(&["symbolic-ref", "-q", "HEAD"]);
    for name in ["HEAD", "logs/HEAD"].into_iter().chain(branch.as_deref()) {
        let path = git(&["rev-parse", "--git-path", name]).map(|path| root.join(path));
        if let Some(path) = path.filter(|path| path.exists()) {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
}
