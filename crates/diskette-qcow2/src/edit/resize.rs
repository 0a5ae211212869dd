//! Another size for the disk.

use diskette_core::{Error, Result, SECTOR, StorageExt, round_down, round_up};
use zerocopy::IntoBytes;
use zerocopy::big_endian::U64;

use super::cache::{sync, write};
use super::image::Image;
use crate::entry::{L1Entry, L2Entry, Subcluster, Subclusters};
use crate::header::Header;
use crate::{FORMAT, spec};

impl Image {
    /// Gives the disk another size. What is new reads as zeros, whatever lies below, and whatever was there before a cut.
    pub(super) fn resize(&mut self, size: u64) -> Result<()> {
        let header = Header::read(&*self.files.storage, &self.limits)?;
        let why = if !size.is_multiple_of(SECTOR) {
            "a disk that is not of whole sectors of 512 bytes"
        } else if self.geometry.l1_entries(size) > spec::L1_TABLE_LEN_MAX / 8
            || i64::try_from(size).is_err()
        {
            "a disk so large in clusters so small"
        } else if !self.version_3 && header.snapshot_count > 0 {
            "another size for an image of version 2 with snapshots"
        } else {
            self.prepare()?;
            self.wait_for_others();
            let old = self.size;
            self.mark_for_resize(size)?;
            let resized = match size < old {
                true => self.shrink(size),
                false => self.grow(size),
            };
            let resized = resized.and_then(|()| self.resize_bitmaps(old));
            if resized.is_err() {
                self.bitmaps.abandon();
            }
            return resized;
        };
        Err(Error::unsupported(FORMAT, why))
    }

    /// First the tables are ready, then the header tells of the size.
    fn grow(&mut self, size: u64) -> Result<()> {
        let old = self.size;
        let needed = self.geometry.l1_entries(size);
        if needed > self.l1.len() as u64 {
            self.move_l1(needed)?;
        }
        if let Some(data_file) = &self.files.data_file {
            set_size(&*data_file.storage, size)?;
        }
        self.size = size;
        let grown = self
            .zero_grown(old, size)
            .and_then(|()| self.commit())
            .and_then(|()| self.write_size(size));
        if grown.is_err() {
            self.size = old;
        }
        grown
    }

    /// First the header tells of the size, then what lies behind it is given up.
    fn shrink(&mut self, size: u64) -> Result<()> {
        let old = self.size;
        self.commit()?;
        self.write_size(size)?;
        self.size = size;
        self.zero_tail(size)?;
        let cluster_size = self.geometry.cluster_size();
        let first = round_up(size, cluster_size).unwrap_or(old);
        self.empty_from(first)?;
        self.commit()?;
        if let Some(data_file) = &self.files.data_file {
            set_size(&*data_file.storage, size)?;
        }
        self.cut_unused_end()
    }

    /// Ends the file behind the last cluster in use.
    pub(super) fn cut_unused_end(&mut self) -> Result<()> {
        let end = self.allocator.last_used(&*self.storage())?;
        let file_size = self.files.storage.total_size()?;
        if end < file_size {
            set_size(&*self.files.storage, end)?;
        }
        Ok(())
    }

    /// A longer L1 table: a new one, then the header that leads to it.
    fn move_l1(&mut self, entries: u64) -> Result<()> {
        self.commit()?;
        let mut l1 = self.l1.clone();
        // At most 32 MiB.
        l1.resize(usize::try_from(entries).unwrap_or(0), U64::ZERO);
        let storage = self.storage();
        let len = 8 * entries;
        let offset = self.allocate_table(len)?;
        self.commit()?;
        write(&*storage, offset, l1.as_bytes())?;
        sync(&*storage)?;
        let entries = zerocopy::big_endian::U32::new(u32::try_from(entries).unwrap_or(0));
        let fields = [entries.as_bytes(), U64::new(offset).as_bytes()].concat();
        write(&*storage, L1_FIELDS, &fields)?;
        sync(&*storage)?;
        self.release_table(self.l1_offset, 8 * self.l1.len() as u64);
        self.l1 = l1;
        self.l1_offset = offset;
        Ok(())
    }

    /// Makes zeros of what shows where the disk was shorter before: what lies below, or what a cut has left.
    fn zero_grown(&mut self, old: u64, size: u64) -> Result<()> {
        let below = self.files.below.as_ref().map_or(0, |below| below.size());
        let coverage = self.geometry.l2_coverage();
        let raw = matches!(&self.files.data_file, Some(file) if file.is_raw);
        let mut at = old;
        while at < size {
            if !raw && !self.has_table(at) && at >= below {
                at = round_down(at, coverage).saturating_add(coverage);
                continue;
            }
            let len = self.left_of_cluster(at).min(size - at);
            self.zero_part(at, len)?;
            if raw {
                self.preallocate(at)?;
            }
            at += len;
            if self.l2.is_full() || self.allocator.is_full() {
                self.commit()?;
            }
        }
        Ok(())
    }

    /// Where the data file is the disk by itself, every cluster has its place there.
    fn preallocate(&mut self, offset: u64) -> Result<()> {
        let found = self.find(offset)?;
        if found.place.is_some() || self.geometry.extended_l2() {
            return Ok(());
        }
        self.set(
            found.start,
            L2Entry::data(found.start, true),
            Subclusters::DATA,
        )
    }

    /// Makes zeros of what is stored of the last cluster behind the disk's end.
    fn zero_tail(&mut self, size: u64) -> Result<()> {
        let cluster_size = self.geometry.cluster_size();
        if size.is_multiple_of(cluster_size) {
            return Ok(());
        }
        let found = self.find(size)?;
        let mut at = size;
        let end = found.start + cluster_size;
        while at < end {
            let (kind, _, run_end) = self.run_in(&found, at - found.start);
            let run_end = (found.start + run_end).min(end);
            if kind == Subcluster::Data {
                self.zero_part(at, run_end - at)?;
            }
            at = run_end;
        }
        Ok(())
    }

    /// Gives up all clusters from a guest offset on, and tables that have no others.
    fn empty_from(&mut self, first: u64) -> Result<()> {
        let coverage = self.geometry.l2_coverage();
        for index in 0..self.l1.len() {
            let start = (index as u64).saturating_mul(coverage);
            let end = start.saturating_add(coverage);
            let entry = L1Entry(self.l1[index].get());
            if end <= first || entry.table_offset() == 0 {
                continue;
            }
            if start < first {
                self.empty_clusters(first)?;
                continue;
            }
            let l1 = [self.l1[index]];
            self.set_l1(index, L1Entry(0));
            self.release_tree(&l1)?;
            if self.allocator.is_full() {
                self.commit()?;
            }
        }
        Ok(())
    }

    /// Gives up the clusters from a guest offset on that one table leads to.
    fn empty_clusters(&mut self, first: u64) -> Result<()> {
        let table = self.writable_table(first)?;
        let bytes = self.l2.get(&*self.files.storage, table)?.to_vec();
        let position = self.geometry.split(first);
        for (index, entry) in self.entries_in(&bytes) {
            if index >= position.l2_index {
                let guest = self.geometry.cluster_start(position.l1_index, index);
                self.set(guest, L2Entry::HOLE, Subclusters::HOLES)?;
                self.release(entry);
            }
        }
        Ok(())
    }

    fn write_size(&self, size: u64) -> Result<()> {
        write(&*self.files.storage, SIZE_FIELD, U64::new(size).as_bytes())?;
        sync(&*self.files.storage)
    }
}

/// Where the header tells of the disk's size.
const SIZE_FIELD: u64 = 24;
/// Where the header tells of the L1 table: entries, and where it lies.
const L1_FIELDS: u64 = 36;

fn set_size(storage: &dyn diskette_core::StorageMut, size: u64) -> Result<()> {
    storage
        .set_size(size)
        .map_err(|source| storage.failed("resize", size, 0, source))
}
