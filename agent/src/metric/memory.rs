//! The machine's memory.

use super::meminfo::MemInfo;
use super::procfile::ProcFile;
use super::{Context, Desc, Out, Probe, Source};

const TOTAL: Desc = Desc::gauge("host_memory_total_bytes", "All memory of the machine.", &[]);
const USED: Desc = Desc::gauge("host_memory_used_bytes", "Memory that no new program could have.", &[]);
const SWAP: Desc = Desc::gauge("host_swap_used_bytes", "Memory that was moved out to disk.", &[]);

pub(super) const SOURCE: Source = Source {
    descs: &[&TOTAL, &USED, &SWAP],
    start: || Box::new(Memory { file: ProcFile::new("/proc/meminfo") }),
};

struct Memory {
    file: ProcFile,
}

impl Probe for Memory {
    fn sample(&mut self, _: &Context<'_>, out: &mut Out) {
        let Some(file) = self.file.read() else { return };
        let info = MemInfo::parse(file);
        out.count(&TOTAL, &[], info.total_bytes);
        out.count(&USED, &[], info.total_bytes.saturating_sub(info.available_bytes));
        out.count(&SWAP, &[], info.swap_total_bytes.saturating_sub(info.swap_free_bytes));
    }
}
