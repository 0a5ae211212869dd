//! Which parts of a file are in use.

use std::ops::Range;

use crate::{Limits, Result};

/// A bit for each unit of a file.
#[derive(Debug)]
pub struct UsedUnits {
    words: Vec<u64>,
    unit: u64,
}

impl UsedUnits {
    /// None of the first `size` bytes is in use. Counted are `unit` bytes at once.
    pub fn new(size: u64, unit: u64, what: &'static str, limits: &Limits) -> Result<Self> {
        let words = size.div_ceil(unit).div_ceil(64);
        limits.allow_check(what, words.saturating_mul(8))?;
        Ok(Self {
            words: vec![0; usize::try_from(words).unwrap_or(usize::MAX)],
            unit,
        })
    }

    /// Notes that a range is in use; whether it was free. What lies past the file's end is.
    pub fn take(&mut self, range: &Range<u64>) -> bool {
        let mut free = true;
        for unit in range.start / self.unit..range.end.div_ceil(self.unit) {
            let word = usize::try_from(unit / 64).unwrap_or(usize::MAX);
            let Some(word) = self.words.get_mut(word) else {
                break;
            };
            let bit = 1 << (unit % 64);
            free &= *word & bit == 0;
            *word |= bit;
        }
        free
    }

    /// Whether the unit that holds `offset` is in use.
    #[must_use]
    pub fn holds(&self, offset: u64) -> bool {
        let unit = offset / self.unit;
        let word = usize::try_from(unit / 64)
            .ok()
            .and_then(|word| self.words.get(word));
        word.is_some_and(|word| word & 1 << (unit % 64) != 0)
    }

    /// The runs from `start` up to `end` that are not in use, as far as whole units go.
    pub fn free_runs(&self, start: u64, end: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut unit = start.div_ceil(self.unit);
        let last = end / self.unit;
        std::iter::from_fn(move || {
            while unit < last && self.holds(unit * self.unit) {
                unit += 1;
            }
            let first = unit;
            while unit < last && !self.holds(unit * self.unit) {
                unit += 1;
            }
            (first < unit).then(|| first * self.unit..unit * self.unit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_free_no_more() {
        let mut used = UsedUnits::new(200 * 512, 512, "test", &Limits::default()).unwrap();
        assert!(used.take(&(512..1024)));
        assert!(used.take(&(100 * 512..101 * 512 - 5)));
        assert!(!used.take(&(1000..2000)));
        assert!(used.holds(1500) && !used.holds(2048));
        assert!(used.take(&(1 << 40..1 << 41)));
        let runs: Vec<_> = used.free_runs(0, 102 * 512).collect();
        assert_eq!(runs, [0..512, 2048..100 * 512, 101 * 512..102 * 512]);
        assert_eq!(used.free_runs(600, 1000).count(), 0);
    }
}
