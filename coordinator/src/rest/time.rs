//! Times on the wire: ISO 8601 in UTC with at most three digits of a second, trailing zeros dropped.

use trainyard_core::unit::WallMs;

/// `2018-06-06T20:26:23.925Z`; empty for a time that no calendar has.
pub(crate) fn iso(at: WallMs) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| String::new(), |at| at.to_string())
}

/// The other way; `None`: not a time with its zone.
pub(crate) fn parse(text: &str) -> Option<WallMs> {
    text.parse().ok().map(|at: jiff::Timestamp| WallMs(at.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_service_wrote_them() {
        for text in [
            "2018-06-06T20:26:23.925Z",
            "2018-06-06T21:06:02.35Z",
            "2018-06-06T20:15:38Z",
            "1970-01-01T00:00:00Z",
        ] {
            assert_eq!(iso(parse(text).unwrap()), text);
        }
    }
}
