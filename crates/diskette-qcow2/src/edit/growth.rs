//! The search for free clusters, and more refcounts where there are none left.

use diskette_core::{Error, Result, Storage, StorageMut};
use zerocopy::IntoBytes;
use zerocopy::big_endian::{U32, U64};

use super::allocator::Allocator;
use super::cache::{sync, write};
use crate::header::field;
use crate::refcount::{refcount, set_refcount};
use crate::{FORMAT, spec};

impl Allocator {
    /// The first of `count` free clusters in a row. Blocks that it takes to count them are made on the way. `None` where
    /// the refcount table is too small.
    pub(super) fn find_free(&mut self, storage: &dyn Storage, count: u64) -> Result<Option<u64>> {
        let per_block = self.geometry.refcounts_per_block();
        let order = self.geometry.refcount_order();
        // All from `start` to before `at` are free.
        let (mut start, mut at) = (self.next, self.next);
        let mut all_used = true;
        while at - start < count {
            let index = at / per_block;
            if index >= self.table.len() as u64 {
                return Ok(None);
            }
            self.refuse_far(at, count)?;
            let Some(offset) = self.block_offset(index)? else {
                start = self.make_block(storage, index, start)?;
                at = at.max(start);
                continue;
            };
            let block = self.blocks.get(storage, offset)?;
            let is_free = |within: &u64| refcount(block, *within, order) == 0;
            let (first, block_start) = (at % per_block, index * per_block);
            if at == start {
                let free = (first..per_block).find(is_free);
                start = block_start + free.unwrap_or(per_block);
                at = start + u64::from(free.is_some());
                if all_used {
                    self.next = start;
                    all_used = free.is_none();
                }
                continue;
            }
            let wanted = (first + count - (at - start)).min(per_block);
            match (first..wanted).find(|within| !is_free(within)) {
                Some(used) => {
                    start = block_start + used;
                    at = start;
                }
                None => at = block_start + wanted,
            }
        }
        for cluster in start..at {
            self.refuse_table(cluster)?;
        }
        Ok(Some(start))
    }

    /// Makes the refcount table larger, so that it counts at least `count` clusters more. Nothing else may be waiting to be
    /// written.
    pub(crate) fn grow(&mut self, storage: &dyn StorageMut, count: u64) -> Result<()> {
        let geometry = self.geometry;
        let per_block = geometry.refcounts_per_block();
        let old = self.table.len() as u64;
        let first = old * per_block;
        let mut blocks = 1;
        let table_clusters = loop {
            let entries = (old + blocks).max(old + old / 2);
            let table = geometry.clusters(entries * 8);
            let needed = (table + blocks + count).div_ceil(per_block);
            if needed <= blocks {
                break table;
            }
            blocks = needed;
        };
        let used = table_clusters + blocks;
        let most = spec::HOST_OFFSET_END >> geometry.cluster_bits();
        let len = table_clusters << geometry.cluster_bits();
        if len > spec::REFCOUNT_TABLE_LEN_MAX || first + used > most {
            return Err(Error::unsupported(FORMAT, "a file of so many clusters"));
        }
        let offset = first << geometry.cluster_bits();
        let blocks_offset = offset + len;
        let mut table = self.table.clone();
        for block in 0..blocks {
            let counted = used.saturating_sub(block * per_block).min(per_block);
            let mut bytes = vec![0; geometry.cluster_len()];
            for index in 0..usize::try_from(counted).unwrap_or(0) {
                set_refcount(&mut bytes, index, geometry.refcount_order(), 1);
            }
            let at = blocks_offset + (block << geometry.cluster_bits());
            self.blocks.forget(at);
            write(storage, at, &bytes)?;
            table.push(at.into());
        }
        table.resize(usize::try_from(len / 8).unwrap_or(0), U64::ZERO);
        write(storage, offset, table.as_bytes())?;
        sync(storage)?;
        let fields = table_fields(offset, table_clusters);
        write(storage, REFCOUNT_TABLE_FIELDS, &fields)?;
        sync(storage)?;

        for cluster in 0..self.table_clusters {
            self.release(self.table_offset + (cluster << geometry.cluster_bits()));
        }
        self.protect(offset, used << geometry.cluster_bits());
        self.table = table;
        self.table_offset = offset;
        self.table_clusters = table_clusters;
        self.end = self.end.max(offset + (used << geometry.cluster_bits()));
        Ok(())
    }

    /// Makes the block with this number in the free cluster `place`: one that it counts itself, or that another block counts.
    /// Gives the cluster behind.
    fn make_block(&mut self, storage: &dyn Storage, index: u64, place: u64) -> Result<u64> {
        self.refuse_table(place)?;
        let per_block = self.geometry.refcounts_per_block();
        let mut bytes = vec![0; self.geometry.cluster_len()];
        if place / per_block == index {
            let within = usize::try_from(place % per_block).unwrap_or(0);
            set_refcount(&mut bytes, within, self.geometry.refcount_order(), 1);
        } else {
            self.set(storage, place, 1)?;
        }
        let offset = place << self.geometry.cluster_bits();
        self.blocks.put(offset, bytes);
        self.table[usize::try_from(index).unwrap_or(usize::MAX)] = offset.into();
        self.table_dirty = true;
        self.tables.insert(place);
        if place == self.next {
            self.next = place + 1;
        }
        self.end = self.end.max(offset + self.geometry.cluster_size());
        Ok(place + 1)
    }

    fn refuse_table(&self, cluster: u64) -> Result<()> {
        if !self.tables.contains(&cluster) {
            return Ok(());
        }
        let claim = field(format!("refcount of cluster {cluster}"), 0, 0_u64);
        Err(claim.malformed("but the cluster holds a table: the image must be repaired first"))
    }

    fn refuse_far(&self, cluster: u64, count: u64) -> Result<()> {
        let end = self.end >> self.geometry.cluster_bits();
        if cluster <= end + count + MOST_BEHIND_END {
            return Ok(());
        }
        let index = cluster / self.geometry.refcounts_per_block();
        let claim = field(format!("refcount_table[{index}]"), self.table_offset, index);
        Err(claim.malformed("it counts clusters far behind the file's end"))
    }
}

/// A writer that was cut off may have counted some clusters behind the file's end, but not more.
const MOST_BEHIND_END: u64 = 1 << 20;

/// Where the header tells of the refcount table: offset and clusters, which are changed by one write.
const REFCOUNT_TABLE_FIELDS: u64 = 48;

fn table_fields(offset: u64, clusters: u64) -> Vec<u8> {
    let clusters = U32::new(u32::try_from(clusters).unwrap_or(u32::MAX));
    [U64::new(offset).as_bytes(), clusters.as_bytes()].concat()
}
