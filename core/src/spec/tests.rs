//! The door, seen from outside: what is refused and how, what is taken, and that nothing makes it panic.

mod bad_input;
mod good_input;
mod parts;
mod property;

use super::*;

/// The smallest job, in YAML; rows of a test add to it.
const SMALLEST: &str = "nodeCount: 1\nstdOutErrPathPrefix: $AZ_BATCHAI_JOB_MOUNT_ROOT/logs\n";
const CUSTOM: &str = "customToolkitSettings: {commandLine: 'true'}\n";

fn options(source: Source) -> Options {
    Options { source, ..Options::default() }
}

fn taken(document: &str, options: &Options) -> Read {
    read(document.as_bytes(), options).unwrap_or_else(|refusal| panic!("{document}\n{refusal}"))
}

fn refused(document: &str, options: &Options) -> Refusal {
    match read(document.as_bytes(), options) {
        Ok(_) => panic!("taken, but should be refused:\n{document}"),
        Err(refusal) => refusal,
    }
}
