//! Where bytes are zero: one look at each block answers for whole chunks and for the runs in them.

use std::ops::Range;

use diskette_core::is_zero;

/// Which runs of zeros are worth leaving out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sparseness {
    /// Zeros are looked for in blocks of this many bytes.
    block: usize,
    /// A run of fewer zeros than this is written.
    shortest: usize,
}

impl Sparseness {
    /// Leaves out runs of at least `shortest` zeros, within units of `unit` bytes. `None` where all is to be written.
    ///
    /// Like qemu-img, it looks at blocks of the greatest power of two that is not above `shortest`.
    pub(crate) fn new(shortest: u64, unit: u64) -> Option<Self> {
        let block = 1_u64 << shortest.checked_ilog2()?;
        let bytes = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Some(Self {
            block: bytes(block.min(unit).max(1)),
            shortest: bytes(shortest.min(unit)),
        })
    }

    /// Adds the runs of `bytes` that are to be written to `runs`, each moved by `base`. None, if all is zero.
    pub(crate) fn data_runs(&self, bytes: &[u8], base: usize, runs: &mut Vec<Range<usize>>) {
        let first = runs.len();
        for (index, block) in bytes.chunks(self.block).enumerate() {
            if is_zero(block) {
                continue;
            }
            let start = base + index * self.block;
            let run = start..start + block.len();
            match runs[first..].last_mut() {
                Some(last) if run.start - last.end < self.shortest => last.end = run.end,
                Some(_) | None => runs.push(run),
            }
        }
        self.keep_short_edges(base..base + bytes.len(), &mut runs[first..]);
    }

    /// Zeros at either edge are written, too, where they are fewer than `shortest`.
    fn keep_short_edges(&self, whole: Range<usize>, runs: &mut [Range<usize>]) {
        if let Some(first) = runs.first_mut()
            && first.start - whole.start < self.shortest
        {
            first.start = whole.start;
        }
        if let Some(last) = runs.last_mut()
            && whole.end - last.end < self.shortest
        {
            last.end = whole.end;
        }
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one run is a run")]
mod tests {
    use super::*;

    fn runs(shortest: u64, bytes: &[u8]) -> Vec<Range<usize>> {
        let mut runs = vec![3..4, 7..8];
        let sparseness = Sparseness::new(shortest, 1 << 16).unwrap();
        sparseness.data_runs(bytes, 100, &mut runs);
        assert_eq!(runs[..2], [3..4, 7..8], "what was there stays");
        runs.drain(..2);
        runs
    }

    #[test]
    fn runs_of_zeros_are_left_out_by_aligned_blocks() {
        let mut bytes = [0; 64];
        assert_eq!(runs(8, &bytes), []);
        bytes[20] = 1;
        bytes[47] = 1;
        assert_eq!(runs(8, &bytes), [116..124, 140..148]);
    }

    #[test]
    fn short_runs_of_zeros_are_written() {
        let mut bytes = [0; 64];
        bytes[12] = 1;
        bytes[28] = 1;
        // 8 zeros in front, 8 between, 32 behind; 12 are to be left out at least, looked for by eights.
        assert_eq!(runs(12, &bytes), [100..132]);
    }

    #[test]
    fn the_last_block_may_be_short() {
        let mut bytes = [0; 13];
        bytes[12] = 1;
        assert_eq!(runs(8, &bytes), [108..113]);
    }

    #[test]
    fn nothing_is_left_out_when_no_run_is_long_enough_to_be() {
        assert!(Sparseness::new(0, 4096).is_none());
    }
}
