//! How much memory the machine has.

use sysinfo::{MemoryRefreshKind, System};

/// All of it, in bytes; 0 if unknown.
pub(super) fn total_bytes() -> u64 {
    let Ok(mut system) = System::new() else { return 0 };
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    system.total_memory()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::meminfo::MemInfo;

    #[test]
    fn as_much_as_the_metric_says() {
        let file = std::fs::read("/proc/meminfo").unwrap();
        assert_eq!(total_bytes(), MemInfo::parse(&file).total_bytes);
    }
}
