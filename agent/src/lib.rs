//! The agent of one node: a shell around `core::agent`.
//!
//! ```text
//! coordinator <- link -> driver -> supervisor -> shims        spool -> link (log upload)
//!                          |  '-> setup, spool, files, local      '-> copier -> std_dir
//!                        journal
//! ```
//! `driver` is the one loop; everything else hands it events and carries out its effects. Ending an agent
//! in any way sends no signal to a task: the next one adopts them.

pub mod config;
mod driver;
mod files;
pub mod gpu;
pub mod inventory;
pub mod journal;
mod link;
pub mod local;
pub mod metric;
mod node;
pub mod setup;
pub mod spool;
pub mod supervisor;
mod systemd;
mod wire;

pub use config::{AgentConfig, ConfigError};
pub use wire::{AgentError, serve, serve_with_gpus};
