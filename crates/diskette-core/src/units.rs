//! Units of size, and rounding to a granule.

/// 512 bytes: the unit in which most formats count. Sector numbers become bytes where they are parsed.
pub const SECTOR: u64 = 512;
/// 1024 bytes.
pub const KIB: u64 = 1 << 10;
/// 1024 KiB.
pub const MIB: u64 = 1 << 20;
/// 1024 MiB.
pub const GIB: u64 = 1 << 30;
/// 1024 GiB.
pub const TIB: u64 = 1 << 40;

/// The greatest multiple of `granule` (a power of two) that is not above `value`.
#[must_use]
pub const fn round_down(value: u64, granule: u64) -> u64 {
    debug_assert!(granule.is_power_of_two());
    value & !(granule - 1)
}

/// The least multiple of `granule` (a power of two) that is not below `value`; `None` where that is no `u64`.
#[must_use]
pub const fn round_up(value: u64, granule: u64) -> Option<u64> {
    match value.checked_add(granule - 1) {
        Some(sum) => Some(round_down(sum, granule)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_stops_at_the_end_of_u64() {
        assert_eq!(round_down(1023, 512), 512);
        assert_eq!(round_up(513, 512), Some(1024));
        assert_eq!(round_up(512, 512), Some(512));
        assert_eq!(round_up(u64::MAX, 512), None);
    }
}
