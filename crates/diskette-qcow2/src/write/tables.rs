//! The map of a new image, kept in memory until the data are stored.

use std::borrow::Cow;
use std::collections::BTreeMap;

use zerocopy::IntoBytes;
use zerocopy::big_endian::U64;

use crate::entry::{L2Entry, Subclusters};
use crate::geometry::Geometry;

/// The L2 tables of a new image: those that hold anything.
#[derive(Debug)]
pub(super) struct NewTables {
    geometry: Geometry,
    /// Clusters of the disk.
    clusters: u64,
    /// Where the clusters of the disk lie one after another, if they were preallocated.
    preallocated: Option<u64>,
    /// By their index in the L1 table. Entries as they are stored.
    tables: BTreeMap<u64, Vec<U64>>,
}

impl NewTables {
    pub(super) const fn new(geometry: Geometry, clusters: u64, preallocated: Option<u64>) -> Self {
        Self {
            geometry,
            clusters,
            preallocated,
            tables: BTreeMap::new(),
        }
    }

    /// Sets the entry of the cluster that holds a guest offset.
    pub(super) fn set(&mut self, guest: u64, entry: L2Entry, subclusters: Subclusters) {
        let position = self.geometry.split(guest);
        if !self.tables.contains_key(&position.l1_index) {
            let table = self.blank(position.l1_index);
            self.tables.insert(position.l1_index, table);
        }
        let words = words_per_entry(self.geometry);
        // Below the number of entries of a table, which is in memory.
        let index = usize::try_from(position.l2_index).unwrap_or(usize::MAX) * words;
        let Some(table) = self.tables.get_mut(&position.l1_index) else {
            return;
        };
        table[index] = entry.0.into();
        if words > 1 {
            table[index + 1] = subclusters.0.into();
        }
    }

    /// The entry of the cluster that holds a guest offset.
    pub(super) fn get(&self, guest: u64) -> L2Entry {
        let position = self.geometry.split(guest);
        let index = usize::try_from(position.l2_index).unwrap_or(usize::MAX);
        let table = self.tables.get(&position.l1_index);
        let entry = table.and_then(|table| table.get(index * words_per_entry(self.geometry)));
        entry.map_or(L2Entry::HOLE, |entry| L2Entry(entry.get()))
    }

    /// Moves all that has a place behind by so many bytes, whole clusters. Such places fit into entries: the caller has
    /// looked at the last.
    pub(super) fn move_by(&mut self, bytes: u64) {
        let words = words_per_entry(self.geometry);
        for table in self.tables.values_mut() {
            for entry in table.iter_mut().step_by(words) {
                if entry.get() != L2Entry::HOLE.0 {
                    *entry = (entry.get() + bytes).into();
                }
            }
        }
    }

    /// Whether clusters have their places from the start.
    pub(super) const fn preallocated(&self) -> Option<u64> {
        self.preallocated
    }

    /// Entries of the L1 table.
    pub(super) fn l1_len(&self) -> usize {
        // At most 32 MiB of them by the check of the disk's size.
        usize::try_from(self.clusters.div_ceil(self.geometry.l2_entries())).unwrap_or(usize::MAX)
    }

    /// The indices of the tables that will be stored, in ascending order.
    pub(super) fn indices(&self) -> Box<dyn Iterator<Item = u64> + '_> {
        match self.preallocated {
            Some(_) => Box::new(0..self.clusters.div_ceil(self.geometry.l2_entries())),
            None => Box::new(self.tables.keys().copied()),
        }
    }

    /// The bytes of one of these tables.
    pub(super) fn bytes(&self, l1_index: u64) -> Cow<'_, [u8]> {
        match self.tables.get(&l1_index) {
            Some(table) => Cow::Borrowed(table.as_bytes()),
            None => Cow::Owned(self.blank(l1_index).as_bytes().to_vec()),
        }
    }

    /// A table into which nothing was placed yet.
    fn blank(&self, l1_index: u64) -> Vec<U64> {
        let words = words_per_entry(self.geometry);
        let mut table = vec![U64::ZERO; self.geometry.cluster_len() / 8];
        let Some(first) = self.preallocated else {
            return table;
        };
        let start = l1_index * self.geometry.l2_entries();
        for (cluster, entry) in (start..self.clusters).zip(table.chunks_exact_mut(words)) {
            let offset = first + (cluster << self.geometry.cluster_bits());
            entry[0] = L2Entry::data(offset, true).0.into();
        }
        table
    }
}

/// An extended entry has two: the descriptor and the bitmap.
const fn words_per_entry(geometry: Geometry) -> usize {
    if geometry.extended_l2() { 2 } else { 1 }
}
