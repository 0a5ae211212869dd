//! Guest offset to extent: L1, kept whole; L2, slice by slice; entries, and the subclusters of extended ones.

use std::ops::Range;
use std::sync::OnceLock;

use diskette_core::{
    Extent, ExtentKind, Field, HostOffset, Limits, Result, Storage, StorageExt, Table, TableCache,
    round_down,
};
use zerocopy::FromBytes;
use zerocopy::big_endian::U64;

use crate::entry::{L1Entry, L2Entry, Subcluster, Subclusters};
use crate::geometry::{Geometry, Position};
use crate::header::{Header, L1Location, field};
use crate::refcount::RefcountTableEntry;

/// The way from the disk to the file, by one L1 table.
#[derive(Debug)]
pub(crate) struct Map {
    geometry: Geometry,
    version: u32,
    disk_size: u64,
    l1_offset: u64,
    l1: Table<U64>,
    l2: TableCache<U64>,
    /// Bytes of the image's file.
    file_size: u64,
    /// Bytes of the external data file, if there is one.
    data_file_size: Option<u64>,
    /// Whether what is lost behind the file's end reads as zeros.
    salvage: bool,
    /// Where tables lie that have a place in the header.
    tables: [(&'static str, Range<u64>); 2],
    /// Where blocks of refcounts lie, in ascending order; once an L2 table was asked for.
    refcount_blocks: OnceLock<Vec<u64>>,
}

/// A slice of an L2 table, with what is needed to complain about it.
struct L2Slice {
    l1_index: u64,
    /// Where the table lies.
    offset: u64,
    /// The entries of the table that are in the slice.
    entries: Range<u64>,
    /// The entries' words: two for each extended entry.
    words: Table<U64>,
}

/// Most bytes of an L2 table that are read at once: tables of large clusters are larger than what is wanted of them.
const SLICE_LEN: u64 = 64 << 10;

/// Most clusters, or empty L1 entries, that are joined in one extent: a look at the map must be cheap even where only a
/// little of the extent is wanted.
const LONGEST_RUN: u64 = 4096;

impl Map {
    /// The map that begins with the L1 table `l1`.
    pub(crate) fn open(
        storage: &dyn Storage,
        header: &Header,
        l1: &L1Location,
        data_file_size: Option<u64>,
        limits: &Limits,
        salvage: bool,
    ) -> Result<Self> {
        let file_size = storage.total_size()?;
        let geometry = header.geometry;
        // The list of refcount blocks is as long as the refcount table, at most.
        let refcount_table_len =
            u64::from(header.refcount_table.clusters) * geometry.cluster_size();
        limits.keep_table("qcow2: L1 table's bytes", 8 * l1.entries)?;
        limits.keep(refcount_table_len.min(file_size))?;
        let table = read_l1(storage, l1, file_size, salvage)?;
        if !salvage {
            expect_tables_of_their_own(&table, l1, file_size / geometry.cluster_size())?;
        }
        Ok(Self {
            geometry,
            version: header.version,
            disk_size: header.size,
            l1_offset: l1.offset,
            l1: table,
            l2: TableCache::within(limits, geometry.cluster_size().min(SLICE_LEN)),
            file_size,
            data_file_size,
            salvage,
            tables: [
                ("the L1 table", range(l1.offset, 8 * l1.entries)),
                (
                    "the refcount table",
                    range(header.refcount_table.offset, refcount_table_len),
                ),
            ],
            refcount_blocks: OnceLock::new(),
        })
    }

    pub(crate) const fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(crate) const fn disk_size(&self) -> u64 {
        self.disk_size
    }

    /// Bytes of the file that holds the clusters.
    pub(crate) fn size_of_file(&self, file: u16) -> u64 {
        match self.data_file_size {
            Some(size) if file != 0 => size,
            _ => self.file_size,
        }
    }

    /// An extent that holds `offset`, which lies within the disk. It begins in the cluster that holds `offset`, and goes on
    /// as far as entries of one table are alike.
    pub(crate) fn extent_at(&self, storage: &dyn Storage, offset: u64) -> Result<Extent> {
        let position = self.geometry.split(offset);
        let extent = match self.l2_slice(storage, position)? {
            Some(slice) => self.run_in_slice(&slice, position)?,
            None => self.hole_without_table(position.l1_index),
        };
        // The last cluster may reach beyond the disk's end.
        Ok(Extent {
            len: extent.len.min(self.disk_size - extent.offset),
            ..extent
        })
    }

    /// The hole of an L1 entry that leads nowhere, and of those that follow it and lead nowhere too.
    fn hole_without_table(&self, l1_index: u64) -> Extent {
        let start = self.geometry.cluster_start(l1_index, 0);
        let first = usize::try_from(l1_index).unwrap_or(usize::MAX);
        let left = self.l1.entries().get(first..).unwrap_or_default();
        let empty = left
            .iter()
            .take_while(|entry| match self.salvage {
                true => L1Entry(entry.get()).table_offset() == 0,
                false => **entry == U64::ZERO,
            })
            .zip(0..LONGEST_RUN)
            .count();
        if empty == left.len() {
            return Extent::hole(start, self.disk_size - start); // Behind L1's end there is nothing.
        }
        Extent::hole(start, empty as u64 * self.geometry.l2_coverage())
    }

    fn run_in_slice(&self, table: &L2Slice, position: Position) -> Result<Extent> {
        let Position {
            l2_index, within, ..
        } = position;
        let last = (l2_index + LONGEST_RUN).min(table.entries.end);
        let empty = self.empty_entries(table, l2_index, last);
        if empty > 0 {
            let first = self.geometry.cluster_start(table.l1_index, l2_index);
            return Ok(Extent::hole(first, empty * self.geometry.cluster_size()));
        }
        let mut run = self.piece(table, l2_index, within)?;
        let start = self.geometry.cluster_start(table.l1_index, 0);
        while run.end() < self.disk_size {
            let next = run.end() - start;
            let next_index = next >> self.geometry.cluster_bits();
            if next_index >= last {
                break;
            }
            // What is wrong with a later cluster is told when it is asked for.
            match self.piece(table, next_index, next % self.geometry.cluster_size()) {
                Ok(next) if run.continues_into(&next) => run.len += next.len,
                _ => break,
            }
        }
        Ok(run)
    }

    /// How many entries from `first` on, and before `last`, say nothing. A sparse disk's tables have hardly any others.
    fn empty_entries(&self, table: &L2Slice, first: u64, last: u64) -> u64 {
        let words = self.geometry.l2_entry_size() / 8;
        let within = |entry: u64| entry.saturating_sub(table.entries.start) * words;
        let index = |entry: u64| usize::try_from(within(entry)).unwrap_or(usize::MAX);
        let entries = table.words.entries().get(index(first)..index(last));
        let empty = entries
            .unwrap_or_default()
            .iter()
            .take_while(|word| **word == U64::ZERO);
        empty.count() as u64 / words
    }

    /// The part of one cluster, all of one kind, that holds the byte `within`.
    fn piece(&self, table: &L2Slice, l2_index: u64, within: u64) -> Result<Extent> {
        let start = self.geometry.cluster_start(table.l1_index, l2_index);
        let entry = self.entry(table, l2_index);
        if entry.is_compressed() {
            let kind = self.stream(table, l2_index, entry)?;
            return Ok(Extent::new(start, self.geometry.cluster_size(), kind));
        }
        if self.geometry.extended_l2() {
            return self.subclusters(table, l2_index, entry, start, within);
        }
        let kind = match (entry.is_zero(), self.place(table, l2_index, entry)?) {
            (true, _) if self.version == 2 => {
                let claim = self.claim(table, l2_index);
                return Err(claim.malformed("a zero cluster, in an image of version 2"));
            }
            // Offset 0 of a data file cannot be told from no place at all.
            (true, place) => ExtentKind::Zero(place.filter(|_| entry.offset() != 0)),
            (false, Some(place)) => self.data(table, l2_index, place, 0)?,
            (false, None) => ExtentKind::Hole(None),
        };
        Ok(Extent::new(start, self.geometry.cluster_size(), kind))
    }

    fn subclusters(
        &self,
        table: &L2Slice,
        l2_index: u64,
        entry: L2Entry,
        start: u64,
        within: u64,
    ) -> Result<Extent> {
        let place = self.place(table, l2_index, entry)?;
        let bitmap = Subclusters(self.word(table, l2_index, 1));
        if !bitmap.is_valid(place.is_some()) {
            let at = self.entry_offset(table, l2_index) + 8;
            let name = format!("l2_entry[{l2_index}].bitmap");
            return Err(field(name, at, bitmap.0).malformed(
                "a subcluster that is stored and zero at once, or stored without a place",
            ));
        }
        let size = self.geometry.subcluster_size();
        let index = within / size;
        let (kind, count) = bitmap.run_at(u32::try_from(index).unwrap_or(0));
        let into = index * size;
        let there = place.map(|place| place.plus(into));
        let kind = match (kind, place) {
            (Subcluster::Data, Some(place)) => self.data(table, l2_index, place, into)?,
            (Subcluster::Zero, _) => ExtentKind::Zero(there),
            (Subcluster::Hole | Subcluster::Data, _) => ExtentKind::Hole(there),
        };
        Ok(Extent::new(start + into, u64::from(count) * size, kind))
    }

    /// Where an uncompressed cluster has its place, if it has one.
    fn place(&self, table: &L2Slice, l2_index: u64, entry: L2Entry) -> Result<Option<HostOffset>> {
        if !self.salvage && entry.reserved_bits() != 0 {
            return Err(self
                .claim(table, l2_index)
                .malformed("with reserved bits set"));
        }
        let Some(offset) = entry.place(self.data_file_size.is_some()) else {
            return Ok(None);
        };
        if !self.geometry.is_aligned(offset) {
            let claim = self.claim(table, l2_index);
            return Err(claim.malformed(format!("its cluster at {offset:#x} is not aligned")));
        }
        if self.data_file_size.is_none() {
            if let Some(what) = self.what_lies_at(offset) {
                let claim = self.claim(table, l2_index);
                return Err(claim.malformed(format!("its cluster lies over {what}")));
            }
            return Ok(Some(HostOffset::new(offset)));
        }
        let guest = self.geometry.cluster_start(table.l1_index, l2_index);
        if offset != guest {
            let claim = self.claim(table, l2_index);
            let why = format!("its place in the data file is not its place {guest:#x} on the disk");
            return Err(claim.malformed(why));
        }
        Ok(Some(HostOffset { file: 1, offset }))
    }

    /// Data `into` a cluster at `place`, which must begin before its file's end: what is missing of it reads as zeros.
    fn data(
        &self,
        table: &L2Slice,
        l2_index: u64,
        place: HostOffset,
        into: u64,
    ) -> Result<ExtentKind> {
        let end = self.size_of_file(place.file);
        if place.offset < end {
            return Ok(ExtentKind::Data(place.plus(into)));
        }
        if self.salvage {
            return Ok(ExtentKind::Zero(None));
        }
        let claim = self.claim(table, l2_index);
        let file = if place.file == 0 { "file" } else { "data file" };
        let offset = place.offset;
        let why = format!("its cluster at {offset:#x} lies beyond the {file}'s end at {end:#x}");
        Err(claim.malformed(why))
    }

    fn stream(&self, table: &L2Slice, l2_index: u64, entry: L2Entry) -> Result<ExtentKind> {
        let stream = self.geometry.stream(entry);
        if self.data_file_size.is_some() {
            let claim = self.claim(table, l2_index);
            return Err(claim.malformed("a compressed cluster, in an image with a data file"));
        }
        if stream.offset < self.file_size {
            return Ok(ExtentKind::Compressed {
                at: HostOffset::new(stream.offset),
                len: stream.len,
            });
        }
        if self.salvage {
            return Ok(ExtentKind::Zero(None));
        }
        let why = format!(
            "its compressed cluster at {:#x} lies beyond the file's end at {:#x}",
            stream.offset, self.file_size
        );
        Err(self.claim(table, l2_index).malformed(why).truncated())
    }

    /// The slice of an L2 table that holds the entry at `position`, if there is a table.
    fn l2_slice(&self, storage: &dyn Storage, position: Position) -> Result<Option<L2Slice>> {
        let l1_index = position.l1_index;
        let index = usize::try_from(l1_index).unwrap_or(usize::MAX);
        let entry = self.l1.get(index).unwrap_or_default();
        let offset = L1Entry(entry.get()).table_offset();
        let claim = || {
            let at = self.l1_offset.saturating_add(8 * l1_index);
            field(format!("l1_entry[{l1_index}]"), at, entry)
        };
        if offset == 0 && (entry == U64::ZERO || self.salvage) {
            return Ok(None);
        }
        if !self.salvage && L1Entry(entry.get()).reserved_bits() != 0 {
            return Err(claim().malformed("with reserved bits set"));
        }
        if offset == 0 {
            return Err(claim().malformed("no L2 table, but marked as its only user"));
        }
        if !self.geometry.is_aligned(offset) {
            return Err(claim().malformed(format!("its L2 table at {offset:#x} is not aligned")));
        }
        if let Some(what) = self.what_lies_at(offset) {
            return Err(claim().malformed(format!("its L2 table lies over {what}")));
        }
        let len = self.geometry.cluster_size();
        if offset.saturating_add(len) > self.file_size && !self.salvage {
            let why = format!(
                "its L2 table at {offset:#x} reaches beyond the file's end at {:#x}",
                self.file_size
            );
            return Err(claim().malformed(why).truncated());
        }
        let slice_len = len.min(SLICE_LEN);
        let entry_size = self.geometry.l2_entry_size();
        let first = round_down(position.l2_index, slice_len / entry_size);
        let at = offset + first * entry_size;
        let words = self.l2.get_or_read(at, || {
            if self.is_refcount_block(storage, offset)? {
                return Err(claim().malformed("its L2 table lies over a block of refcounts"));
            }
            let mut bytes = vec![0; usize::try_from(slice_len).unwrap_or(0)];
            storage.read_padded(&mut bytes, at)?;
            Ok(Table::new(bytes))
        })?;
        Ok(Some(L2Slice {
            l1_index,
            offset,
            entries: first..first + slice_len / entry_size,
            words,
        }))
    }

    /// What of the image's own tables has the cluster at `offset`, where that can be told without a look. What else lies
    /// over each other is found by a check.
    fn what_lies_at(&self, offset: u64) -> Option<&'static str> {
        if self.salvage {
            return None;
        }
        let tables = self.tables.iter();
        let mut found = tables.filter(|(_, place)| place.contains(&offset));
        found.next().map(|(name, _)| *name)
    }

    /// Whether a block of refcounts lies at `offset`: taken for an L2 table, it could read as zeros.
    fn is_refcount_block(&self, storage: &dyn Storage, offset: u64) -> Result<bool> {
        if self.salvage {
            return Ok(false);
        }
        let blocks = match self.refcount_blocks.get() {
            Some(blocks) => blocks,
            None => {
                let [_, (_, table)] = &self.tables;
                let found = refcount_blocks(storage, table.clone(), self.file_size)?;
                self.refcount_blocks.get_or_init(|| found)
            }
        };
        Ok(blocks.binary_search(&offset).is_ok())
    }

    fn entry(&self, table: &L2Slice, l2_index: u64) -> L2Entry {
        L2Entry(self.word(table, l2_index, 0))
    }

    /// A word of an entry that is in the slice.
    fn word(&self, table: &L2Slice, l2_index: u64, word: u64) -> u64 {
        let words = self.geometry.l2_entry_size() / 8;
        let index = l2_index.saturating_sub(table.entries.start) * words + word;
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        table.words.get(index).unwrap_or_default().get()
    }

    fn entry_offset(&self, table: &L2Slice, l2_index: u64) -> u64 {
        table.offset + l2_index * self.geometry.l2_entry_size()
    }

    fn claim(&self, table: &L2Slice, l2_index: u64) -> Field {
        let name = format!("l2_entry[{l2_index}]");
        let entry = self.entry(table, l2_index);
        field(name, self.entry_offset(table, l2_index), entry.0)
    }
}

/// That not all entries can lead to one table: a look at a small file would have no end.
fn expect_tables_of_their_own(l1: &Table<U64>, at: &L1Location, clusters: u64) -> Result<()> {
    let used = l1.entries().iter().filter(|entry| **entry != U64::ZERO);
    let count = used.count();
    if count as u64 <= clusters {
        return Ok(());
    }
    let why = format!("{count} of them lead to L2 tables, and the file has {clusters} clusters");
    Err(field("l1_table", at.offset, at.entries).malformed(why))
}

/// Where the file has blocks of refcounts, by the refcount table at `table`.
fn refcount_blocks(storage: &dyn Storage, table: Range<u64>, file_size: u64) -> Result<Vec<u64>> {
    const PIECE: usize = 1 << 16;
    let mut blocks = Vec::new();
    let mut bytes = vec![0; PIECE];
    for at in (table.start..table.end.min(file_size)).step_by(PIECE) {
        storage.read_padded(&mut bytes, at)?;
        let entries = <[U64]>::ref_from_bytes(&bytes).unwrap_or_default().iter();
        let left = usize::try_from((table.end - at) / 8).unwrap_or(usize::MAX);
        let places = entries
            .take(left)
            .map(|entry| RefcountTableEntry(entry.get()).block_offset());
        blocks.extend(places.filter(|place| (1..file_size).contains(place)));
    }
    blocks.sort_unstable();
    blocks.dedup();
    Ok(blocks)
}

const fn range(start: u64, len: u64) -> Range<u64> {
    start..start.saturating_add(len)
}

/// The whole L1 table. It may end where the file does, but not beyond.
fn read_l1(
    storage: &dyn Storage,
    l1: &L1Location,
    file_size: u64,
    salvage: bool,
) -> Result<Table<U64>> {
    let len = 8 * l1.entries; // at most 32 MiB
    if len == 0 {
        return Ok(Table::new(Vec::new()));
    }
    if !salvage {
        l1.claim.clone().followed_by(len, file_size)?;
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    storage.read_padded(&mut bytes, l1.offset)?;
    Ok(Table::new(bytes))
}
