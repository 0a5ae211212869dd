//! Refcounts that are mended where they lie.

use std::ops::Range;

use diskette_core::{Error, Result, Table};

use super::Mender;
use crate::check::Survey;
use crate::refcount::{refcount, set_refcount};

/// What the refcounts are to be.
pub(super) struct Wanted<'a> {
    pub(super) found: &'a Survey,
    /// Clusters behind all others that are about to be used.
    pub(super) reserved: Range<u64>,
}

impl Wanted<'_> {
    /// The refcount of a cluster that is stored as `stored`. Nothing is freed while references are lost.
    pub(super) fn of(&self, cluster: u64, counted: u64, stored: u64) -> u64 {
        if self.reserved.contains(&cluster) {
            1
        } else if self.found.lost.any {
            counted.max(stored)
        } else {
            counted
        }
    }

    /// Behind the last cluster that counts.
    pub(super) fn end(&self) -> u64 {
        self.found.counted.len().max(self.reserved.end)
    }
}

impl Mender<'_> {
    /// Makes the refcounts what they should be, and counts as many clusters behind the file as used.
    pub(super) fn mend_refcounts(&mut self, found: &Survey, reserved: u64) -> Result<()> {
        let first = found.counted.len();
        let wanted = Wanted {
            found,
            reserved: first..first.saturating_add(reserved),
        };
        if found.refcounts_unsound || self.lacks_blocks(&wanted)? {
            return self.rebuild_refcounts(&wanted);
        }
        self.write_blocks(found, wanted.end(), |cluster, stored| {
            wanted.of(cluster, found.counted.get(cluster), stored)
        })?;
        self.corruptions_fixed += found.refcounts_low;
        if !found.lost.any {
            self.leaks_fixed += found.report.leaks;
        }
        Ok(())
    }

    /// Frees what nobody uses.
    pub(super) fn lower_refcounts(&mut self, found: &Survey) -> Result<()> {
        if found.lost.any || found.refcounts_unsound || found.report.leaks == 0 {
            return Ok(());
        }
        self.write_blocks(found, found.counted.len(), |cluster, stored| {
            stored.min(found.counted.get(cluster))
        })?;
        self.leaks_fixed += found.report.leaks;
        Ok(())
    }

    /// Whether clusters that are to be counted have no block for that.
    fn lacks_blocks(&self, wanted: &Wanted<'_>) -> Result<bool> {
        for (index, mut clusters) in self.clusters_of_blocks(wanted.end()) {
            let is_wanted =
                |cluster: u64| wanted.of(cluster, wanted.found.counted.get(cluster), 0) != 0;
            if self.old_block(wanted.found, index)?.is_none() && clusters.any(is_wanted) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes the blocks of the clusters before `end` whose counts change: `count` gives the new one for the number of a
    /// cluster and the old count.
    fn write_blocks(
        &self,
        found: &Survey,
        end: u64,
        count: impl Fn(u64, u64) -> u64,
    ) -> Result<()> {
        let order = self.header.geometry.refcount_order();
        let entries: Vec<_> = found.stored.table().collect();
        let mut is_changed = false;
        for ((index, clusters), entry) in self.clusters_of_blocks(end).zip(entries) {
            let Some(old) = self.old_block(found, index)? else {
                continue;
            };
            let mut new = old.entries().to_vec();
            for (within, cluster) in clusters.enumerate() {
                let stored = refcount(old.entries(), within as u64, order);
                set_refcount(&mut new, within, order, count(cluster, stored));
            }
            if new != old.entries() {
                self.write(entry.block_offset(), &new)?;
                is_changed = true;
            }
        }
        if is_changed {
            self.sync()?;
        }
        Ok(())
    }

    /// Which clusters before `end` each block counts.
    fn clusters_of_blocks(&self, end: u64) -> impl Iterator<Item = (u64, Range<u64>)> + use<> {
        let per_block = self.header.geometry.refcounts_per_block();
        (0..end.div_ceil(per_block)).map(move |index| {
            let first = index * per_block;
            (index, first..end.min(first + per_block))
        })
    }

    /// A block as it is stored, where there is one that can be read.
    pub(super) fn old_block(&self, found: &Survey, index: u64) -> Result<Option<Table<u8>>> {
        match found.stored.block(self.storage, index) {
            Err(Error::Malformed { .. }) => Ok(None),
            block => block,
        }
    }
}
