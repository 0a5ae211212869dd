//! How many threads are of use.

use std::time::Duration;

/// How long tasks take to be worked on, and to be settled: the recent ones, the older the less.
///
/// While one thread settles, others can only work. Where the work is short (plain data is read from the page cache at a
/// fraction of what writing it costs) a second thread would merely move data from one cache to another; where it is
/// long (a codec, a slow disk, a network) each is of use.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Balance {
    /// Weighted sums of nanoseconds.
    working: u64,
    settling: u64,
}

impl Balance {
    /// Takes one more task into account.
    pub(crate) fn note(&mut self, working: Duration, settling: Duration) {
        for (sum, new) in [(&mut self.working, working), (&mut self.settling, settling)] {
            let nanos = u64::try_from(new.as_nanos()).unwrap_or(u64::MAX);
            *sum = (*sum - *sum / MEMORY).saturating_add(nanos);
        }
    }

    /// At least one.
    pub(crate) fn useful_threads(&self) -> usize {
        let settling = u128::from(self.settling).max(1);
        let helpers = (2 * u128::from(self.working) + settling) / (2 * settling);
        usize::try_from(helpers)
            .unwrap_or(usize::MAX)
            .saturating_add(1)
    }
}

/// How many tasks are remembered, roughly.
const MEMORY: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn useful_threads(working: u64, settling: u64) -> usize {
        let mut balance = Balance::default();
        balance.note(
            Duration::from_micros(working),
            Duration::from_micros(settling),
        );
        balance.useful_threads()
    }

    #[test]
    fn threads_help_where_work_is_long() {
        assert_eq!(Balance::default().useful_threads(), 1);
        assert_eq!(useful_threads(20, 80), 1);
        assert_eq!(useful_threads(80, 80), 2);
        assert_eq!(useful_threads(800, 80), 11);
        assert!(useful_threads(800, 0) > 1000);
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let mut balance = Balance::default();
        balance.note(Duration::from_secs(1), Duration::from_millis(1));
        for _ in 0..200 {
            balance.note(Duration::from_millis(1), Duration::from_millis(4));
        }
        assert_eq!(balance.useful_threads(), 1);
    }
}
