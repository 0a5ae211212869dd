//! Writing into one cluster after another.

use std::ops::Range;

use diskette_core::{Result, round_down, round_up};

use super::cache::write;
use super::image::{Found, Image};
use crate::entry::{L2Entry, Subcluster, Subclusters};

impl Image {
    /// Writes to the disk. The range lies within it.
    pub(super) fn write(&mut self, buf: &[u8], offset: u64) -> Result<()> {
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let left = usize::try_from(self.left_of_cluster(at)).unwrap_or(usize::MAX);
            let (part, behind) = rest.split_at(left.min(rest.len()));
            self.write_part(part, at)?;
            at += part.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    /// Makes a range read as zeros. It lies within the disk.
    pub(super) fn write_zeros(&mut self, offset: u64, len: u64) -> Result<()> {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            if !self.has_table(at) && self.below.is_none() {
                let coverage = self.geometry.l2_coverage();
                at = round_down(at, coverage).saturating_add(coverage);
                continue;
            }
            let len = self.left_of_cluster(at).min(end - at);
            self.zero_part(at, len)?;
            at += len;
        }
        Ok(())
    }

    fn left_of_cluster(&self, offset: u64) -> u64 {
        let cluster_size = self.geometry.cluster_size();
        cluster_size - offset % cluster_size
    }

    /// Writes a part of one cluster.
    fn write_part(&mut self, part: &[u8], offset: u64) -> Result<()> {
        self.prepare()?;
        let found = self.find(offset)?;
        match found.place().filter(|_| found.writable) {
            Some(place) => self.write_in_place(&found, place, part, offset),
            None => self.write_anew(&found, part, offset),
        }
    }

    /// Into a cluster that only this disk uses. What was not stored of the subclusters that are touched is stored now.
    fn write_in_place(
        &mut self,
        found: &Found,
        place: u64,
        part: &[u8],
        offset: u64,
    ) -> Result<()> {
        let within = offset - found.start;
        let end = within + part.len() as u64;
        let touched = self.whole_granules(within..end);
        let start = match self.piece(found, within).0 {
            Subcluster::Data => within,
            Subcluster::Hole | Subcluster::Zero => touched.start,
        };
        let stop = match self.piece(found, end - 1).0 {
            Subcluster::Data => end,
            Subcluster::Hole | Subcluster::Zero => touched.end,
        };
        self.write_filled(found, start..stop, part, within, place)?;
        let bits = self.bits(&touched);
        let new = stored(found.subclusters, bits);
        if new != found.subclusters {
            self.set(found.start, L2Entry::data(place, true), new)?;
        }
        Ok(())
    }

    /// Into a new cluster, with all that the old one stored.
    fn write_anew(&mut self, found: &Found, part: &[u8], offset: u64) -> Result<()> {
        let within = offset - found.start;
        let touched = self.whole_granules(within..within + part.len() as u64);
        let kept = found.subclusters.data_bits() | self.bits(&touched);
        let hull = self.hull(kept);
        let place = self.allocate()?;
        let written = self
            .write_filled(found, hull, part, within, place)
            .and_then(|()| {
                let entry = L2Entry::data(place, true);
                self.set(found.start, entry, stored(found.subclusters, kept))
            });
        match written {
            Ok(()) => self.release(found.entry),
            Err(_) => self.allocator.release(place),
        }
        written
    }

    /// Writes a range of a cluster to its new or old place: `part`, from the byte `within` on, and around it what the
    /// disk holds.
    fn write_filled(
        &self,
        found: &Found,
        range: Range<u64>,
        part: &[u8],
        within: u64,
        place: u64,
    ) -> Result<()> {
        let part_end = within + part.len() as u64;
        if range.start == within && range.end == part_end {
            return write(&*self.storage, place + within, part);
        }
        // At most a cluster.
        let index = |at: u64| usize::try_from(at - range.start).unwrap_or(usize::MAX);
        let mut bytes = vec![0; index(range.end)];
        let head = index(within);
        let tail = index(part_end);
        self.read_cluster(found, &mut bytes[..head], range.start)?;
        bytes[head..tail].copy_from_slice(part);
        self.read_cluster(found, &mut bytes[tail..], part_end)?;
        write(&*self.storage, place + range.start, &bytes)
    }

    fn zero_part(&mut self, offset: u64, len: u64) -> Result<()> {
        let found = self.find(offset)?;
        if self.reads_zero_without(&found, offset, len) {
            return Ok(());
        }
        let cluster_end = (found.start + self.geometry.cluster_size()).min(self.size());
        let whole = offset == found.start && offset + len == cluster_end;
        match (whole, self.version_3) {
            (true, true) => {
                self.prepare()?;
                let entry = match self.geometry.extended_l2() {
                    true => L2Entry::HOLE,
                    false => L2Entry::ZERO,
                };
                self.set(found.start, entry, Subclusters::ZEROS)?;
                self.release(found.entry);
                Ok(())
            }
            (true, false) if self.below.is_none() => {
                self.prepare()?;
                self.set(found.start, L2Entry::HOLE, Subclusters::HOLES)?;
                self.release(found.entry);
                Ok(())
            }
            _ if self.geometry.extended_l2() && !found.entry.is_compressed() => {
                self.zero_subclusters(offset, len)
            }
            _ => self.write_real_zeros(offset, len),
        }
    }

    /// Whether a part of a cluster reads as zeros, and stays so whatever lies below, with no space kept for it.
    fn reads_zero_without(&self, found: &Found, offset: u64, len: u64) -> bool {
        let end = offset + len - found.start;
        let mut at = offset - found.start;
        while at < end {
            let (kind, _, piece_end) = self.piece(found, at);
            match kind {
                Subcluster::Zero => {}
                Subcluster::Hole if self.below.is_none() => {}
                Subcluster::Hole | Subcluster::Data => return false,
            }
            at = piece_end;
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
        let last = if end == self.size() {
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
        self.prepare()?;
        let found = self.find(offset)?;
        let bits = self.bits(&(first - found.start..last - found.start));
        let data = found.subclusters.data_bits() & !bits;
        let zero = found.subclusters.zero_bits() | bits;
        let new = Subclusters(u64::from(data) | u64::from(zero) << 32);
        self.set(found.start, found.entry, new)
    }

    /// Zeros like other data, where the part does not read as zeros anyway.
    fn write_real_zeros(&mut self, offset: u64, len: u64) -> Result<()> {
        let found = self.find(offset)?;
        if self.reads_zero_without(&found, offset, len) {
            return Ok(());
        }
        // At most a cluster.
        let zeros = vec![0; usize::try_from(len).unwrap_or(0)];
        self.write_part(&zeros, offset)
    }

    /// Bytes of the unit that is stored as one: a subcluster, where there are any.
    const fn granule(&self) -> u64 {
        if self.geometry.extended_l2() {
            self.geometry.subcluster_size()
        } else {
            self.geometry.cluster_size()
        }
    }

    fn whole_granules(&self, range: Range<u64>) -> Range<u64> {
        let granule = self.granule();
        let end = round_up(range.end, granule).unwrap_or(range.end);
        round_down(range.start, granule)..end
    }

    /// The bits of the subclusters in a range of whole granules of a cluster.
    fn bits(&self, range: &Range<u64>) -> u32 {
        let size = self.geometry.subcluster_size();
        let bit = |at: u64| 1_u64 << (at / size).min(32);
        // The difference of two powers of two, of which the greater is 2^32 at most.
        u32::try_from(bit(range.end) - bit(range.start)).unwrap_or(u32::MAX)
    }

    /// The least range that holds all subclusters with these bits, of which there is at least one.
    fn hull(&self, bits: u32) -> Range<u64> {
        let size = self.geometry.subcluster_size();
        let first = u64::from(bits.trailing_zeros());
        let end = u64::from(32 - bits.leading_zeros());
        first * size..end * size
    }
}

/// Subclusters, of which those with these bits have been stored.
fn stored(before: Subclusters, bits: u32) -> Subclusters {
    let data = before.data_bits() | bits;
    let zero = before.zero_bits() & !bits;
    Subclusters(u64::from(data) | u64::from(zero) << 32)
}
