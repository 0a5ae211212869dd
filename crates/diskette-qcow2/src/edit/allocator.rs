//! Finds free clusters in an image that exists, and counts who uses which.

use std::collections::HashSet;
use std::ops::Range;

use diskette_core::{Error, Limits, Result, Storage, StorageExt, StorageMut};
use zerocopy::big_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

use super::cache::{ClusterCache, sync, write};
use crate::FORMAT;
use crate::geometry::Geometry;
use crate::header::{Header, field};
use crate::refcount::{RefcountTableEntry, refcount, set_refcount};

/// The refcounts of an image that is being changed.
///
/// A cluster is counted before anything points to it, and no longer counted only when nothing on the disk does: see
/// [`Self::write`] and [`Self::count_releases`].
#[derive(Debug)]
pub(crate) struct Allocator {
    pub(super) geometry: Geometry,
    pub(super) table: Vec<U64>,
    pub(super) table_offset: u64,
    pub(super) table_clusters: u64,
    /// Whether entries of the table are to be written.
    pub(super) table_dirty: bool,
    pub(super) blocks: ClusterCache,
    /// No cluster before this one is free.
    pub(super) next: u64,
    /// Clusters that are used once less than their refcounts say.
    releases: Vec<u64>,
    /// Clusters of tables. A sound image counts them; they are never handed out, whatever it says.
    pub(super) tables: HashSet<u64>,
    /// Host offset behind all that is in use.
    pub(super) end: u64,
}

impl Allocator {
    /// The refcounts of an image, as its header tells of them.
    pub(crate) fn open(storage: &dyn Storage, header: &Header, limits: &Limits) -> Result<Self> {
        let geometry = header.geometry;
        let location = header.refcount_table;
        // At most 8 MiB, as the header was checked.
        let len = u64::from(location.clusters) * geometry.cluster_size();
        limits.allow_table("qcow2: refcount table's bytes", len)?;
        let file_size = storage.total_size()?;
        let end = geometry.clusters(file_size) << geometry.cluster_bits();
        if location.offset == 0 || location.offset.saturating_add(len) > end {
            let claim = field("header.refcount_table_offset", 48, location.offset);
            return Err(claim.malformed("no place of a whole refcount table"));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        storage.read_padded(&mut bytes, location.offset)?;
        let table = <[U64]>::ref_from_bytes(&bytes).unwrap_or_default().to_vec();
        let mut allocator = Self {
            geometry,
            table,
            table_offset: location.offset,
            table_clusters: location.clusters.into(),
            table_dirty: false,
            blocks: ClusterCache::new(geometry.cluster_len(), limits.cache_bytes / 4),
            next: 1,
            releases: Vec::new(),
            tables: HashSet::from([0]),
            end,
        };
        allocator.protect(location.offset, len);
        for index in 0..allocator.table.len() {
            let block = RefcountTableEntry(allocator.table[index].get()).block_offset();
            if block != 0 {
                allocator.protect(block, geometry.cluster_size());
            }
        }
        Ok(allocator)
    }

    /// Host offset behind all that is in use: a multiple of the cluster size.
    pub(crate) const fn end(&self) -> u64 {
        self.end
    }

    /// These bytes are a table's. There are no more of them than a table may have.
    pub(crate) fn protect(&mut self, offset: u64, len: u64) {
        let first = offset >> self.geometry.cluster_bits();
        self.tables
            .extend(first..first.saturating_add(self.geometry.clusters(len)));
    }

    /// That a cluster which is to be overwritten does not hold a table.
    pub(crate) fn is_table(&self, offset: u64) -> bool {
        self.tables
            .contains(&(offset >> self.geometry.cluster_bits()))
    }

    /// The host offset of so many free clusters in a row, which are counted from now on. `None` where there is no room for
    /// their refcounts: [`Self::grow`] makes it.
    pub(crate) fn allocate(&mut self, storage: &dyn Storage, count: u64) -> Result<Option<u64>> {
        let Some(first) = self.find_free(storage, count)? else {
            return Ok(None);
        };
        for cluster in first..first + count {
            self.take(storage, cluster)?;
        }
        Ok(Some(first << self.geometry.cluster_bits()))
    }

    /// The same for the one cluster at a host offset. `false` where it is not free, or its refcount has no block yet.
    pub(crate) fn allocate_at(&mut self, storage: &dyn Storage, offset: u64) -> Result<bool> {
        let cluster = offset >> self.geometry.cluster_bits();
        let block = self.block_offset(cluster / self.geometry.refcounts_per_block())?;
        if block.is_none() || self.tables.contains(&cluster) || self.count(storage, offset)? != 0 {
            return Ok(false);
        }
        self.take(storage, cluster)?;
        Ok(true)
    }

    /// From now on the cluster at a host offset, which is in use, has one user more.
    pub(crate) fn use_more(&mut self, storage: &dyn Storage, offset: u64) -> Result<()> {
        let count = self.count(storage, offset)?;
        let cluster = offset >> self.geometry.cluster_bits();
        if count == 0 {
            let claim = field(format!("refcount of cluster {cluster}"), 0, 0_u64);
            return Err(claim.malformed("but it is in use: the image must be repaired first"));
        }
        if count == self.geometry.refcount_max() {
            let bits = self.geometry.refcount_bits();
            let why = format!("a cluster with more users than {bits} bits can count");
            return Err(Error::unsupported(FORMAT, why));
        }
        self.set(storage, cluster, count + 1)
    }

    /// From the next write of tables on, the cluster at a host offset has one user less.
    pub(crate) fn release(&mut self, offset: u64) {
        self.releases.push(offset >> self.geometry.cluster_bits());
    }

    /// How many users the cluster at a host offset has, those counted who have given it up since the last write.
    pub(crate) fn count(&mut self, storage: &dyn Storage, offset: u64) -> Result<u64> {
        let cluster = offset >> self.geometry.cluster_bits();
        let per_block = self.geometry.refcounts_per_block();
        let Some(offset) = self.block_offset(cluster / per_block)? else {
            return Ok(0);
        };
        let block = self.blocks.get(storage, offset)?;
        let order = self.geometry.refcount_order();
        Ok(refcount(block, cluster % per_block, order))
    }

    /// Host offset behind the last cluster in use, which is where the file may end from now on.
    pub(crate) fn last_used(&mut self, storage: &dyn Storage) -> Result<u64> {
        let mut end = self.end;
        while end > 0 && self.count(storage, end - 1)? == 0 {
            end -= self.geometry.cluster_size();
        }
        self.end = end;
        Ok(end)
    }

    /// Whether so much is to be written that it should be done.
    pub(crate) fn is_full(&self) -> bool {
        const MANY: usize = 1 << 16;
        self.blocks.is_full() || self.releases.len() > MANY
    }

    /// Whether nothing is to be written.
    pub(crate) fn is_clean(&self) -> bool {
        self.blocks.is_clean() && !self.table_dirty && self.releases.is_empty()
    }

    /// Puts the refcounts of what has been allocated on stable storage: before anything points there. What was written to the
    /// storage before is stable then, too.
    pub(crate) fn write(&mut self, storage: &dyn StorageMut) -> Result<()> {
        self.blocks.write(storage)?;
        sync(storage)?;
        if self.table_dirty {
            write(storage, self.table_offset, self.table.as_bytes())?;
            sync(storage)?;
            self.table_dirty = false;
        }
        Ok(())
    }

    /// Writes the refcounts that have changed. What has been released need not be on stable storage before it is used again:
    /// then it is counted again first.
    pub(crate) fn write_blocks(&mut self, storage: &dyn StorageMut) -> Result<()> {
        self.blocks.write(storage)
    }

    /// Counts what has been released, once no pointer on stable storage leads there any more. Gives the host bytes that
    /// nobody uses now, in runs.
    pub(crate) fn count_releases(&mut self, storage: &dyn Storage) -> Result<Vec<Range<u64>>> {
        let mut freed = Vec::new();
        while let Some(cluster) = self.releases.last().copied() {
            let count = self.count(storage, cluster << self.geometry.cluster_bits())?;
            if count > 0 {
                self.set(storage, cluster, count - 1)?;
            }
            if count == 1 {
                self.tables.remove(&cluster);
                self.next = self.next.min(cluster.max(1));
                freed.push(cluster);
            }
            self.releases.pop();
        }
        freed.sort_unstable();
        let bits = self.geometry.cluster_bits();
        Ok(runs(&freed)
            .into_iter()
            .map(|run| run.start << bits..run.end << bits)
            .collect())
    }

    fn take(&mut self, storage: &dyn Storage, cluster: u64) -> Result<()> {
        self.set(storage, cluster, 1)?;
        if cluster == self.next {
            self.next = cluster + 1;
        }
        let end = (cluster + 1) << self.geometry.cluster_bits();
        self.end = self.end.max(end);
        Ok(())
    }

    /// Sets the refcount of a cluster that has a block.
    pub(crate) fn set(&mut self, storage: &dyn Storage, cluster: u64, count: u64) -> Result<()> {
        let per_block = self.geometry.refcounts_per_block();
        let Some(offset) = self.block_offset(cluster / per_block)? else {
            return Ok(());
        };
        // Below the number of a block's refcounts.
        let within = usize::try_from(cluster % per_block).unwrap_or(0);
        let order = self.geometry.refcount_order();
        let at = (within << order) / 8;
        let range = at..at + (1 << order.saturating_sub(3));
        let block = self.blocks.get_mut(storage, offset, range)?;
        set_refcount(block, within, order, count);
        Ok(())
    }

    /// Where the refcount block with this number lies, if there is one.
    pub(super) fn block_offset(&self, index: u64) -> Result<Option<u64>> {
        let position = usize::try_from(index).unwrap_or(usize::MAX);
        let entry = RefcountTableEntry(self.table.get(position).map_or(0, |entry| entry.get()));
        let offset = entry.block_offset();
        let inside = offset
            .checked_add(self.geometry.cluster_size())
            .is_some_and(|end| end <= self.end);
        if offset != 0 && !(inside && self.geometry.is_aligned(offset)) {
            let at = self.table_offset + 8 * index;
            let claim = field(format!("refcount_table[{index}]"), at, entry.0);
            return Err(claim.malformed("no place of a refcount block"));
        }
        Ok(Some(offset).filter(|offset| *offset != 0))
    }
}

/// Numbers in ascending order, as runs of such as follow one another.
fn runs(numbers: &[u64]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(run) if run.end == *number => run.end += 1,
            _ => runs.push(*number..number + 1),
        }
    }
    runs
}
