//! The header `Range`: one range of bytes.

/// What of a file is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it: there is no range, or one that cannot be read, which is ignored as RFC 9110 has it.
    Whole,
    /// From the first to the last byte, both included.
    Part(u64, u64),
    /// It begins at or behind the end.
    Unsatisfiable,
}

/// Reads the header for a file of this size. Of several ranges none is served.
pub(crate) fn parse(header: Option<&str>, size: u64) -> Wanted {
    let Some(range) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    let Some((first, last)) = range.split_once('-') else { return Wanted::Whole };
    match (digits(first), digits(last)) {
        (Some(first), Some(last)) if first > last => Wanted::Whole,
        (Some(first), _) if first >= size && (last.trim().is_empty() || digits(last).is_some()) => {
            Wanted::Unsatisfiable
        }
        (Some(first), Some(last)) => Wanted::Part(first, last.min(size - 1)),
        (Some(first), None) if last.trim().is_empty() => Wanted::Part(first, size - 1),
        (None, Some(0)) if first.trim().is_empty() => Wanted::Unsatisfiable,
        (None, Some(_)) if first.trim().is_empty() && size == 0 => Wanted::Unsatisfiable,
        (None, Some(last)) if first.trim().is_empty() => Wanted::Part(size.saturating_sub(last), size - 1),
        (Some(_) | None, Some(_) | None) => Wanted::Whole,
    }
}

/// A number too large for us is larger than every file.
fn digits(text: &str) -> Option<u64> {
    let text = text.trim();
    let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    fits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(header: &str, size: u64, expected: Wanted) {
        assert_eq!(parse(Some(header), size), expected, "{header} of {size}");
    }

    #[test]
    fn ranges_are_read() {
        check("bytes=0-", 10, Wanted::Part(0, 9));
        check("bytes=3-5", 10, Wanted::Part(3, 5));
        check("bytes=3-99", 10, Wanted::Part(3, 9));
        check("bytes=-4", 10, Wanted::Part(6, 9));
        check("bytes=-40", 10, Wanted::Part(0, 9));
        check("bytes=10-", 10, Wanted::Unsatisfiable);
        check("bytes=0-", 0, Wanted::Unsatisfiable);
        check("bytes=-0", 10, Wanted::Unsatisfiable);
        check("bytes=99999999999999999999999-", 10, Wanted::Unsatisfiable);
        for ignored in
            ["bytes=", "bytes=-", "bytes=5-3", "bytes=a-b", "bytes=0-1,3-4", "items=0-1", "", "bytes=1-x"]
        {
            check(ignored, 10, Wanted::Whole);
        }
        assert_eq!(parse(None, 10), Wanted::Whole);
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_file(header in "(bytes=)?[0-9 ,x-]{0,12}", size in 0_u64..2000) {
            if let Wanted::Part(first, last) = parse(Some(&header), size) {
                prop_assert!(first <= last && last < size);
            }
        }
    }
}
