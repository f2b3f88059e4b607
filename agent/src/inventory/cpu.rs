//! How many processors, and of what make.
//!
//! The count is std's: it heeds affinity masks and CPU quotas, `sysinfo` counts what the kernel has online.

use sysinfo::{CpuRefreshKind, System};

/// The processors of this machine.
pub(super) struct Cpu {
    /// Those that this process may use: fewer than the machine has under an affinity mask or a CPU quota.
    pub(super) count: u32,
    /// As `Intel(R) Xeon(R) Platinum 8480C`; empty if the kernel does not tell (some ARM).
    pub(super) model: String,
}

pub(super) fn look() -> Cpu {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Cpu { count: u32::try_from(count).unwrap_or(u32::MAX), model: model().unwrap_or_default() }
}

fn model() -> Option<String> {
    let mut system = System::new().ok()?;
    // Neither usage nor frequencies: the latter is a file per processor.
    system.refresh_cpu_list(CpuRefreshKind::nothing());
    let brand = system.cpus().iter().map(sysinfo::Cpu::brand).find(|brand| !brand.is_empty())?;
    // Some makers fill up with blanks.
    Some(brand.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_the_kernels() {
        let file = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let Some(line) = file.lines().find(|line| line.starts_with("model name")) else {
            eprintln!("SKIPPED: this kernel names no model");
            return;
        };
        let (_, told) = line.split_once(':').unwrap();
        // Of an ARM core `sysinfo` knows a better name than the kernel.
        if cfg!(target_arch = "x86_64") {
            let told: Vec<&str> = told.split_whitespace().collect();
            assert_eq!(look().model, told.join(" "));
        } else {
            assert_ne!(look().model, "");
        }
    }

    #[test]
    fn no_more_processors_than_the_kernel_has() {
        let file = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let online = file.lines().filter(|line| line.starts_with("processor")).count();
        let count = look().count as usize;
        assert!((1..=online).contains(&count), "{count} of {online}");
    }
}
