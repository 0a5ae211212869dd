//! Which bytes of a file a request is for ("Range", RFC 9110, 14.2).

use std::ops::Range;

/// What the header `Range` asks for. Complete by nature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// All of it; several ranges, and units that are not bytes, are answered so, too.
    Whole,
    /// These bytes; there is at least one, and all are there.
    Part(Range<u64>),
    /// None that are there.
    Nothing,
}

impl Asked {
    /// What `text` asks of a file of `size` bytes.
    #[must_use]
    pub fn of(text: &str, size: u64) -> Self {
        Self::parsed(text, size).unwrap_or(Self::Whole)
    }

    fn parsed(text: &str, size: u64) -> Option<Self> {
        let (start, end) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
        let range = match (start, end) {
            ("", last) => size.saturating_sub(number(last)?)..size,
            (start, "") => number(start)?..size,
            (start, last) => number(start)?..number(last)?.saturating_add(1).min(size),
        };
        Some(match range.is_empty() {
            true => Self::Nothing,
            false => Self::Part(range),
        })
    }
}

/// Digits alone: what Rust reads besides, a `+`, is no number of HTTP's.
pub(crate) fn number(text: &str) -> Option<u64> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_taken_as_http_has_it() {
        for (text, found) in [
            ("bytes=0-0", Asked::Part(0..1)),
            ("bytes=5-", Asked::Part(5..10)),
            ("bytes=-3", Asked::Part(7..10)),
            ("bytes=-30", Asked::Part(0..10)),
            ("bytes=2-100", Asked::Part(2..10)),
            ("bytes=2-18446744073709551615", Asked::Part(2..10)),
            ("bytes=10-", Asked::Nothing),
            ("bytes=10-20", Asked::Nothing),
            ("bytes=5-4", Asked::Nothing),
            ("bytes=-0", Asked::Nothing),
            ("bytes=0-1,4-5", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
            ("lines=0-1", Asked::Whole),
        ] {
            assert_eq!(Asked::of(text, 10), found, "{text}");
        }
        assert_eq!(Asked::of("bytes=-1", 0), Asked::Nothing);
    }
}
