//! How much memory the machine has.

use crate::metric::meminfo::MemInfo;

/// All of it, in bytes; 0 if unknown.
pub(super) fn total_bytes() -> u64 {
    std::fs::read("/proc/meminfo").map(|file| MemInfo::parse(&file).total_bytes).unwrap_or_default()
}
