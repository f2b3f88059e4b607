//! Fast tests: no process, no network, no root.

mod plan;
mod step;
mod tidy;
