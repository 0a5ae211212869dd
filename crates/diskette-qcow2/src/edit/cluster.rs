//! Writing into one cluster after another.

use std::ops::Range;

use diskette_core::{Result, round_down, round_up};

use super::cache::write;
use super::image::Image;
use super::tables::Found;
use crate::entry::{L2Entry, Subcluster, Subclusters};

impl Image {
    /// Where the bytes from a guest offset on may be overwritten as they lie, without a change to any table: the host offset,
    /// and how many of `most` bytes.
    pub(super) fn stored_run(&mut self, offset: u64, most: usize) -> Result<Option<(u64, usize)>> {
        let most = most as u64;
        let mut run: Option<(u64, u64)> = None;
        loop {
            let (first, done) = run.unwrap_or((0, 0));
            if done >= most {
                break;
            }
            let at = offset + done;
            let found = self.find(at)?;
            let within = at - found.start;
            let Some(place) = found.place.filter(|_| found.writable) else {
                break;
            };
            let (kind, _, end) = self.run_in(&found, within);
            if kind != Subcluster::Data || done > 0 && place + within != first + done {
                break;
            }
            let first = if done == 0 { place + within } else { first };
            run = Some((first, done + end - within));
        }
        // At most `most`, which is a `usize`.
        Ok(run.map(|(place, len)| (place, usize::try_from(len.min(most)).unwrap_or(0))))
    }

    /// Writes where that takes a change of the tables: a part of one cluster, or several whole ones. Gives the number of bytes
    /// written. The range lies within the disk.
    pub(super) fn write_some(&mut self, buf: &[u8], offset: u64) -> Result<usize> {
        let found = self.find(offset)?;
        let left = usize::try_from(self.left_of_cluster(offset)).unwrap_or(usize::MAX);
        let part = &buf[..left.min(buf.len())];
        match self.own_place(&found)? {
            Some(place) => self.write_in_place(&found, place, part, offset)?,
            None if self.write_stream(&found, part, offset)? => {}
            None if part.len() == self.geometry.cluster_len() => return self.write_run(found, buf),
            None => self.write_anew(&found, part, offset)?,
        }
        Ok(part.len())
    }

    /// Writes a part of one cluster.
    pub(super) fn write_part(&mut self, part: &[u8], offset: u64) -> Result<()> {
        let found = self.find(offset)?;
        match self.own_place(&found)? {
            Some(place) => self.write_in_place(&found, place, part, offset),
            None => self.write_anew(&found, part, offset),
        }
    }

    pub(super) const fn left_of_cluster(&self, offset: u64) -> u64 {
        let cluster_size = self.geometry.cluster_size();
        cluster_size - offset % cluster_size
    }

    /// The place of a cluster if it has one that nobody else uses.
    pub(super) fn own_place(&mut self, found: &Found) -> Result<Option<u64>> {
        let Some(place) = found.place else {
            return Ok(None);
        };
        if found.writable {
            return Ok(Some(place));
        }
        // A table that was shared is copied first: only then can what it leads to have one user.
        self.writable_table(found.start)?;
        let own = self.files.data_file.is_some()
            || self.allocator.count(&*self.files.storage, place)? == 1;
        Ok(Some(place).filter(|_| own))
    }

    /// A new place for the cluster at a guest offset.
    fn new_place(&mut self, start: u64) -> Result<u64> {
        match self.files.data_file {
            Some(_) => Ok(start),
            None => self.allocate(1),
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
        let start = match self.run_in(found, within).0 {
            Subcluster::Data => within,
            Subcluster::Hole | Subcluster::Zero => touched.start,
        };
        let stop = match self.run_in(found, end - 1).0 {
            Subcluster::Data => end,
            Subcluster::Hole | Subcluster::Zero => touched.end,
        };
        self.write_filled(found, start..stop, part, within, place)?;
        let bits = self.bits(&touched);
        let new = stored(found.subclusters, bits);
        if new != found.subclusters || !found.writable {
            self.set(found.start, L2Entry::data(place, true), new)?;
        }
        Ok(())
    }

    /// Into a new cluster, with all that the old one stored.
    pub(super) fn write_anew(&mut self, found: &Found, part: &[u8], offset: u64) -> Result<()> {
        let within = offset - found.start;
        let touched = self.whole_granules(within..within + part.len() as u64);
        let kept = found.subclusters.data_bits() | self.bits(&touched);
        let hull = self.hull(kept);
        let place = self.new_place(found.start)?;
        let entry = L2Entry::data(place, true);
        let written = self
            .write_filled(found, hull, part, within, place)
            .and_then(|()| self.set(found.start, entry, stored(found.subclusters, kept)));
        match written {
            Ok(()) => self.release(found.entry),
            Err(_) => self.release(entry),
        }
        written
    }

    /// Whole clusters, from the one that was found on, into new ones: as many as find their places in a row.
    fn write_run(&mut self, first: Found, buf: &[u8]) -> Result<usize> {
        let cluster_size = self.geometry.cluster_size();
        let place = self.new_place(first.start)?;
        let most = buf.len() / self.geometry.cluster_len();
        let mut run = vec![first];
        while run.len() < most {
            let into = run.len() as u64 * cluster_size;
            let next = self.find(first.start + into)?;
            if self.own_place(&next)?.is_some() || !self.takes(place + into)? {
                break;
            }
            run.push(next);
        }
        let len = run.len() * self.geometry.cluster_len();
        let mut written = write(self.files.payload(), place, &buf[..len]);
        for (place, found) in (place..).step_by(self.geometry.cluster_len()).zip(run) {
            let entry = L2Entry::data(place, true);
            if written.is_ok() {
                written = self.set(found.start, entry, Subclusters::DATA);
            }
            self.release(if written.is_ok() { found.entry } else { entry });
        }
        written.map(|()| len)
    }

    /// Whether the cluster at a host offset could be had.
    fn takes(&mut self, place: u64) -> Result<bool> {
        match self.files.data_file {
            Some(_) => Ok(true),
            None => self.allocator.allocate_at(&*self.files.storage, place),
        }
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
        let payload = self.files.payload();
        let part_end = within + part.len() as u64;
        if range.start == within && range.end == part_end {
            return write(payload, place + within, part);
        }
        // At most a cluster.
        let index = |at: u64| usize::try_from(at - range.start).unwrap_or(usize::MAX);
        let mut bytes = vec![0; index(range.end)];
        let head = index(within);
        let tail = index(part_end);
        self.read_cluster(found, &mut bytes[..head], range.start)?;
        bytes[head..tail].copy_from_slice(part);
        self.read_cluster(found, &mut bytes[tail..], part_end)?;
        if self.files.data_file.is_some() {
            // What lies behind the disk's end is not for this file.
            let left = self.size.saturating_sub(found.start + range.start);
            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        }
        write(payload, place + range.start, &bytes)
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
    pub(super) fn bits(&self, range: &Range<u64>) -> u32 {
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
