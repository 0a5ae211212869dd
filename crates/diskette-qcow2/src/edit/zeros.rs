//! Zeros that need no bytes, and clusters that are given back.

use diskette_core::{Result, round_down, round_up};

use super::cache::write_zeros;
use super::image::Image;
use super::tables::Found;
use crate::entry::{L1Entry, L2Entry, Subcluster, Subclusters};

impl Image {
    /// Makes the first part of a range read as zeros, and gives its end. The range lies within the disk.
    pub(super) fn zero_some(&mut self, start: u64, end: u64) -> Result<u64> {
        if let Some(behind) = self.end_of_nothing(start) {
            return Ok(behind);
        }
        let len = self.left_of_cluster(start).min(end - start);
        self.zero_part(start, len)?;
        Ok(start + len)
    }

    /// Gives back the first cluster of a range, if it lies in the range whole, and gives its end.
    pub(super) fn discard_some(&mut self, start: u64, end: u64) -> Result<u64> {
        if let Some(behind) = self.end_of_nothing(start) {
            return Ok(behind);
        }
        let part_end = (start + self.left_of_cluster(start)).min(end);
        let found = self.find(start)?;
        let nothing_below = self.files.below.is_none();
        let is_nothing = found.entry == L2Entry::HOLE && found.subclusters == Subclusters::HOLES;
        let has_way = self.version_3 || nothing_below;
        if self.is_whole(&found, start, part_end - start) && has_way {
            let is_free = found.place.is_none() && found.subclusters == Subclusters::ZEROS;
            if !(is_free || is_nothing && nothing_below) {
                self.empty(&found)?;
            }
        }
        Ok(part_end)
    }

    /// Gives up all clusters of the disk, so that what lies below shows. The L1 table stays where it is, for a file that
    /// can be cut short.
    pub(super) fn empty_all(&mut self) -> Result<()> {
        self.prepare()?;
        let l1 = self.l1.clone();
        for index in 0..l1.len() {
            self.set_l1(index, L1Entry(0));
        }
        self.release_tree(&l1)?;
        self.commit()?;
        self.empty_data_file(0, self.size)?;
        self.cut_unused_end()
    }

    /// Makes holes of all zero clusters that the L1 table leads to, or data where something lies below. Clusters that lie
    /// behind the disk count, too: they hold a machine's state.
    pub(super) fn expand_zeros(&mut self) -> Result<()> {
        self.prepare()?;
        let coverage = self.geometry.l2_coverage();
        for index in 0..self.l1.len() {
            let start = (index as u64).saturating_mul(coverage);
            if !self.has_table(start) {
                continue;
            }
            let clusters =
                (start..start.saturating_add(coverage)).step_by(self.geometry.cluster_len());
            for at in clusters {
                self.expand_zero(at)?;
                self.prepare()?;
            }
        }
        Ok(())
    }

    fn expand_zero(&mut self, start: u64) -> Result<()> {
        let found = self.find(start)?;
        if found.entry.is_compressed() || found.subclusters != Subclusters::ZEROS {
            return Ok(());
        }
        if self.files.below.is_some() {
            // Not where the old one lies, if it does: a snapshot may have it, too.
            return self.write_anew(&found, &vec![0; self.geometry.cluster_len()], start);
        }
        self.set(start, L2Entry::HOLE, Subclusters::HOLES)?;
        self.release(found.entry);
        Ok(())
    }

    /// Where a guest offset has neither a table nor anything below: the guest offset behind what the table would cover.
    fn end_of_nothing(&self, offset: u64) -> Option<u64> {
        if self.has_table(offset) || self.files.below.is_some() {
            return None;
        }
        let coverage = self.geometry.l2_coverage();
        Some(round_down(offset, coverage).saturating_add(coverage))
    }

    /// Whether a range holds all of a cluster that lies on the disk.
    fn is_whole(&self, found: &Found, offset: u64, len: u64) -> bool {
        let cluster_end = (found.start + self.geometry.cluster_size()).min(self.size);
        offset == found.start && offset + len == cluster_end
    }

    pub(super) fn zero_part(&mut self, offset: u64, len: u64) -> Result<()> {
        let found = self.find(offset)?;
        if self.reads_zero(&found, offset, len) {
            return Ok(());
        }
        if self.is_whole(&found, offset, len) && (self.version_3 || self.files.below.is_none()) {
            return self.empty(&found);
        }
        if self.geometry.extended_l2() && !found.entry.is_compressed() {
            return self.zero_subclusters(offset, len);
        }
        self.write_real_zeros(offset, len)
    }

    /// Makes a whole cluster read as zeros, and gives up its place. In version 2, only where there is nothing below.
    fn empty(&mut self, found: &Found) -> Result<()> {
        let (entry, bitmap) = match (self.version_3, self.geometry.extended_l2()) {
            (false, _) => (L2Entry::HOLE, Subclusters::HOLES),
            (true, true) => (L2Entry::HOLE, Subclusters::ZEROS),
            (true, false) => (L2Entry::ZERO, Subclusters::ZEROS),
        };
        self.set(found.start, entry, bitmap)?;
        self.release(found.entry);
        self.empty_data_file(found.start, self.geometry.cluster_size())
    }

    /// In a data file nothing is counted: what is given up is free at once. Where the file is the disk by itself, this is what
    /// makes the zeros.
    fn empty_data_file(&self, offset: u64, len: u64) -> Result<()> {
        match &self.files.data_file {
            Some(data_file) => {
                let len = len.min(self.size.saturating_sub(offset));
                write_zeros(&*data_file.storage, offset, len)
            }
            None => Ok(()),
        }
    }

    /// Whether a part of a cluster reads as zeros, and stays so whatever lies below.
    fn reads_zero(&self, found: &Found, offset: u64, len: u64) -> bool {
        let end = offset + len - found.start;
        let mut at = offset - found.start;
        while at < end {
            let (kind, _, run_end) = self.run_in(found, at);
            match kind {
                Subcluster::Zero => {}
                Subcluster::Hole if self.files.below.is_none() => {}
                Subcluster::Hole | Subcluster::Data => return false,
            }
            at = run_end;
        }
        true
    }

    /// Whole subclusters get their bits; what is left at either side is written.
    fn zero_subclusters(&mut self, offset: u64, len: u64) -> Result<()> {
        let size = self.geometry.subcluster_size();
        let end = offset + len;
        let last_end = round_up(end, size).unwrap_or(end);
        let first = round_up(offset, size).unwrap_or(end).min(end);
        // The disk's end ends a subcluster, too.
        let last = if end == self.size {
            last_end
        } else {
            round_down(end, size)
        };
        if last <= first {
            return self.write_real_zeros(offset, len);
        }
        if offset < first {
            self.write_real_zeros(offset, first - offset)?;
        }
        if last < end {
            self.write_real_zeros(last, end - last)?;
        }
        let found = self.find(offset)?;
        let bits = self.bits(&(first - found.start..last - found.start));
        let data = found.subclusters.data_bits() & !bits;
        let zero = found.subclusters.zero_bits() | bits;
        let new = Subclusters(u64::from(data) | u64::from(zero) << 32);
        let entry = match found.place {
            Some(_) => found.entry.with_copied(self.own_place(&found)?.is_some()),
            None => found.entry,
        };
        self.set(found.start, entry, new)?;
        self.empty_data_file(first, last - first)
    }

    /// Zeros like other data, where the part does not read as zeros anyway.
    fn write_real_zeros(&mut self, offset: u64, len: u64) -> Result<()> {
        let found = self.find(offset)?;
        if self.reads_zero(&found, offset, len) {
            return Ok(());
        }
        // At most a cluster.
        let zeros = vec![0; usize::try_from(len).unwrap_or(0)];
        self.write_part(&zeros, offset)
    }
}
