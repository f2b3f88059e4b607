//! Every decision that Trainyard takes, and nothing else.
//!
//! `spec` (what a user asks for) -> `place` (which nodes) -> `plan` (what each task is, to the last
//! variable) -> `coordinator::step` (when, and what after a failure). `shim` holds the decisions of the
//! small process that owns one attempt.
//!
//! This crate reaches no clock, file, socket, random source or runtime: time and ids are arguments.
//! Without the feature `full` only `shim` and what it needs is built, free of dependencies.

#[macro_use]
pub mod mutant;

pub mod id;
pub mod shim;
pub mod unit;

#[cfg(feature = "full")]
pub mod agent;
#[cfg(feature = "full")]
pub mod coordinator;
#[cfg(feature = "full")]
pub mod mount;
#[cfg(feature = "full")]
pub mod place;
#[cfg(feature = "full")]
pub mod plan;
#[cfg(feature = "full")]
pub mod session;
#[cfg(feature = "full")]
pub mod spec;
#[cfg(feature = "full")]
pub mod text;
#[cfg(feature = "full")]
pub mod toolkit;
