//! Refcounts of another width: a new table and new blocks behind the file's end, and one write that leads to them.

use diskette_core::{Error, OpenContext, Result, StorageExt, StorageMut};
use zerocopy::IntoBytes;
use zerocopy::big_endian::{U32, U64};

use crate::edit::{sync, write, write_zeros};
use crate::geometry::Geometry;
use crate::header::Header;
use crate::refcount::{Refcounts, refcount, set_refcount};
use crate::{FORMAT, spec};

/// Gives an image of version 3, which is clean, refcounts of `1 << order` bits.
pub(super) fn change_width(
    storage: &dyn StorageMut,
    order: u32,
    cx: &OpenContext<'_>,
) -> Result<()> {
    let header = Header::read(storage, cx.limits)?;
    if header.geometry.refcount_order() == order {
        return Ok(());
    }
    let old_size = storage.total_size()?;
    let change = Change::plan(storage, &header, order, cx)?;
    let written = change.write();
    if written.is_err() && storage.total_size()? > old_size {
        // Nothing leads there. Who asks why it failed has that error.
        let _ = storage.set_size(old_size);
    }
    written?;
    change.switch()?;
    change.free_old()
}

/// The old refcounts, and where the new ones are to lie.
struct Change<'a> {
    storage: &'a dyn StorageMut,
    old: Refcounts,
    /// Clusters of the old table and its blocks, in ascending order.
    old_clusters: Vec<u64>,
    old_geometry: Geometry,
    geometry: Geometry,
    /// The new table's first cluster; blocks follow it.
    first: u64,
    table_clusters: u64,
    blocks: u64,
}

impl<'a> Change<'a> {
    fn plan(
        storage: &'a dyn StorageMut,
        header: &Header,
        order: u32,
        cx: &OpenContext<'_>,
    ) -> Result<Self> {
        let old_geometry = header.geometry;
        let bits = old_geometry.cluster_bits();
        let extended = old_geometry.extended_l2();
        let geometry = Geometry::new(bits, extended, order)
            .ok_or_else(|| Error::unsupported(FORMAT, "refcounts of this width"))?;
        let table = header.refcount_table;
        let old = Refcounts::open(storage, header, cx.limits)?;
        let first_of_table = table.offset >> bits;
        let mut old_clusters: Vec<u64> =
            (first_of_table..first_of_table + u64::from(table.clusters)).collect();
        let blocks = old.table().map(|entry| entry.block_offset() >> bits);
        old_clusters.extend(blocks.filter(|cluster| *cluster != 0));
        old_clusters.sort_unstable();
        let file_end = old_geometry.clusters(storage.total_size()?);
        let mut change = Self {
            first: file_end.max(counted_end(storage, &old, old_geometry)?),
            storage,
            old,
            old_clusters,
            old_geometry,
            geometry,
            table_clusters: 0,
            blocks: 0,
        };
        change.settle_size();
        let len = change.table_clusters << bits;
        let end = change.end().checked_mul(geometry.cluster_size());
        if len > spec::REFCOUNT_TABLE_LEN_MAX || end.is_none_or(|end| end > spec::HOST_OFFSET_END) {
            let why = "refcounts of this width for a file of so many clusters";
            return Err(Error::unsupported(FORMAT, why));
        }
        Ok(change)
    }

    /// As many blocks as count all clusters, themselves included. Each round can only add.
    fn settle_size(&mut self) {
        loop {
            let blocks = self.end().div_ceil(self.geometry.refcounts_per_block());
            let table_clusters = self.geometry.clusters(blocks * 8);
            if (blocks, table_clusters) == (self.blocks, self.table_clusters) {
                return;
            }
            (self.blocks, self.table_clusters) = (blocks, table_clusters);
        }
    }

    /// Behind all clusters.
    const fn end(&self) -> u64 {
        self.first + self.table_clusters + self.blocks
    }

    fn write(&self) -> Result<()> {
        let bits = self.geometry.cluster_bits();
        let mut table = Vec::new();
        for index in 0..self.blocks {
            let offset = (self.first + self.table_clusters + index) << bits;
            write(self.storage, offset, &self.block(index)?)?;
            table.push(U64::new(offset));
        }
        let entries = (self.table_clusters << bits) / 8; // At most 8 MiB.
        table.resize(usize::try_from(entries).unwrap_or(0), U64::ZERO);
        write(self.storage, self.first << bits, table.as_bytes())?;
        sync(self.storage)
    }

    /// The counts of a new block.
    fn block(&self, index: u64) -> Result<Vec<u8>> {
        let per_block = self.geometry.refcounts_per_block();
        let mut bytes = vec![0; self.geometry.cluster_len()];
        let clusters = index * per_block..self.end().min((index + 1) * per_block);
        for (within, cluster) in clusters.enumerate() {
            let count = match cluster >= self.first {
                true => 1,
                false => self.count(cluster)?,
            };
            set_refcount(&mut bytes, within, self.geometry.refcount_order(), count);
        }
        Ok(bytes)
    }

    /// How many users a cluster has once the old refcounts are gone.
    fn count(&self, cluster: u64) -> Result<u64> {
        let count = self.old.of(self.storage, cluster)?;
        if count > self.geometry.refcount_max() {
            let bits = self.geometry.refcount_bits();
            let why = format!("a cluster with {count} users, more than {bits} bits can count");
            return Err(Error::unsupported(FORMAT, why));
        }
        let is_old = self.old_clusters.binary_search(&cluster).is_ok();
        Ok(count.saturating_sub(u64::from(is_old)))
    }

    /// All that tells of refcounts lies in one sector: one write.
    fn switch(&self) -> Result<()> {
        let mut fields = self.storage.read_vec(FIELDS_LEN, TABLE_FIELDS)?;
        let offset = U64::new(self.first << self.geometry.cluster_bits());
        // At most 8 MiB of clusters.
        let clusters = U32::new(u32::try_from(self.table_clusters).unwrap_or(0));
        let order = U32::new(self.geometry.refcount_order());
        fields[..8].copy_from_slice(offset.as_bytes());
        fields[8..12].copy_from_slice(clusters.as_bytes());
        fields[FIELDS_LEN - 4..].copy_from_slice(order.as_bytes());
        write(self.storage, TABLE_FIELDS, &fields)?;
        sync(self.storage)
    }

    /// Punches the old table and its blocks out of the file.
    fn free_old(&self) -> Result<()> {
        let bits = self.old_geometry.cluster_bits();
        for cluster in &self.old_clusters {
            if self.count(*cluster).is_ok_and(|count| count == 0) {
                let (offset, len) = (cluster << bits, self.old_geometry.cluster_size());
                write_zeros(self.storage, offset, len)?;
            }
        }
        sync(self.storage)
    }
}

/// Where the header tells of the refcount table: offset and clusters ...
const TABLE_FIELDS: u64 = 48;
/// ... and, at the end of so many bytes, the width.
const FIELDS_LEN: usize = 52;

/// Behind the last cluster that is counted.
fn counted_end(storage: &dyn StorageMut, old: &Refcounts, geometry: Geometry) -> Result<u64> {
    let per_block = geometry.refcounts_per_block();
    let entries: Vec<_> = old.table().collect();
    for index in (0..entries.len() as u64).rev() {
        let Some(block) = old.block(storage, index)? else {
            continue;
        };
        let is_used =
            |within: &u64| refcount(block.entries(), *within, geometry.refcount_order()) != 0;
        if let Some(last) = (0..per_block).rev().find(is_used) {
            return Ok(index * per_block + last + 1);
        }
    }
    Ok(0)
}
