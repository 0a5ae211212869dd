//! Runs of bits in a cluster of a bitmap, the lowest bit of a byte first.

use std::ops::Range;

/// Sets a run of bits. They lie within `bytes`.
pub(crate) fn set_bits(bytes: &mut [u8], bits: Range<u64>) {
    for (byte, mask) in masks(bits) {
        if let Some(byte) = bytes.get_mut(byte) {
            *byte |= mask;
        }
    }
}

/// Whether all bits of a run are set.
pub(crate) fn all_set(bytes: &[u8], bits: Range<u64>) -> bool {
    masks(bits).all(|(byte, mask)| bytes.get(byte).is_some_and(|byte| byte & mask == mask))
}

/// Clears all bits from one on.
pub(crate) fn clear_from(bytes: &mut [u8], bit: u64) {
    let first = index(bit / 8);
    if let Some(byte) = bytes.get_mut(first) {
        *byte &= mask(0..bit % 8);
    }
    if let Some(rest) = bytes.get_mut(first.saturating_add(1)..) {
        rest.fill(0);
    }
}

/// The first bit from `start` on that is set, or that is not; `None` where there is no such bit.
pub(crate) fn find(bytes: &[u8], start: u64, set: bool) -> Option<u64> {
    let skipped = if set { 0 } else { 0xff };
    let first = index(start / 8);
    let mut byte = *bytes.get(first)? ^ skipped;
    byte &= !mask(0..start % 8);
    let mut at = first;
    if byte == 0 {
        let rest = bytes.get(first + 1..)?;
        at = first + 1 + rest.iter().position(|byte| *byte != skipped)?;
        byte = bytes[at] ^ skipped;
    }
    Some(at as u64 * 8 + u64::from(byte.trailing_zeros()))
}

/// The bytes that hold a run of bits, and which of their bits are of the run.
fn masks(bits: Range<u64>) -> impl Iterator<Item = (usize, u8)> {
    let bytes = bits.start / 8..bits.end.div_ceil(8).max(bits.start / 8);
    bytes.map(move |byte| {
        let first = bits.start.saturating_sub(8 * byte);
        let end = (bits.end - 8 * byte).min(8);
        (index(byte), mask(first..end))
    })
}

/// Bits of a byte; both ends are 8 at most.
fn mask(bits: Range<u64>) -> u8 {
    let below = |bit: u64| u8::try_from((1_u16 << bit.min(8)) - 1).unwrap_or(u8::MAX);
    below(bits.end) & !below(bits.start)
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_set_found_and_cleared_as_bit_by_bit() {
        for start in 0..40 {
            for end in start..=40 {
                let mut bytes = [0; 5];
                set_bits(&mut bytes, start..end);
                for bit in 0..40_u64 {
                    let is_set = bytes[index(bit / 8)] >> (bit % 8) & 1 == 1;
                    assert_eq!(
                        is_set,
                        (start..end).contains(&bit),
                        "{start}..{end} at {bit}"
                    );
                }
                assert!(all_set(&bytes, start..end));
                assert_eq!(all_set(&bytes, 0..40), (start, end) == (0, 40));
                let first = (start < end).then_some(start);
                assert_eq!(find(&bytes, 0, true), first);
                assert_eq!(
                    find(&bytes, start.min(39), false),
                    match end {
                        40 if start < end => None,
                        _ if start < end => Some(end),
                        _ => Some(start.min(39)),
                    }
                );
                let middle = u64::midpoint(start, end);
                clear_from(&mut bytes, middle);
                let mut expected = [0; 5];
                set_bits(&mut expected, start..middle);
                assert_eq!(bytes, expected);
            }
        }
    }
}
