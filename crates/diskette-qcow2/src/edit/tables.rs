//! The L1 and L2 tables of an image that is being changed.

use diskette_core::Result;
use zerocopy::big_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

use super::image::Image;
use crate::entry::{L1Entry, L2Entry, Subclusters};
use crate::header::field;

/// An L2 entry, shown to be sound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// Guest offset of the cluster.
    pub(super) start: u64,
    pub(super) entry: L2Entry,
    /// Where the cluster lies, if it is not compressed and has a place.
    pub(super) place: Option<u64>,
    /// All of one kind in an image without extended entries.
    pub(super) subclusters: Subclusters,
    /// Whether the cluster has a place of its own, that may be overwritten.
    pub(super) writable: bool,
}

impl Image {
    /// Whether a guest offset has an L2 table.
    pub(super) fn has_table(&self, guest: u64) -> bool {
        self.l1_entry(guest).table_offset() != 0
    }

    /// The entry of the cluster that holds a guest offset.
    pub(super) fn find(&mut self, guest: u64) -> Result<Found> {
        let position = self.geometry.split(guest);
        let start = guest - position.within;
        let l1_entry = self.l1_entry(guest);
        let Some(table) = self.table_offset(guest)? else {
            return Ok(Found {
                start,
                entry: L2Entry::HOLE,
                place: None,
                subclusters: Subclusters::HOLES,
                writable: false,
            });
        };
        let words = self.geometry.l2_entry_size() / 8;
        let bytes = self.l2.get(&*self.files.storage, table)?;
        let entry = L2Entry(word(bytes, position.l2_index * words));
        let bitmap = match words {
            1 => 0,
            _ => word(bytes, position.l2_index * words + 1),
        };
        let place = self.place_of(entry);
        let at = table + position.l2_index * self.geometry.l2_entry_size();
        Ok(Found {
            start,
            entry,
            place,
            subclusters: self.check_entry(entry, bitmap, at, start)?,
            writable: place.is_some() && entry.is_copied() && l1_entry.is_copied(),
        })
    }

    /// Sets the entry of a cluster. The bitmap counts only where there are extended entries.
    pub(super) fn set(&mut self, guest: u64, entry: L2Entry, bitmap: Subclusters) -> Result<()> {
        let table = self.writable_table(guest)?;
        let size = self.geometry.l2_entry_size();
        // Within a cluster.
        let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let start = index(self.geometry.split(guest).l2_index * size);
        let range = start..start + index(size);
        let bytes = self.l2.get_mut(&*self.files.storage, table, range)?;
        put_word(bytes, start, entry.0);
        if self.geometry.extended_l2() {
            put_word(bytes, start + 8, bitmap.0);
        }
        Ok(())
    }

    /// What an entry referred to is used once less.
    pub(super) fn release(&mut self, entry: L2Entry) {
        for offset in self.clusters_of(entry) {
            self.allocator.release(offset);
        }
    }

    /// The host clusters that an entry counts as a user of.
    pub(super) fn clusters_of(&self, entry: L2Entry) -> impl Iterator<Item = u64> + use<> {
        let cluster_size = self.geometry.cluster_size();
        let (first, end) = if entry.is_compressed() {
            let stream = self.geometry.stream(entry);
            let (first, last) = stream.host_clusters(self.geometry);
            (first, last + cluster_size)
        } else {
            match entry.place(false) {
                Some(offset) if self.files.data_file.is_none() => (offset, offset + cluster_size),
                _ => (0, 0),
            }
        };
        (first..end).step_by(self.geometry.cluster_len())
    }

    /// Where the cluster of an entry lies, if it is not compressed and has a place.
    pub(super) fn place_of(&self, entry: L2Entry) -> Option<u64> {
        (!entry.is_compressed())
            .then(|| entry.place(self.files.data_file.is_some()))
            .flatten()
    }

    pub(super) fn l1_entry(&self, guest: u64) -> L1Entry {
        let entry = self.l1.get(self.l1_index(guest));
        L1Entry(entry.map_or(0, |entry| entry.get()))
    }

    /// Which entry of L1 leads to a guest offset: one that is there, as a header with a shorter table is refused.
    fn l1_index(&self, guest: u64) -> usize {
        usize::try_from(self.geometry.split(guest).l1_index).unwrap_or(usize::MAX)
    }

    /// Where the L2 table of a guest offset lies, if there is one.
    pub(super) fn table_offset(&self, guest: u64) -> Result<Option<u64>> {
        let offset = self.l1_entry(guest).table_offset();
        if offset == 0 {
            return Ok(None);
        }
        if !self.geometry.is_aligned(offset) || offset >= self.allocator.end() {
            let index = self.geometry.split(guest).l1_index;
            let at = self.l1_offset.saturating_add(8 * index);
            let claim = field(format!("l1_entry[{index}]"), at, self.l1_entry(guest).0);
            return Err(claim.malformed(format!("no L2 table can lie at {offset:#x}")));
        }
        Ok(Some(offset))
    }

    /// The L2 table of a guest offset, with no other user: a new one where there was none, a copy of one that is shared.
    pub(super) fn writable_table(&mut self, guest: u64) -> Result<u64> {
        let old = self.table_offset(guest)?;
        if let Some(offset) = old.filter(|_| self.l1_entry(guest).is_copied()) {
            return Ok(offset);
        }
        if let Some(offset) = old
            && self.allocator.count(&*self.files.storage, offset)? == 1
        {
            // A writer that was cut off has not marked it.
            self.set_l1(self.l1_index(guest), L1Entry::to_table(offset, true));
            return Ok(offset);
        }
        let bytes = match old {
            Some(offset) => {
                let mut bytes = self.l2.get(&*self.files.storage, offset)?.to_vec();
                self.forget_copied(&mut bytes);
                bytes
            }
            None => vec![0; self.geometry.cluster_len()],
        };
        let offset = self.allocate(1)?;
        self.l2.put(offset, bytes);
        self.allocator.protect(offset, self.geometry.cluster_size());
        self.set_l1(self.l1_index(guest), L1Entry::to_table(offset, true));
        if let Some(old) = old {
            self.allocator.release(old);
        }
        Ok(offset)
    }

    /// Sets an entry of L1, to be written.
    pub(super) fn set_l1(&mut self, index: usize, new: L1Entry) {
        if let Some(entry) = self.l1.get_mut(index) {
            *entry = new.0.into();
            let (first, end) = self.l1_dirty.unwrap_or((index, index + 1));
            self.l1_dirty = Some((first.min(index), end.max(index + 1)));
        }
    }

    /// Marks no cluster of a table as having one user: the table was shared, and with it all that it leads to. Where it came
    /// from a snapshot the marks may be old ones.
    fn forget_copied(&self, table: &mut [u8]) {
        if self.files.data_file.is_some() {
            return; // Nothing is counted there, and all is marked.
        }
        let words = usize::try_from(self.geometry.l2_entry_size() / 8).unwrap_or(1);
        let entries = <[U64]>::mut_from_bytes(table).unwrap_or_default();
        for entry in entries.iter_mut().step_by(words) {
            *entry = L2Entry(entry.get()).with_copied(false).0.into();
        }
    }

    /// What the subclusters of the entry at a host offset are. The entry must be one that can be, at its place in the map.
    fn check_entry(&self, entry: L2Entry, bitmap: u64, at: u64, start: u64) -> Result<Subclusters> {
        let index = start / self.geometry.cluster_size() % self.geometry.l2_entries();
        let claim = || field(format!("l2_entry[{index}]"), at, entry.0);
        let end = self.allocator.end();
        let in_data_file = self.files.data_file.is_some();
        if entry.is_compressed() {
            let stream = self.geometry.stream(entry);
            let (first, last) = stream.host_clusters(self.geometry);
            if in_data_file {
                return Err(claim().malformed("a compressed cluster, in an image with a data file"));
            }
            if stream.offset >= end {
                return Err(claim()
                    .malformed("its compressed cluster lies beyond the file's end")
                    .truncated());
            }
            if self.allocator.is_table(first) || self.allocator.is_table(last) {
                return Err(claim().malformed("its compressed cluster lies in a table"));
            }
            return Ok(Subclusters::DATA);
        }
        let place = self.place_of(entry);
        match place {
            Some(offset) if in_data_file => {
                if offset != start {
                    let why = format!(
                        "its place in the data file is not its place {start:#x} on the disk"
                    );
                    return Err(claim().malformed(why));
                }
            }
            Some(offset) if !self.geometry.is_aligned(offset) || offset >= end => {
                return Err(claim().malformed(format!("no cluster can lie at {offset:#x}")));
            }
            Some(offset) if self.allocator.is_table(offset) => {
                return Err(claim().malformed(format!("a table lies at {offset:#x}")));
            }
            Some(_) | None => {}
        }
        if self.geometry.extended_l2() {
            let bitmap = Subclusters(bitmap);
            return match bitmap.is_valid(place.is_some()) {
                true => Ok(bitmap),
                false => Err(claim().malformed("its bitmap is not valid")),
            };
        }
        match (entry.is_zero(), place) {
            (true, _) if !self.version_3 => {
                Err(claim().malformed("a zero cluster, in an image of version 2"))
            }
            (true, _) => Ok(Subclusters::ZEROS),
            (false, Some(_)) => Ok(Subclusters::DATA),
            (false, None) => Ok(Subclusters::HOLES),
        }
    }
}

/// A word of a table; its index is below the table's length.
pub(super) fn word(bytes: &[u8], index: u64) -> u64 {
    let words = <[U64]>::ref_from_bytes(bytes).unwrap_or_default();
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    words.get(index).map_or(0, |word| word.get())
}

pub(super) fn put_word(bytes: &mut [u8], at: usize, word: u64) {
    if let Some(place) = bytes.get_mut(at..at.saturating_add(8)) {
        place.copy_from_slice(U64::new(word).as_bytes());
    }
}
