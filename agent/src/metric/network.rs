//! What the machine's network interfaces move. Source: `/proc/net/dev`, proc(5).

use super::procfile::{ProcFile, lines};
use super::{Context, Desc, Out, Probe, Source};

const RECEIVED: Desc =
    Desc::counter("host_network_received_bytes_total", "Bytes received by this interface.", &["device"]);
const SENT: Desc =
    Desc::counter("host_network_sent_bytes_total", "Bytes sent by this interface.", &["device"]);

/// Interfaces told of; a machine with more tells the first ones.
const INTERFACES_MAX: usize = 64;

pub(super) const SOURCE: Source = Source {
    descs: &[&RECEIVED, &SENT],
    // Of the thread's own network namespace, and it stays that one.
    start: || Box::new(Network { file: ProcFile::new("/proc/thread-self/net/dev") }),
};

struct Network {
    file: ProcFile,
}

impl Probe for Network {
    fn sample(&mut self, _: &Context<'_>, out: &mut Out) {
        let Some(file) = self.file.read() else { return };
        for (name, received, sent) in lines(file).filter_map(parse).take(INTERFACES_MAX) {
            out.count(&RECEIVED, &[("device", name)], received);
            out.count(&SENT, &[("device", name)], sent);
        }
    }
}

/// Name, bytes received, bytes sent; `None` for loopback, ends of containers, and the head lines.
fn parse(line: &str) -> Option<(&str, u64, u64)> {
    let (name, numbers) = line.split_once(':')?;
    let name = name.trim();
    if name.is_empty() || name == "lo" || name.starts_with("veth") {
        return None;
    }
    let mut fields = numbers.split_ascii_whitespace();
    let received = fields.next()?.parse().ok()?;
    let sent = fields.nth(7)?.parse().ok()?;
    Some((name, received, sent))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn interfaces_that_reach_outside() {
        let file = b"Inter-|   Receive\n face |bytes    packets\n    lo: 1 2 3 4 5 6 7 8 9 10\n  eth0: 1234567 1 0 0 0 0 0 0 7654321 1 0\nveth1: 1 2 3 4 5 6 7 8 9\nib0:5 0 0 0 0 0 0 0 6\n";
        let found: Vec<_> = lines(file).filter_map(parse).collect();
        assert_eq!(found, [("eth0", 1_234_567, 7_654_321), ("ib0", 5, 6)]);
    }

    proptest! {
        #[test]
        fn any_line_is_survived(line in ".*:?.*", numbers in proptest::collection::vec(any::<u64>(), 9..17)) {
            assert_eq!(parse(&line), parse(&line));
            let good = numbers.iter().fold("eth0:".to_owned(), |text, number| format!("{text} {number}"));
            prop_assert_eq!(parse(&good), Some(("eth0", numbers[0], numbers[8])));
        }
    }
}
