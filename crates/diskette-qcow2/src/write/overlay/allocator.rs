//! Finds free clusters in an image that exists, and counts who uses which.

use std::collections::HashSet;

use diskette_core::{Error, Limits, Result, StorageExt, StorageMut};
use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::cache::{ClusterCache, sync, write};
use crate::geometry::Geometry;
use crate::header::{Header, field};
use crate::refcount::{RefcountTableEntry, refcount};
use crate::write::refcounts::set_refcount;
use crate::{FORMAT, spec};

/// The refcounts of an image that is being changed.
///
/// A cluster is counted before anything points to it, and no longer counted only when nothing on the disk does: see
/// [`Self::write`] and [`Self::write_releases`].
#[derive(Debug)]
pub(super) struct Allocator {
    geometry: Geometry,
    table: Vec<U64>,
    table_offset: u64,
    table_clusters: u64,
    /// Whether entries of the table are to be written.
    table_dirty: bool,
    blocks: ClusterCache,
    /// No cluster before this one is free.
    next: u64,
    /// Clusters that are used once less than their refcounts say.
    releases: Vec<u64>,
    /// Clusters of tables. A sound image counts them; they are never handed out, whatever it says.
    tables: HashSet<u64>,
    /// Host offset behind all that is in use.
    end: u64,
}

impl Allocator {
    pub(super) fn open(storage: &dyn StorageMut, header: &Header, limits: &Limits) -> Result<Self> {
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
        let mut tables = HashSet::from([0]);
        let first = location.offset >> geometry.cluster_bits();
        tables.extend(first..first + u64::from(location.clusters));
        let blocks = table
            .iter()
            .map(|entry| RefcountTableEntry(entry.get()).block_offset());
        tables.extend(
            blocks
                .filter(|offset| *offset != 0)
                .map(|offset| offset >> geometry.cluster_bits()),
        );
        Ok(Self {
            geometry,
            table,
            table_offset: location.offset,
            table_clusters: location.clusters.into(),
            table_dirty: false,
            blocks: ClusterCache::new(geometry.cluster_len(), limits.cache_bytes / 4),
            next: 1,
            releases: Vec::new(),
            tables,
            end,
        })
    }

    /// Host offset behind all that is in use: a multiple of the cluster size.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    /// These clusters are tables.
    pub(super) fn protect(&mut self, offset: u64, len: u64) {
        let first = offset >> self.geometry.cluster_bits();
        self.tables
            .extend(first..first + self.geometry.clusters(len));
    }

    /// That a cluster which is to be overwritten does not hold a table.
    pub(super) fn is_table(&self, offset: u64) -> bool {
        self.tables
            .contains(&(offset >> self.geometry.cluster_bits()))
    }

    /// Whether there is room for the refcount of the next cluster. If not, [`Self::grow`] makes it.
    pub(super) fn must_grow(&mut self, storage: &dyn StorageMut) -> Result<bool> {
        self.find_free(storage)
            .map(|found| matches!(found, Found::NoRoom))
    }

    /// The host offset of a free cluster, which is counted from now on.
    pub(super) fn allocate(&mut self, storage: &dyn StorageMut) -> Result<u64> {
        let Found::Free(cluster) = self.find_free(storage)? else {
            return Err(Error::unsupported(FORMAT, "a refcount table that is full"));
        };
        self.set(storage, cluster, 1)?;
        self.next = cluster + 1;
        let offset = cluster << self.geometry.cluster_bits();
        self.end = self.end.max(offset + self.geometry.cluster_size());
        Ok(offset)
    }

    /// From the next write of tables on, the cluster at a host offset has one user less.
    pub(super) fn release(&mut self, offset: u64) {
        self.releases.push(offset >> self.geometry.cluster_bits());
    }

    /// Whether so much is to be written that it should be done.
    pub(super) fn is_full(&self) -> bool {
        const MANY: usize = 1 << 16;
        self.blocks.is_full() || self.releases.len() > MANY
    }

    /// Whether nothing is to be written.
    pub(super) fn is_clean(&self) -> bool {
        self.blocks.is_clean() && !self.table_dirty && self.releases.is_empty()
    }

    /// Puts the refcounts of what has been allocated on stable storage: before anything points there.
    pub(super) fn write(&mut self, storage: &dyn StorageMut) -> Result<()> {
        if !self.blocks.is_clean() {
            self.blocks.write(storage)?;
            sync(storage)?;
        }
        if self.table_dirty {
            write(storage, self.table_offset, self.table.as_bytes())?;
            sync(storage)?;
            self.table_dirty = false;
        }
        Ok(())
    }

    /// Counts what has been released, once no pointer on stable storage leads there any more.
    pub(super) fn write_releases(&mut self, storage: &dyn StorageMut) -> Result<()> {
        while let Some(cluster) = self.releases.last().copied() {
            let count = self.count(storage, cluster)?;
            if count > 0 {
                self.set(storage, cluster, count - 1)?;
            }
            if count == 1 {
                self.tables.remove(&cluster);
                self.next = self.next.min(cluster.max(1));
            }
            self.releases.pop();
        }
        self.write(storage)
    }

    /// Makes the refcount table larger. Nothing else may be waiting to be written.
    pub(super) fn grow(&mut self, storage: &dyn StorageMut) -> Result<()> {
        let geometry = self.geometry;
        let per_block = geometry.refcounts_per_block();
        let old = self.table.len() as u64;
        let first = old * per_block;
        let mut blocks = 1;
        let table_clusters = loop {
            let entries = (old + blocks).max(old + old / 2);
            let table = geometry.clusters(entries * 8);
            let needed = (table + blocks + 1).div_ceil(per_block);
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
        self.next = first + used;
        self.end = self.end.max(offset + (used << geometry.cluster_bits()));
        Ok(())
    }

    /// Looks for a free cluster. Blocks that it takes to count one are made on the way.
    fn find_free(&mut self, storage: &dyn StorageMut) -> Result<Found> {
        let per_block = self.geometry.refcounts_per_block();
        loop {
            let index = self.next / per_block;
            if index >= self.table.len() as u64 {
                return Ok(Found::NoRoom);
            }
            if self.next > (self.end >> self.geometry.cluster_bits()) + MOST_BEHIND_END {
                let claim = field(format!("refcount_table[{index}]"), self.table_offset, index);
                return Err(claim.malformed("it counts clusters far behind the file's end"));
            }
            let Some(offset) = self.block_offset(index)? else {
                self.make_block(index)?;
                continue;
            };
            let order = self.geometry.refcount_order();
            let block = self.blocks.get(storage, offset)?;
            let free = (self.next % per_block..per_block)
                .find(|within| refcount(block, *within, order) == 0);
            self.next = index * per_block + free.unwrap_or(per_block);
            if free.is_some() {
                self.refuse_table(self.next)?;
                return Ok(Found::Free(self.next));
            }
        }
    }

    /// Makes the block with this number in the next cluster, which it counts itself.
    fn make_block(&mut self, index: u64) -> Result<()> {
        let cluster = self.next;
        self.refuse_table(cluster)?;
        let within = usize::try_from(cluster % self.geometry.refcounts_per_block()).unwrap_or(0);
        let mut bytes = vec![0; self.geometry.cluster_len()];
        set_refcount(&mut bytes, within, self.geometry.refcount_order(), 1);
        let offset = cluster << self.geometry.cluster_bits();
        self.blocks.put(offset, bytes);
        self.table[usize::try_from(index).unwrap_or(usize::MAX)] = offset.into();
        self.table_dirty = true;
        self.tables.insert(cluster);
        self.next = cluster + 1;
        self.end = self.end.max(offset + self.geometry.cluster_size());
        Ok(())
    }

    fn refuse_table(&self, cluster: u64) -> Result<()> {
        if !self.tables.contains(&cluster) {
            return Ok(());
        }
        let claim = field(format!("refcount of cluster {cluster}"), 0, 0_u64);
        Err(claim.malformed("but the cluster holds a table: the image must be repaired first"))
    }

    fn count(&mut self, storage: &dyn StorageMut, cluster: u64) -> Result<u64> {
        let per_block = self.geometry.refcounts_per_block();
        let Some(offset) = self.block_offset(cluster / per_block)? else {
            return Ok(0);
        };
        let block = self.blocks.get(storage, offset)?;
        let order = self.geometry.refcount_order();
        Ok(refcount(block, cluster % per_block, order))
    }

    /// Sets the refcount of a cluster that has a block.
    fn set(&mut self, storage: &dyn StorageMut, cluster: u64, count: u64) -> Result<()> {
        let per_block = self.geometry.refcounts_per_block();
        let Some(offset) = self.block_offset(cluster / per_block)? else {
            return Ok(());
        };
        let within = usize::try_from(cluster % per_block).unwrap_or(0);
        let order = self.geometry.refcount_order();
        set_refcount(self.blocks.get_mut(storage, offset)?, within, order, count);
        Ok(())
    }

    fn block_offset(&self, index: u64) -> Result<Option<u64>> {
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

/// What a search for a free cluster finds.
enum Found {
    Free(u64),
    /// The refcount table is too small.
    NoRoom,
}

/// A writer that was cut off may have counted some clusters behind the file's end, but not more.
const MOST_BEHIND_END: u64 = 1 << 20;

/// Where the header tells of the refcount table: offset and clusters, which are changed by one write.
const REFCOUNT_TABLE_FIELDS: u64 = 48;

fn table_fields(offset: u64, clusters: u64) -> Vec<u8> {
    let clusters = U32::new(u32::try_from(clusters).unwrap_or(u32::MAX));
    [U64::new(offset).as_bytes(), clusters.as_bytes()].concat()
}
