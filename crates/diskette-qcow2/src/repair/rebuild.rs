//! Refcounts that cannot be mended where they lie: a new table and new blocks behind the file's end.

use diskette_core::Result;
use zerocopy::IntoBytes;
use zerocopy::big_endian::U64;

use super::Mender;
use super::refcounts::Wanted;
use crate::check::{Counts, count_contents};
use crate::refcount::{refcount, set_refcount};
use crate::spec;

/// Where the new refcounts lie: the table, and the blocks behind it.
struct Place {
    /// The table's first cluster.
    first: u64,
    table_clusters: u64,
    blocks: u64,
}

impl Place {
    /// Behind all clusters.
    const fn end(&self) -> u64 {
        self.first + self.table_clusters + self.blocks
    }
}

impl Mender<'_> {
    /// Counts all clusters anew. Left as it is where there is no room, which the report tells.
    pub(super) fn rebuild_refcounts(&mut self, wanted: &Wanted<'_>) -> Result<()> {
        let Some(place) = self.place_of_refcounts(wanted) else {
            return Ok(());
        };
        // What the old table and its blocks take is free, unless someone else uses it, too.
        let contents = count_contents(self.storage, &self.header, self.cx)?;
        let geometry = self.header.geometry;
        let blocks_at = place.first + place.table_clusters;
        let mut table = Vec::new();
        for index in 0..place.blocks {
            let offset = (blocks_at + index) << geometry.cluster_bits();
            self.write(offset, &self.new_block(index, wanted, &contents, &place)?)?;
            table.push(U64::new(offset));
        }
        let offset = place.first << geometry.cluster_bits();
        let entries = (place.table_clusters << geometry.cluster_bits()) / 8;
        table.resize(usize::try_from(entries).unwrap_or(0), U64::ZERO);
        self.write(offset, table.as_bytes())?;
        // At most 8 MiB of clusters.
        let clusters = u32::try_from(place.table_clusters).unwrap_or(0);
        self.switch_refcount_table(offset, clusters)?;

        let found = wanted.found;
        self.corruptions_fixed += found.refcounts_low + found.refcounts_damage;
        if !found.lost.any {
            self.leaks_fixed += found.report.leaks;
        }
        Ok(())
    }

    /// The counts of one block.
    fn new_block(
        &self,
        index: u64,
        wanted: &Wanted<'_>,
        contents: &Counts,
        place: &Place,
    ) -> Result<Vec<u8>> {
        let geometry = self.header.geometry;
        let order = geometry.refcount_order();
        let per_block = geometry.refcounts_per_block();
        let mut bytes = vec![0; geometry.cluster_len()];
        let old = self.old_block(wanted.found, index)?;
        let clusters = index * per_block..place.end().min((index + 1) * per_block);
        for (within, cluster) in clusters.enumerate() {
            let stored = match &old {
                Some(old) => refcount(old.entries(), within as u64, order),
                // It may have been in use: counts only where nothing is freed.
                None => 1,
            };
            let count = if cluster >= place.first {
                1
            } else if cluster >= wanted.found.counted.len() {
                wanted.of(cluster, 0, 0)
            } else {
                wanted.of(cluster, contents.get(cluster), stored)
            };
            set_refcount(&mut bytes, within, order, count);
        }
        Ok(bytes)
    }

    /// A place for refcounts that count all clusters, themselves included.
    fn place_of_refcounts(&self, wanted: &Wanted<'_>) -> Option<Place> {
        let geometry = self.header.geometry;
        let first = wanted.end();
        let mut place = Place {
            first,
            table_clusters: 0,
            blocks: 0,
        };
        // Each round can only add; a block counts hundreds of clusters at least, so that there are few rounds.
        loop {
            let blocks = place.end().div_ceil(geometry.refcounts_per_block());
            let table_clusters = geometry.clusters(blocks * 8);
            if (blocks, table_clusters) == (place.blocks, place.table_clusters) {
                break;
            }
            place = Place {
                first,
                table_clusters,
                blocks,
            };
        }
        let fits = place.table_clusters << geometry.cluster_bits() <= spec::REFCOUNT_TABLE_LEN_MAX;
        let more = place.end().checked_sub(wanted.found.counted.len())?;
        self.place_behind(wanted.found, more)?;
        fits.then_some(place)
    }
}
