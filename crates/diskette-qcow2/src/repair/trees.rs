//! The trees of L1 and L2 tables, as a repair writes into them.

use std::collections::BTreeMap;

use diskette_core::{Result, StorageExt, round_up};
use zerocopy::big_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

use super::Mender;
use crate::check::{Counts, Survey};
use crate::entry::{L1Entry, L2Entry, Subclusters};
use crate::geometry::Geometry;
use crate::header::L1Location;
use crate::snapshot::Snapshots;

/// All trees of an image: the active one first, then those of its snapshots.
pub(super) struct Trees {
    pub(super) l1s: Vec<L1Location>,
    /// How many L1 entries lead to the L2 table at each host offset.
    pub(super) l2s: BTreeMap<u64, u64>,
}

/// A table in memory, to be changed.
pub(super) struct L2Table {
    pub(super) offset: u64,
    bytes: Vec<u8>,
    extended: bool,
    changed: bool,
}

/// What an L2 entry leads to. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leads {
    /// To nothing.
    Nowhere,
    /// To a cluster that holds data, or, in an image with subclusters, may do so.
    Data,
    /// To a cluster that is kept, and none of whose bytes are read.
    Spare,
    /// To a compressed stream.
    Stream,
}

impl Mender<'_> {
    /// The trees of the image, as far as they can be found.
    pub(super) fn trees(&self) -> Result<Trees> {
        let mut l1s = vec![self.header.l1.clone()];
        if let Ok(snapshots) = Snapshots::read(self.storage, &self.header, self.cx.limits) {
            let sound = snapshots
                .list
                .iter()
                .filter_map(|snapshot| snapshot.l1(&self.header, self.cx.limits).ok());
            l1s.extend(sound);
        }
        let mut l2s = BTreeMap::new();
        for l1 in &l1s {
            for entry in self.read_l1(l1)? {
                let offset = L1Entry(entry.get()).table_offset();
                if offset != 0 {
                    *l2s.entry(offset).or_default() += 1;
                }
            }
            let bytes = (l2s.len() as u64).saturating_mul(32);
            self.cx.limits.allow_check(TABLES, bytes)?;
        }
        Ok(Trees { l1s, l2s })
    }

    /// The entries of an L1 table. What the file does not have of them counts as zeros.
    pub(super) fn read_l1(&self, l1: &L1Location) -> Result<Vec<U64>> {
        // The header's check, or the snapshot's, has bounded it.
        let mut bytes = vec![0; usize::try_from(l1.entries * 8).unwrap_or(0)];
        self.storage.read_padded(&mut bytes, l1.offset)?;
        Ok(<[U64]>::ref_from_bytes(&bytes).unwrap_or_default().to_vec())
    }

    /// The L2 tables that may be written into: whole, and with `uses` users who all take them for an L2 table; and
    /// all of whose entries lead somewhere.
    pub(super) fn l2_table(
        &self,
        offset: u64,
        uses: u64,
        counted: &Counts,
    ) -> Result<Option<L2Table>> {
        let geometry = self.header.geometry;
        if !geometry.is_aligned(offset)
            || !counted.is_exactly(offset >> geometry.cluster_bits(), uses)
        {
            return Ok(None);
        }
        self.sound_l2_table(offset)
    }

    /// The L2 table at a host offset, if it is whole, and all of its entries lead somewhere.
    pub(super) fn sound_l2_table(&self, offset: u64) -> Result<Option<L2Table>> {
        let geometry = self.header.geometry;
        let file_size = self.storage.total_size()?;
        let end = offset.saturating_add(geometry.cluster_size());
        if offset == 0 || !geometry.is_aligned(offset) || end > file_size {
            return Ok(None);
        }
        let table = L2Table {
            offset,
            bytes: self.storage.read_vec(geometry.cluster_len(), offset)?,
            extended: geometry.extended_l2(),
            changed: false,
        };
        let sound = (0..geometry.l2_entries()).all(|index| {
            let (entry, bitmap) = table.get(index);
            self.leads_somewhere(entry, bitmap, file_size)
        });
        Ok(sound.then_some(table))
    }

    /// Whether an entry leads to nothing, to what the file has, or to what nobody reads.
    fn leads_somewhere(&self, entry: L2Entry, bitmap: Subclusters, file_size: u64) -> bool {
        let geometry = self.header.geometry;
        let data_file = self.header.features.data_file();
        match self.leads(entry, bitmap) {
            Leads::Nowhere | Leads::Spare => true,
            Leads::Data if data_file => geometry.is_aligned(entry.offset()),
            Leads::Data => {
                geometry.is_aligned(entry.offset())
                    && reaches(geometry, entry.offset(), geometry.cluster_size(), file_size)
            }
            Leads::Stream if data_file => false,
            Leads::Stream => {
                let stream = geometry.stream(entry);
                reaches(geometry, stream.offset, stream.len, file_size)
            }
        }
    }

    pub(super) fn leads(&self, entry: L2Entry, bitmap: Subclusters) -> Leads {
        let extended = self.header.geometry.extended_l2();
        if entry.is_compressed() {
            return Leads::Stream;
        }
        if entry.place(self.header.features.data_file()).is_none() {
            return Leads::Nowhere;
        }
        let spare = if extended {
            bitmap.data_bits() == 0
        } else {
            entry.is_zero() && self.header.version >= 3
        };
        if spare { Leads::Spare } else { Leads::Data }
    }

    /// Writes a table back, if it has been changed.
    pub(super) fn write_l2(&self, table: &L2Table) -> Result<()> {
        if table.changed {
            self.write(table.offset, &table.bytes)?;
        }
        Ok(())
    }

    /// Whether a table lies in clusters that nothing else uses.
    pub(super) fn is_alone(&self, found: &Survey, l1: &L1Location) -> bool {
        let mut clusters = self
            .header
            .geometry
            .cluster_range(l1.offset, l1.entries * 8);
        l1.offset != 0 && clusters.all(|cluster| found.counted.is_exactly(cluster, 1))
    }

    /// Whether the file has all of a cluster, but for its last one.
    pub(super) fn is_inside(&self, offset: u64, len: u64) -> Result<bool> {
        let file_size = self.storage.total_size()?;
        Ok(reaches(self.header.geometry, offset, len, file_size))
    }
}

/// Whether a range ends less than a cluster behind the file's end: as the check has it.
fn reaches(geometry: Geometry, offset: u64, len: u64, file_size: u64) -> bool {
    let file_size = round_up(file_size, 512).unwrap_or(file_size);
    offset.saturating_add(len) < file_size.saturating_add(geometry.cluster_size())
}

impl L2Table {
    pub(super) fn get(&self, index: u64) -> (L2Entry, Subclusters) {
        if self.extended {
            (
                L2Entry(self.word(2 * index)),
                Subclusters(self.word(2 * index + 1)),
            )
        } else {
            (L2Entry(self.word(index)), Subclusters::HOLES)
        }
    }

    /// Changes an entry. The bitmap counts only where there are bitmaps. Whether it was another one before.
    pub(super) fn set(&mut self, index: u64, entry: L2Entry, bitmap: Subclusters) -> bool {
        if self.get(index) == (entry, bitmap) {
            return false;
        }
        if self.extended {
            self.put(2 * index, entry.0);
            self.put(2 * index + 1, bitmap.0);
        } else {
            self.put(index, entry.0);
        }
        self.changed = true;
        true
    }

    fn word(&self, index: u64) -> u64 {
        let words = <[U64]>::ref_from_bytes(&self.bytes).unwrap_or_default();
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        words.get(index).map_or(0, |word| word.get())
    }

    fn put(&mut self, index: u64, word: u64) {
        let at = usize::try_from(index).unwrap_or(0) * 8;
        if let Some(place) = self.bytes.get_mut(at..at + 8) {
            place.copy_from_slice(U64::new(word).as_bytes());
        }
    }
}

const TABLES: &str = "qcow2: repair's list of L2 tables";
