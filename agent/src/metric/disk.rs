//! What the machine's disks move. Source: `/proc/diskstats`, the kernel's `admin-guide/iostats`.

use std::collections::BTreeMap;
use std::path::Path;

use super::procfile::{ProcFile, lines};
use super::{Context, Desc, Out, Probe, Source};

const READ: Desc =
    Desc::counter("host_disk_read_bytes_total", "Bytes read from this disk since boot.", &["device"]);
const WRITTEN: Desc =
    Desc::counter("host_disk_written_bytes_total", "Bytes written to this disk since boot.", &["device"]);

/// The unit of the kernel's file, whatever the disk's own sectors are.
const SECTOR_BYTES: u64 = 512;
/// Disks told of; a machine with more tells the first ones.
const DISKS_MAX: usize = 64;

pub(super) const SOURCE: Source = Source {
    descs: &[&READ, &WRITTEN],
    start: || Box::new(Disks { file: ProcFile::new("/proc/diskstats"), whole: BTreeMap::new() }),
};

struct Disks {
    file: ProcFile,
    /// Whether a device is a disk and not a part of one.
    whole: BTreeMap<String, bool>,
}

impl Probe for Disks {
    fn sample(&mut self, _: &Context<'_>, out: &mut Out) {
        let Some(file) = self.file.read() else { return };
        let mut told = 0;
        for (name, read, written) in lines(file).filter_map(parse) {
            let whole = match self.whole.get(name) {
                Some(whole) => *whole,
                None => {
                    let whole = Path::new("/sys/block").join(name.replace('/', "!")).exists();
                    if self.whole.len() < 16 * DISKS_MAX {
                        self.whole.insert(name.to_owned(), whole);
                    }
                    whole
                }
            };
            if whole && told < DISKS_MAX {
                told += 1;
                out.count(&READ, &[("device", name)], read);
                out.count(&WRITTEN, &[("device", name)], written);
            }
        }
    }
}

/// Name, bytes read, bytes written; `None` for what is no disk.
fn parse(line: &str) -> Option<(&str, u64, u64)> {
    let mut fields = line.split_ascii_whitespace().skip(2);
    let name = fields.next()?;
    if ["loop", "ram", "zram", "fd", "sr"].iter().any(|kind| name.starts_with(kind)) {
        return None;
    }
    // reads, merged, sectors, ms; writes, merged, sectors, ...
    let read: u64 = fields.nth(2)?.parse().ok()?;
    let written: u64 = fields.nth(3)?.parse().ok()?;
    Some((name, read.saturating_mul(SECTOR_BYTES), written.saturating_mul(SECTOR_BYTES)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sectors_become_bytes() {
        let line = " 259       0 nvme0n1 1000 20 3000 40 500 60 7000 80 0 90 100 0 0 0 0 0 0";
        assert_eq!(parse(line), Some(("nvme0n1", 3000 * 512, 7000 * 512)));
        assert_eq!(parse("   7       0 loop0 1 2 3 4 5 6 7 8"), None);
        assert_eq!(parse("8 0 sda 1 2"), None);
    }

    proptest! {
        #[test]
        fn any_line_is_survived(line in "([0-9]+ )?([0-9]+ )?.*", numbers in proptest::collection::vec(any::<u64>(), 7..11)) {
            assert_eq!(parse(&line), parse(&line));
            let good = numbers.iter().fold("8 0 sda".to_owned(), |text, number| format!("{text} {number}"));
            prop_assert_eq!(parse(&good), Some(("sda", numbers[2].saturating_mul(512), numbers[6].saturating_mul(512))));
        }
    }
}
