//! The shim: the small process that owns one attempt of a task.
//!
//! It is started by the agent with the attempt's run directory as working directory and a listening unix
//! socket as stdin, takes one `Launch`, starts the program, and stays until nothing of it is left. It needs
//! no agent to keep the exit record or to honour the fence, and it opens no path of a user: only its run
//! directory, the spool files and the cgroups.
//!
//! `driver` performs what `core::shim::Attempt` decides; `exec` starts the program; `tree` finds and signals
//! its processes; `record` writes the run directory's files; `sys` holds every system call and the entry point.

// The runtime that std starts before `main` costs time and memory for things that the shim does not need.
#![no_main]

mod driver;
mod exec;
mod record;
mod sys;
mod tree;

/// Called by the entry point in [`sys`]; returns the exit code.
fn run() -> i32 {
    sys::become_owner();
    match driver::run() {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(1),
    }
}
