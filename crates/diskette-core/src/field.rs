//! A number as an image claims it, with what is needed to complain about it.

use std::borrow::Cow;

use crate::{Error, Result};

/// A number read from an image, before it has passed a check.
///
/// ```
/// use diskette_core::Field;
/// let cluster_bits = Field::new("qcow2", "header.cluster_bits", 20, 16_u32).within(9..=21)?;
/// assert_eq!(cluster_bits, 16);
/// # Ok::<(), diskette_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Field {
    format: &'static str,
    name: Cow<'static, str>,
    offset: u64,
    value: u64,
}

impl Field {
    /// The `value` of the field `name`, which lies at host `offset`.
    pub fn new(
        format: &'static str,
        name: impl Into<Cow<'static, str>>,
        offset: u64,
        value: impl Into<u64>,
    ) -> Self {
        Self {
            format,
            name: name.into(),
            offset,
            value: value.into(),
        }
    }

    /// The error that this value is wrong because of `why`.
    #[must_use]
    pub fn malformed(self, why: impl Into<Cow<'static, str>>) -> Error {
        Error::malformed(self.format, self.name, self.offset, self.value, why)
    }

    /// The value, if it lies in `range`.
    pub fn within(self, range: std::ops::RangeInclusive<u64>) -> Result<u64> {
        if range.contains(&self.value) {
            return Ok(self.value);
        }
        let why = format!("not within {} to {}", range.start(), range.end());
        Err(self.malformed(why))
    }

    /// The value, if it is a power of two in `range`.
    pub fn power_of_two_in(self, range: std::ops::RangeInclusive<u64>) -> Result<u64> {
        if !self.value.is_power_of_two() {
            return Err(self.malformed("not a power of two"));
        }
        self.within(range)
    }

    /// The value, if it is a multiple of `granule`.
    pub fn aligned_to(self, granule: u64) -> Result<u64> {
        if self.value.is_multiple_of(granule) {
            return Ok(self.value);
        }
        Err(self.malformed(format!("not a multiple of {granule}")))
    }

    /// The value, if it equals `expected`.
    pub fn equal_to(self, expected: u64) -> Result<u64> {
        if self.value == expected {
            return Ok(self.value);
        }
        Err(self.malformed(format!("not {expected:#x}")))
    }

    /// The value times `unit`, if that is a `u64`: how sectors become bytes.
    pub fn times(self, unit: u64) -> Result<u64> {
        match self.value.checked_mul(unit) {
            Some(product) => Ok(product),
            None => Err(self.malformed("too large")),
        }
    }

    /// The value, if `len` bytes from there on end at or before `end`.
    pub fn followed_by(self, len: u64, end: u64) -> Result<u64> {
        match self.value.checked_add(len) {
            Some(sum) if sum <= end => Ok(self.value),
            _ => {
                let why = format!("its {len} bytes reach beyond the file's end at {end:#x}");
                Err(self.malformed(why).truncated())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(value: u64) -> Field {
        Field::new("test", "field", 8, value)
    }

    #[test]
    fn checks_let_good_values_through() -> Result<()> {
        assert_eq!(field(16).within(9..=21)?, 16);
        assert_eq!(field(16).power_of_two_in(1..=64)?, 16);
        assert_eq!(field(1024).aligned_to(512)?, 1024);
        assert_eq!(field(3).times(512)?, 1536);
        assert_eq!(field(100).followed_by(28, 128)?, 100);
        Ok(())
    }

    #[test]
    fn checks_name_the_field_and_the_reason() {
        let text = |result: Result<u64>| result.unwrap_err().to_string();
        assert_eq!(
            text(field(63).within(9..=21)),
            "test: field at 0x8 is 0x3f, not within 9 to 21"
        );
        assert_eq!(
            text(field(24).power_of_two_in(1..=64)),
            "test: field at 0x8 is 0x18, not a power of two"
        );
        assert_eq!(
            text(field(0).power_of_two_in(1..=64)),
            "test: field at 0x8 is 0x0, not a power of two"
        );
        assert_eq!(
            text(field(u64::MAX).times(512)),
            "test: field at 0x8 is 0xffffffffffffffff, too large"
        );
        assert!(field(u64::MAX).followed_by(1, u64::MAX).is_err());
    }
}
