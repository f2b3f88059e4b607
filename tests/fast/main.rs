//! Fast tests: no process, no network, no root.

mod step;
mod tidy;
