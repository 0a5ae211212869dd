//! The way from a guest offset to a grain, which all sparse extents share: a directory of tables, tables of grains.
//!
//! ```text
//!  offset ──► directory[offset / (table_entries · grain_size)] ──► table[...] ──► a grain's host offset
//! ```
//!
//! They differ in what an entry looks like: that is their [`Layout`]. Here guest offsets count from the beginning of the
//! part, and host offsets lie in the part's own file.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use diskette_core::{
    Error, Extent, ExtentKind, Field, HostOffset, Limits, Result, Storage, Table, TableCache,
};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::{FORMAT, spec};

/// How a kind of sparse extent writes the entries of its tables.
pub(crate) trait Layout: Debug + Send + Sync {
    /// An entry, of either table.
    type Entry: FromBytes + Immutable + KnownLayout + Unaligned + Copy + Send + Sync;

    /// The entry as a number, for messages.
    fn number(entry: Self::Entry) -> u64;

    /// Where the table lies that an entry of the directory names, if it names one; or why it is wrong.
    fn table_at(&self, entry: Self::Entry) -> Result<Option<u64>, &'static str>;

    /// What an entry of a table says; or why it is wrong.
    fn grain_at(&self, entry: Self::Entry) -> Result<Grain, &'static str>;
}

/// What an image says of one grain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grain {
    /// Nothing.
    Hole,
    /// Zeros.
    Zero,
    /// It is stored at this host offset.
    At(u64),
}

/// The tables of one sparse extent.
#[derive(Debug)]
pub(crate) struct Grains<L: Layout> {
    /// The file.
    pub storage: Arc<dyn Storage>,
    /// The file's size when it was opened.
    pub storage_size: u64,
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of a grain.
    pub grain_size: u64,
    /// Entries of a table.
    pub table_entries: u64,
    /// Whether a grain is a marker and a zlib stream.
    pub compressed: bool,
    /// Whether damage reads as zeros.
    pub salvage: bool,
    /// How entries are written.
    pub layout: L,
    /// The directory, and the tables.
    pub tables: Tables<L::Entry>,
}

/// Where tables come from.
#[derive(Debug)]
pub(crate) enum Tables<E> {
    /// From the file, when they are needed.
    Stored {
        /// The directory.
        directory: Table<E>,
        /// Where it lies.
        directory_at: u64,
        /// Tables that were read.
        cache: TableCache<E>,
    },
    /// From a scan of the whole file: those that hold a grain, by their index.
    Rebuilt(BTreeMap<u64, Table<E>>),
}

/// A table, and where it lies.
#[derive(Debug)]
pub(crate) struct PlacedTable<E> {
    /// Its index in the directory.
    pub index: u64,
    /// Its host offset; 0 if it was rebuilt.
    pub at: u64,
    /// Its entries.
    pub table: Table<E>,
}

/// How many entries a directory needs for `size` bytes of disk.
pub(crate) const fn directory_entries(size: u64, grain_size: u64, table_entries: u64) -> u64 {
    size.div_ceil(grain_size.saturating_mul(table_entries))
}

/// Reads a directory of `count` entries at `at`, after a look at the file's size and at the limits.
pub(crate) fn read_directory<E>(
    storage: &dyn Storage,
    field: Field,
    at: u64,
    count: u64,
    storage_size: u64,
    limits: &Limits,
) -> Result<Table<E>>
where
    E: FromBytes + Immutable + KnownLayout + Unaligned + Copy,
{
    let len = count.saturating_mul(size_of::<E>() as u64);
    if at == 0 && count > 0 {
        return Err(field.malformed("no place for a grain directory"));
    }
    if at.checked_add(len).is_none_or(|end| end > storage_size) {
        let why = format!(
            "the grain directory's {len} bytes reach beyond the file's end at {storage_size:#x}"
        );
        return Err(field.malformed(why).truncated());
    }
    limits.keep_table("grain directory's bytes", len)?;
    Table::read(storage, at, usize::try_from(count).unwrap_or(usize::MAX))
}

impl<L: Layout> Grains<L> {
    const ENTRY_SIZE: u64 = size_of::<L::Entry>() as u64;

    /// Tables that are read from the file when they are needed.
    pub(crate) fn stored(
        directory: Table<L::Entry>,
        directory_at: u64,
        table_entries: u64,
        limits: &Limits,
    ) -> Tables<L::Entry> {
        let table_len = table_entries.saturating_mul(Self::ENTRY_SIZE);
        Tables::Stored {
            directory,
            directory_at,
            cache: TableCache::within(limits, table_len),
        }
    }

    /// The extent that holds `offset`, which must lie within the part.
    pub(crate) fn extent_at(&self, offset: u64) -> Result<Extent> {
        let grain = offset / self.grain_size;
        let index = grain / self.table_entries;
        let table = match self.table(index) {
            Ok(Some(table)) => table,
            Ok(None) => return Ok(self.hole_of_tables(index)),
            Err(Error::Malformed { .. }) if self.salvage => return Ok(self.zeros_of_table(index)),
            Err(error) => return Err(error),
        };
        let slot = grain % self.table_entries;
        let mut run = self.extent_of(&table, slot)?;
        for next in slot + 1..self.table_entries {
            if run.end() >= self.size || matches!(run.kind, ExtentKind::Compressed { .. }) {
                break;
            }
            match self.extent_of(&table, next) {
                Ok(next) if run.continues_into(&next) => run.len += next.len,
                // An error is told when the run before it has been handed out.
                _ => break,
            }
        }
        Ok(run)
    }

    /// The table with this index, if there is one.
    pub(crate) fn table(&self, index: u64) -> Result<Option<PlacedTable<L::Entry>>> {
        let (directory, cache) = match &self.tables {
            Tables::Rebuilt(tables) => {
                let table = tables.get(&index).cloned();
                return Ok(table.map(|table| PlacedTable {
                    index,
                    at: 0,
                    table,
                }));
            }
            Tables::Stored {
                directory, cache, ..
            } => (directory, cache),
        };
        let Some(entry) = usize::try_from(index)
            .ok()
            .and_then(|index| directory.get(index))
        else {
            return Ok(None); // The directory was read for the whole disk: not reached.
        };
        let Some(at) = self.table_at(index, entry)? else {
            return Ok(None);
        };
        let table = cache.get_or_read(at, || {
            let count = usize::try_from(self.table_entries).unwrap_or(usize::MAX);
            Table::read(&*self.storage, at, count)
        })?;
        Ok(Some(PlacedTable { index, at, table }))
    }

    /// What the table's entry number `slot` says.
    pub(crate) fn grain(&self, table: &PlacedTable<L::Entry>, slot: u64) -> Result<Grain> {
        let Some(entry) = usize::try_from(slot)
            .ok()
            .and_then(|slot| table.table.get(slot))
        else {
            return Ok(Grain::Hole); // Tables are read whole: not reached.
        };
        let wrong = |why: String| {
            let name = format!("grain table {}[{slot}]", table.index);
            let at = table
                .at
                .saturating_add(slot.saturating_mul(Self::ENTRY_SIZE));
            Field::new(FORMAT, name, at, L::number(entry)).malformed(why)
        };
        let grain = self
            .layout
            .grain_at(entry)
            .map_err(|why| wrong(why.to_owned()))?;
        if let Grain::At(at) = grain {
            let needed = self.stored_at_least(table.index, slot);
            if at
                .checked_add(needed)
                .is_none_or(|end| end > self.storage_size)
            {
                let size = self.storage_size;
                return Err(wrong(format!(
                    "the grain at {at:#x} reaches beyond the file's end at {size:#x}"
                ))
                .truncated());
            }
        }
        Ok(grain)
    }

    /// Number of tables that the disk needs.
    pub(crate) const fn table_count(&self) -> u64 {
        directory_entries(self.size, self.grain_size, self.table_entries)
    }

    /// The indices under which there can be a table: there are no more of them than the file has room for, whatever
    /// the size of the disk.
    pub(crate) fn table_indices(&self) -> Box<dyn Iterator<Item = u64> + '_> {
        match &self.tables {
            Tables::Stored { directory, .. } => {
                Box::new(0..self.table_count().min(directory.len() as u64))
            }
            Tables::Rebuilt(tables) => Box::new(tables.keys().copied()),
        }
    }

    /// Bytes of one table.
    pub(crate) const fn table_len(&self) -> u64 {
        self.table_entries.saturating_mul(Self::ENTRY_SIZE)
    }

    /// Number of grains of the disk that the table `index` stands for.
    pub(crate) fn slots_of(&self, index: u64) -> u64 {
        let first = index.saturating_mul(self.table_entries);
        let grains = self.size.div_ceil(self.grain_size);
        grains.saturating_sub(first).min(self.table_entries)
    }

    /// Where the table lies that this entry of the directory names.
    fn table_at(&self, index: u64, entry: L::Entry) -> Result<Option<u64>> {
        let wrong = |why: String| {
            let directory_at = match &self.tables {
                Tables::Stored { directory_at, .. } => *directory_at,
                Tables::Rebuilt(_) => 0,
            };
            let at = directory_at.saturating_add(index.saturating_mul(Self::ENTRY_SIZE));
            Field::new(
                FORMAT,
                format!("grain directory[{index}]"),
                at,
                L::number(entry),
            )
            .malformed(why)
        };
        let at = self
            .layout
            .table_at(entry)
            .map_err(|why| wrong(why.to_owned()))?;
        let size = self.storage_size;
        match at {
            Some(at)
                if at
                    .checked_add(self.table_len())
                    .is_none_or(|end| end > size) =>
            {
                Err(wrong(format!(
                    "the grain table at {at:#x} reaches beyond the file's end at {size:#x}"
                ))
                .truncated())
            }
            at => Ok(at),
        }
    }

    /// Bytes that a stored grain takes in the file, at least: what the disk has of it, or its marker.
    fn stored_at_least(&self, index: u64, slot: u64) -> u64 {
        if self.compressed {
            return spec::GRAIN_MARKER_LEN;
        }
        let grain = index
            .saturating_mul(self.table_entries)
            .saturating_add(slot);
        self.span(grain).1
    }

    /// The guest offset and the length of a grain. The last one ends where the disk ends.
    fn span(&self, grain: u64) -> (u64, u64) {
        let start = grain.saturating_mul(self.grain_size);
        (start, self.size.saturating_sub(start).min(self.grain_size))
    }

    /// The extent of one grain.
    fn extent_of(&self, table: &PlacedTable<L::Entry>, slot: u64) -> Result<Extent> {
        let grain = match self.grain(table, slot) {
            Err(Error::Malformed { .. }) if self.salvage => Grain::Zero,
            grain => grain?,
        };
        let (start, len) = self.span(
            table
                .index
                .saturating_mul(self.table_entries)
                .saturating_add(slot),
        );
        let kind = match grain {
            Grain::Hole => ExtentKind::Hole(None),
            Grain::Zero => ExtentKind::Zero(None),
            Grain::At(at) if self.compressed => ExtentKind::Compressed {
                at: HostOffset::new(at),
                len: self.compressed_bound(table, slot, at),
            },
            Grain::At(at) => ExtentKind::Data(HostOffset::new(at)),
        };
        Ok(Extent::new(start, len, kind))
    }

    /// Bytes that the compressed grain at `at` takes with its marker, at the most: writers put the next grain of the
    /// disk behind it. Spares a look at the marker.
    fn compressed_bound(&self, table: &PlacedTable<L::Entry>, slot: u64, at: u64) -> u64 {
        let next = usize::try_from(slot + 1)
            .ok()
            .and_then(|slot| table.table.get(slot));
        let most = self
            .storage_size
            .saturating_sub(at)
            .min(2 * self.grain_size + spec::GRAIN_MARKER_LEN);
        match next.map(|entry| self.layout.grain_at(entry)) {
            Some(Ok(Grain::At(next))) if next > at => most.min(next - at),
            _ => most,
        }
    }

    /// The hole of the table `index`, which is absent, and of those behind it that are absent too.
    fn hole_of_tables(&self, index: u64) -> Extent {
        const MOST: usize = 4096;
        let from = usize::try_from(index).unwrap_or(usize::MAX);
        let absent = match &self.tables {
            Tables::Stored { directory, .. } => {
                let entries = directory.entries().get(from..).unwrap_or_default();
                let absent = |entry: &&L::Entry| matches!(self.layout.table_at(**entry), Ok(None));
                entries.iter().take(MOST).take_while(absent).count() as u64
            }
            Tables::Rebuilt(tables) => {
                let next = tables.range(index..).next().map(|(next, _)| *next);
                next.unwrap_or_else(|| self.table_count())
                    .saturating_sub(index)
            }
        };
        let (start, end) = self.span_of_tables(index, absent.max(1));
        Extent::hole(start, end - start)
    }

    /// Zeros instead of the table `index`, which cannot be used.
    fn zeros_of_table(&self, index: u64) -> Extent {
        let (start, end) = self.span_of_tables(index, 1);
        Extent::zero(start, end - start)
    }

    /// The part of the disk that `count` tables stand for.
    fn span_of_tables(&self, index: u64, count: u64) -> (u64, u64) {
        let cover = self.table_entries.saturating_mul(self.grain_size);
        let start = index.saturating_mul(cover).min(self.size);
        let end = start
            .saturating_add(count.saturating_mul(cover))
            .min(self.size);
        (start, end)
    }
}
