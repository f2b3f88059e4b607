//! How busy the machine's processors are. Source: `/proc/stat`, proc(5).

use super::procfile::{ProcFile, lines};
use super::{Context, Desc, Out, Probe, Source};

const UTILIZATION: Desc =
    Desc::gauge("host_cpu_utilization_ratio", "Part of all processors' time spent working, 0 to 1.", &[]);

pub(super) const SOURCE: Source = Source {
    descs: &[&UTILIZATION],
    start: || Box::new(Cpu { file: ProcFile::new("/proc/stat"), last: None }),
};

struct Cpu {
    file: ProcFile,
    last: Option<Times>,
}

impl Probe for Cpu {
    fn sample(&mut self, _: &Context<'_>, out: &mut Out) {
        let now = self.file.read().and_then(Times::parse);
        if let (Some(last), Some(now)) = (self.last, now) {
            out.push_some(&UTILIZATION, &[], now.utilization_since(last));
        }
        self.last = now;
    }
}

/// Of all processors since boot, in the kernel's ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    busy: u64,
    idle: u64,
}

impl Times {
    fn parse(file: &[u8]) -> Option<Times> {
        let line = lines(file).next()?.strip_prefix("cpu ")?;
        // user nice system idle iowait irq softirq steal; guest time is part of user.
        let mut ticks = [0u64; 8];
        let mut fields = line.split_ascii_whitespace();
        for (index, tick) in ticks.iter_mut().enumerate() {
            match fields.next() {
                Some(field) => *tick = field.parse().ok()?,
                None if index >= 4 => break,
                None => return None,
            }
        }
        let [user, nice, system, idle, iowait, irq, softirq, steal] = ticks;
        let busy = [nice, system, irq, softirq, steal].into_iter().fold(user, u64::saturating_add);
        Some(Times { busy, idle: idle.saturating_add(iowait) })
    }

    /// `None` if no time has passed, or the counters went back.
    fn utilization_since(self, before: Times) -> Option<f64> {
        let busy = self.busy.checked_sub(before.busy)?;
        // The kernel may correct idle time downwards.
        let idle = self.idle.saturating_sub(before.idle);
        #[expect(clippy::cast_precision_loss, reason = "a ratio of ticks of seconds")]
        (busy.saturating_add(idle) > 0).then(|| busy as f64 / busy.saturating_add(idle) as f64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waiting_for_disks_is_not_work() {
        let before = Times::parse(b"cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 2 3 4\n").unwrap();
        let after = Times::parse(b"cpu  120 0 105 860 10 0 0 5 7 0\n").unwrap();
        assert_eq!(after.utilization_since(before), Some(0.3));
        assert_eq!(after.utilization_since(after), None);
        assert_eq!(before.utilization_since(after), None);
        assert_eq!(Times::parse(b"intr 1 2 3"), None);
        assert_eq!(Times::parse(b"cpu  1 2 3"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = [b"cpu ".as_slice(), &bytes].concat();
            let ratio = Times::parse(&text).and_then(|times| times.utilization_since(Times { busy: 0, idle: 0 }));
            prop_assert!(ratio.is_none_or(|ratio| (0.0..=1.0).contains(&ratio)));
        }

        #[test]
        fn a_ratio_is_a_ratio(numbers in proptest::collection::vec(any::<u64>(), 4..11)) {
            let text = numbers.iter().fold("cpu ".to_owned(), |text, number| format!("{text} {number}"));
            let times = Times::parse(text.as_bytes()).unwrap();
            let ratio = times.utilization_since(Times { busy: 0, idle: 0 });
            prop_assert!(ratio.is_none_or(|ratio| (0.0..=1.0).contains(&ratio)));
        }
    }
}
