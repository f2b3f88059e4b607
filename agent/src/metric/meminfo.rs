//! `/proc/meminfo`: read by the inventory and by the memory probe. Source: proc(5).

use super::procfile::lines;

/// Bytes; 0 where the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemInfo {
    pub(crate) total_bytes: u64,
    pub(crate) available_bytes: u64,
    pub(crate) swap_total_bytes: u64,
    pub(crate) swap_free_bytes: u64,
}

impl MemInfo {
    pub(crate) fn parse(file: &[u8]) -> MemInfo {
        let mut info = MemInfo::default();
        for line in lines(file) {
            let Some((key, value)) = line.split_once(':') else { continue };
            let slot = match key {
                "MemTotal" => &mut info.total_bytes,
                "MemAvailable" => &mut info.available_bytes,
                "SwapTotal" => &mut info.swap_total_bytes,
                "SwapFree" => &mut info.swap_free_bytes,
                _other_line => continue,
            };
            // The file says kB and means KiB.
            let kib: Option<u64> =
                value.split_ascii_whitespace().next().and_then(|number| number.parse().ok());
            *slot = kib.unwrap_or(0).saturating_mul(1024);
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn kib_become_bytes() {
        let file = b"MemTotal:       24684636 kB\nMemFree: 1 kB\nMemAvailable:   24000000 kB\nSwapTotal: 8 kB\nSwapFree: x\n";
        let info = MemInfo::parse(file);
        assert_eq!(info.total_bytes, 24_684_636 * 1024);
        assert_eq!(info.available_bytes, 24_000_000 * 1024);
        assert_eq!((info.swap_total_bytes, info.swap_free_bytes), (8192, 0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), number in any::<u64>()) {
            assert_eq!(MemInfo::parse(&bytes), MemInfo::parse(&bytes));
            let info = MemInfo::parse(format!("MemTotal: {number}").as_bytes());
            prop_assert_eq!(info.total_bytes, number.saturating_mul(1024));
        }
    }
}
