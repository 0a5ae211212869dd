//! What lies where it cannot stay: a snapshot table that has to grow, and guest data in a cluster that holds a table.
//!
//! Guest data that shares a cluster with a table gets a copy of its own: the guest reads what it read before, and writes
//! no table any more. Where clusters are enciphered by their place, that takes the secret; without it they stay.

use std::ops::Range;

use diskette_core::{Result, StorageExt};

use super::Mender;
use super::trees::{Leads, Trees};
use crate::bitmaps;
use crate::check::Survey;
use crate::encryption::{ClusterCipher, SECRET};
use crate::entry::{L2Entry, Subclusters};
use crate::header::Encryption;
use crate::snapshot::Snapshots;

/// What is to move behind the file's end, in the order of the places there.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// The first of the new clusters.
    first: u64,
    snapshot_table: Option<(Vec<u8>, u64)>,
    snapshot_clusters: u64,
    data: Vec<Move>,
    /// What the data are enciphered with.
    cipher: Option<ClusterCipher>,
}

/// An entry of an L2 table whose cluster is to be copied.
#[derive(Clone, Copy, Debug)]
struct Move {
    table: u64,
    index: u64,
    from: u64,
}

impl Moves {
    pub(super) const fn is_empty(&self) -> bool {
        self.clusters() == 0
    }

    /// New clusters.
    pub(super) const fn clusters(&self) -> u64 {
        self.snapshot_clusters + self.data.len() as u64
    }
}

impl Mender<'_> {
    /// What is to move. Nothing, where there is no room behind the file's end.
    pub(super) fn plan_moves(&self, found: &Survey) -> Result<Moves> {
        let mut moves = Moves {
            first: found.counted.len(),
            // A table that cannot be read stays as it is.
            snapshot_table: self.mended_snapshot_table().unwrap_or(None),
            ..Moves::default()
        };
        if let Some((table, _)) = &moves.snapshot_table {
            moves.snapshot_clusters = self.header.geometry.clusters(table.len() as u64);
        }
        if found.report.corruptions > 0 && self.may_move_data() {
            moves.data = self.data_in_tables()?;
        }
        if !moves.data.is_empty() {
            moves.cipher = ClusterCipher::open(self.storage, self.by_place(), self.cx)?;
        }
        match self.place_behind(found, moves.clusters()) {
            Some(_) => Ok(moves),
            None => Ok(Moves::default()),
        }
    }

    /// Moves them. Their new clusters have been counted.
    pub(super) fn do_moves(&mut self, moves: Moves) -> Result<()> {
        let cluster_bits = self.header.geometry.cluster_bits();
        if !self.is_counted(&moves)? {
            return Ok(());
        }
        if let Some((table, changes)) = &moves.snapshot_table {
            let offset = moves.first << cluster_bits;
            self.write(offset, table)?;
            self.switch_snapshot_table(offset)?;
            self.corruptions_fixed += changes;
        }
        let first = moves.first + moves.snapshot_clusters;
        for (cluster, moved) in (first..).zip(&moves.data) {
            let mut bytes = vec![0; self.header.geometry.cluster_len()];
            self.storage.read_padded(&mut bytes, moved.from)?;
            let to = cluster << cluster_bits;
            if let Some(cipher) = &moves.cipher {
                cipher.move_stored(&mut bytes, moved.from, to);
            }
            self.write(to, &bytes)?;
        }
        self.sync()?;
        for (cluster, moved) in (first..).zip(&moves.data) {
            self.point_to(moved, cluster << cluster_bits)?;
        }
        self.sync()
    }

    /// The encryption, if what is stored depends on its place.
    const fn by_place(&self) -> Encryption {
        match self.header.encryption {
            Encryption::None | Encryption::Aes => Encryption::None,
            luks @ Encryption::Luks { .. } => luks,
        }
    }

    fn may_move_data(&self) -> bool {
        self.by_place() == Encryption::None || self.cx.options.text(SECRET.name).is_some()
    }

    /// Whether the new clusters are counted: the refcounts may be beyond repair.
    fn is_counted(&self, moves: &Moves) -> Result<bool> {
        let found = self.survey()?;
        for cluster in moves.first..moves.first + moves.clusters() {
            if found.stored.of(self.storage, cluster)? != 1 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn point_to(&mut self, moved: &Move, offset: u64) -> Result<()> {
        let Some(mut table) = self.sound_l2_table(moved.table)? else {
            return Ok(());
        };
        let (entry, bitmap) = table.get(moved.index);
        let flags = entry.0 & crate::spec::L2_ZERO;
        table.set(moved.index, L2Entry(offset | flags), bitmap);
        self.corruptions_fixed += 1;
        self.write_l2(&table)
    }

    /// Entries of L2 tables whose clusters hold tables.
    fn data_in_tables(&self) -> Result<Vec<Move>> {
        if self.header.features.data_file() {
            return Ok(Vec::new());
        }
        let geometry = self.header.geometry;
        let trees = self.trees()?;
        let taken = self.clusters_of_tables(&trees);
        let mut moves = Vec::new();
        for table in trees.l2s.keys() {
            let Some(l2) = self.sound_l2_table(*table)? else {
                continue;
            };
            for index in 0..geometry.l2_entries() {
                let (entry, bitmap): (L2Entry, Subclusters) = l2.get(index);
                let is_placed = matches!(self.leads(entry, bitmap), Leads::Data | Leads::Spare);
                let cluster = entry.offset() >> geometry.cluster_bits();
                if is_placed && contains(&taken, cluster) {
                    moves.push(Move {
                        table: *table,
                        index,
                        from: entry.offset(),
                    });
                }
            }
        }
        let bytes = (moves.len() as u64).saturating_mul(size_of::<Move>() as u64);
        self.cx
            .limits
            .allow_check("qcow2: repair's list of moves", bytes)?;
        Ok(moves)
    }

    /// Clusters that hold tables, in order; refcounts that share theirs move themselves.
    fn clusters_of_tables(&self, trees: &Trees) -> Vec<Range<u64>> {
        let geometry = self.header.geometry;
        let mut ranges = vec![(0, geometry.cluster_size())];
        ranges.extend(trees.l1s.iter().map(|l1| (l1.offset, l1.entries * 8)));
        ranges.extend(trees.l2s.keys().map(|at| (*at, geometry.cluster_size())));
        if let Encryption::Luks { offset, len } = self.header.encryption {
            ranges.push((offset, len));
        }
        if let Ok(snapshots) = Snapshots::read(self.storage, &self.header, self.cx.limits) {
            ranges.push((self.header.snapshots_offset, snapshots.table_len));
        }
        ranges.extend(self.ranges_of_bitmaps());
        let mut clusters: Vec<Range<u64>> = Vec::new();
        ranges.sort_unstable();
        for (offset, len) in ranges {
            let range = geometry.cluster_range(offset, len);
            match clusters.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => clusters.push(range),
            }
        }
        clusters
    }

    fn ranges_of_bitmaps(&self) -> Vec<(u64, u64)> {
        let Ok(Some(directory)) = bitmaps::directory(&self.header, self.cx.limits) else {
            return Vec::new();
        };
        let mut ranges = vec![(directory.offset, directory.len)];
        if let Ok(list) = bitmaps::list(self.storage, directory, self.header.geometry) {
            let tables = list
                .iter()
                .map(|bitmap| (bitmap.table_offset, u64::from(bitmap.table_size) * 8));
            ranges.extend(tables);
        }
        ranges
    }
}

/// Whether one of these ranges, which lie in order and apart, contains a cluster.
fn contains(ranges: &[Range<u64>], cluster: u64) -> bool {
    let behind = ranges.partition_point(|range| range.start <= cluster);
    behind
        .checked_sub(1)
        .is_some_and(|last| ranges[last].contains(&cluster))
}
