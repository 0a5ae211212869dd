//! The trees of L1 and L2 tables: what they use, and whether their entries are sound.

use diskette_core::{Result, Severity, Table};
use zerocopy::big_endian::U64;

use super::Check;
use crate::entry::{L1Entry, L2Entry, Subclusters};
use crate::header::L1Location;

/// Which tree it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// The disk's present state: its clusters count for the statistics.
    Active,
    Snapshot,
}

/// What an L2 entry leads to, as the check sees it.
enum Cluster {
    Compressed,
    /// It has a place: data, or zeros.
    Placed,
    /// It has none.
    Nowhere,
}

impl Check<'_> {
    /// Counts what a tree uses.
    pub(super) fn count_tree(&mut self, l1: &L1Location, which: Which) -> Result<()> {
        let geometry = self.header.geometry;
        self.count_table("L1 table", l1.offset, l1.entries * 8)?;
        let table = self.read_whole_table(l1.offset, l1.entries * 8)?;
        for entry in table.entries() {
            let entry = L1Entry(entry.get());
            if entry.0 == 0 {
                continue;
            }
            if entry.reserved_bits() != 0 {
                self.corruption(format_args!(
                    "ERROR found L1 entry with reserved bits set: {:x}",
                    entry.0
                ));
            }
            let offset = entry.table_offset();
            self.follow(offset, geometry.cluster_size())?;
            if !geometry.is_aligned(offset) {
                self.lost.any = true;
                self.corruption(format_args!(
                    "ERROR l2_offset={offset:x}: Table is not cluster aligned; L1 entry corrupted"
                ));
            }
            let table = self.read_whole_table(offset, geometry.cluster_size())?;
            self.count_l2(&table, which)?;
        }
        Ok(())
    }

    /// A table. Entries that the file does not have are lost.
    fn read_whole_table(&mut self, offset: u64, len: u64) -> Result<Table<U64>> {
        self.lost.any |= offset.saturating_add(len) > self.file_size;
        self.read_table(offset, len)
    }

    fn count_l2(&mut self, table: &Table<U64>, which: Which) -> Result<()> {
        let mut next = None;
        for index in 0..self.header.geometry.l2_entries() {
            let (entry, bitmap) = self.entry(table, index);
            if !entry.is_compressed() && entry.reserved_bits() != 0 {
                self.corruption(format_args!(
                    "ERROR found l2 entry with reserved bits set: {:x}",
                    entry.0
                ));
            }
            if self.header.version == 2 && entry.is_zero() && !entry.is_compressed() {
                self.corruption(format_args!(
                    "ERROR zero cluster in an image of version 2: l2_entry={:x}",
                    entry.0
                ));
            }
            match self.cluster(entry) {
                Cluster::Compressed => self.count_compressed(index, entry, bitmap, which)?,
                Cluster::Placed => self.count_placed(entry, bitmap, which, &mut next)?,
                Cluster::Nowhere if bitmap.data_bits() != 0 => self.corruption(
                    "ERROR: Unallocated cluster has non-zero subcluster allocation map",
                ),
                Cluster::Nowhere => {}
            }
        }
        Ok(())
    }

    fn count_compressed(
        &mut self,
        index: u64,
        entry: L2Entry,
        bitmap: Subclusters,
        which: Which,
    ) -> Result<()> {
        let stream = self.header.geometry.stream(entry);
        if entry.is_copied() {
            self.corruption(format_args!(
                "ERROR: coffset={:#x}: copied flag must never be set for compressed clusters",
                stream.offset
            ));
        }
        if self.header.features.data_file() {
            self.corruption(format_args!(
                "ERROR compressed cluster {index} with data file, entry={:#x}",
                entry.0
            ));
            self.lost.any = true;
            return Ok(());
        }
        if bitmap != Subclusters::HOLES {
            self.corruption(format_args!(
                "ERROR compressed cluster {index} with non-zero subcluster allocation bitmap, entry={:#x}",
                entry.0
            ));
            self.lost.any = true;
            return Ok(());
        }
        self.follow(stream.offset, stream.len)?;
        if which == Which::Active {
            self.report.allocated_granules += 1;
            self.report.compressed_granules += 1;
            // By nature.
            self.report.fragmented_granules += 1;
        }
        Ok(())
    }

    /// `next` is where the cluster would lie if it followed the last one.
    fn count_placed(
        &mut self,
        entry: L2Entry,
        bitmap: Subclusters,
        which: Which,
        next: &mut Option<u64>,
    ) -> Result<()> {
        let geometry = self.header.geometry;
        let offset = entry.offset();
        if !bitmap.is_valid(true) {
            self.lost.any |= !geometry.is_aligned(offset);
            self.corruption(format_args!(
                "ERROR offset={offset:x}: Allocated cluster has corrupted subcluster allocation bitmap"
            ));
        } else if !geometry.is_aligned(offset) {
            let has_data = if geometry.extended_l2() {
                bitmap.data_bits() != 0
            } else {
                !entry.is_zero()
            };
            let kind = if has_data { "Data" } else { "Preallocated" };
            self.lost.any |= has_data;
            self.corruption(format_args!(
                "ERROR offset={offset:x}: {kind} cluster is not properly aligned; L2 entry corrupted."
            ));
        }
        if which == Which::Active {
            self.report.allocated_granules += 1;
            if next.is_some_and(|next| next != offset) {
                self.report.fragmented_granules += 1;
            }
            *next = Some(offset + geometry.cluster_size()); // below 2^57
        }
        if self.header.features.data_file() {
            return Ok(());
        }
        self.follow(offset, geometry.cluster_size())?;
        Ok(())
    }

    /// That the active tree's entries are marked as copied where, and only where, the refcount is 1.
    pub(super) fn copied_flags(&mut self) -> Result<()> {
        let geometry = self.header.geometry;
        let l1 = &self.header.l1;
        let table = self.read_table(l1.offset, l1.entries * 8)?;
        for (index, entry) in table.entries().iter().enumerate() {
            let entry = L1Entry(entry.get());
            let offset = entry.table_offset();
            if offset == 0 {
                continue;
            }
            let Some(refcount) = self.refcount_of(offset)? else {
                continue;
            };
            if (refcount == 1) != entry.is_copied() {
                self.copied_wrong += 1;
                self.corruption(format_args!(
                    "ERROR OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={:x} refcount={refcount}",
                    entry.0
                ));
            }
            let table = self.read_table(offset, geometry.cluster_size())?;
            self.copied_flags_of_l2(&table)?;
        }
        Ok(())
    }

    fn copied_flags_of_l2(&mut self, table: &Table<U64>) -> Result<()> {
        for index in 0..self.header.geometry.l2_entries() {
            let (entry, _) = self.entry(table, index);
            if !matches!(self.cluster(entry), Cluster::Placed) {
                continue;
            }
            let refcount = if self.header.features.data_file() {
                Some(1)
            } else {
                self.refcount_of(entry.offset())?
            };
            if refcount.is_some_and(|refcount| (refcount == 1) != entry.is_copied()) {
                self.copied_wrong += 1;
                self.report.add(
                    Severity::Corruption,
                    format_args!(
                        "ERROR OFLAG_COPIED data cluster: l2_entry={:x} refcount={}",
                        entry.0,
                        refcount.unwrap_or_default()
                    ),
                );
            }
        }
        Ok(())
    }

    /// The stored refcount of the cluster at a host offset; `None` where it cannot be told, which has been reported.
    pub(super) fn refcount_of(&self, offset: u64) -> Result<Option<u64>> {
        let cluster = offset >> self.header.geometry.cluster_bits();
        match self.stored.of(self.storage, cluster) {
            Ok(refcount) => Ok(Some(refcount)),
            Err(diskette_core::Error::Malformed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn cluster(&self, entry: L2Entry) -> Cluster {
        let zero = entry.is_zero() && !self.header.geometry.extended_l2();
        if entry.is_compressed() {
            Cluster::Compressed
        } else if entry.offset() != 0
            || !zero && entry.place(self.header.features.data_file()).is_some()
        {
            Cluster::Placed
        } else {
            Cluster::Nowhere
        }
    }

    /// An entry, and its bitmap where it has one.
    fn entry(&self, table: &Table<U64>, index: u64) -> (L2Entry, Subclusters) {
        let word = |index: u64| {
            let index = usize::try_from(index).unwrap_or(usize::MAX);
            table.get(index).unwrap_or_default().get()
        };
        if self.header.geometry.extended_l2() {
            (L2Entry(word(2 * index)), Subclusters(word(2 * index + 1)))
        } else {
            (L2Entry(word(index)), Subclusters::HOLES)
        }
    }
}
