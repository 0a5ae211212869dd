//! The runs of a file that are in use: which are in use twice, and which not at all.

use std::ops::Range;

use diskette_core::SECTOR;

/// Runs in use, as they were told: neighbours are joined.
#[derive(Debug)]
pub(crate) struct Uses {
    /// First sector, and the one behind the last.
    runs: Vec<(u64, u64)>,
    most: usize,
    overflowed: bool,
}

/// What the runs come to.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    /// Host offsets of runs that overlap another.
    pub overlaps: Vec<u64>,
    /// Runs that nothing uses, between those that are used.
    pub gaps: Vec<Range<u64>>,
    /// Behind the last run.
    pub end: u64,
    /// Whether there were more runs than are kept: then there may be more overlaps, and fewer gaps.
    pub overflowed: bool,
}

impl Uses {
    /// For as many runs as `budget` bytes hold.
    pub(crate) fn new(budget: u64) -> Self {
        let most = budget / size_of::<(u64, u64)>() as u64;
        Self {
            runs: Vec::new(),
            most: usize::try_from(most).unwrap_or(usize::MAX),
            overflowed: false,
        }
    }

    /// Notes that a run is in use.
    pub(crate) fn take(&mut self, at: u64, len: u64) {
        let start = at / SECTOR;
        let end = at.saturating_add(len).div_ceil(SECTOR);
        if let Some((_, last)) = self.runs.last_mut()
            && *last == start
        {
            *last = end;
            return;
        }
        if self.runs.len() >= self.most {
            self.overflowed = true;
            return;
        }
        self.runs.push((start, end));
    }

    /// What all of them come to.
    pub(crate) fn sum(mut self) -> Usage {
        self.runs.sort_unstable();
        let mut usage = Usage {
            overflowed: self.overflowed,
            ..Usage::default()
        };
        let mut behind = 0;
        for (start, end) in self.runs {
            if start < behind {
                usage.overlaps.push(start.saturating_mul(SECTOR));
            } else if start > behind {
                let gap = behind.saturating_mul(SECTOR)..start.saturating_mul(SECTOR);
                usage.gaps.push(gap);
            }
            behind = behind.max(end);
        }
        usage.end = behind.saturating_mul(SECTOR);
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_twice_and_what_is_not_is_told() {
        let mut uses = Uses::new(1 << 10);
        for (at, len) in [
            (2048, 1024),
            (3072, 100),
            (0, 512),
            (8192, 512),
            (3500, 600),
        ] {
            uses.take(at, len);
        }
        let usage = uses.sum();
        assert_eq!(usage.overlaps, [3072]);
        assert_eq!(usage.gaps, [512..2048, 4608..8192]);
        assert_eq!(usage.end, 8704);
    }

    #[test]
    fn neighbours_take_no_room() {
        let mut uses = Uses::new(32);
        (0..100).for_each(|grain| uses.take(grain * 4096, 4096));
        uses.take(1 << 30, 512);
        assert!(!uses.overflowed);
        uses.take(1 << 40, 512);
        assert!(uses.overflowed);
    }
}
