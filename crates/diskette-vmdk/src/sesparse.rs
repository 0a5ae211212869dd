//! seSparse extents of ESXi 6 and later: 64-bit entries that name tables and grains by their numbers.

use std::sync::Arc;

use diskette_core::{Error, Field, OpenContext, Result, SECTOR, Storage, StorageExt};
use zerocopy::FromBytes;
use zerocopy::little_endian::U64;

use crate::grains::{Grain, Grains, Layout, directory_entries, read_directory};
use crate::header::{MOST_SECTORS, read_struct_bytes};
use crate::{FORMAT, spec};

/// Entries of a seSparse extent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SeSparseEntries {
    /// Where the tables lie.
    tables_at: u64,
    /// How many there are.
    table_count: u64,
    /// Where the grains lie.
    grains_at: u64,
}

const GRAIN_SIZE: u64 = spec::SE_SPARSE_GRAIN_SECTORS * SECTOR;
const TABLE_LEN: u64 = spec::SE_SPARSE_TABLE_SECTORS * SECTOR;

impl Layout for SeSparseEntries {
    type Entry = U64;

    fn number(entry: U64) -> u64 {
        entry.get()
    }

    fn table_at(&self, entry: U64) -> Result<Option<u64>, &'static str> {
        let entry = entry.get();
        if entry == 0 {
            return Ok(None);
        }
        if entry >> 32 != spec::SE_SPARSE_GDE_ALLOCATED {
            return Err("neither 0 nor the number of a table");
        }
        let number = entry & 0xffff_ffff;
        if number >= self.table_count {
            return Err("the number of a table behind the last");
        }
        let at = self.tables_at.checked_add(number * TABLE_LEN); // the number has 32 bits
        at.map(Some).ok_or("too large")
    }

    fn grain_at(&self, entry: U64) -> Result<Grain, &'static str> {
        let entry = entry.get();
        match entry >> 60 {
            spec::se_sparse_grain::UNALLOCATED if entry == 0 => Ok(Grain::Hole),
            spec::se_sparse_grain::UNMAPPED | spec::se_sparse_grain::ZERO => Ok(Grain::Zero),
            spec::se_sparse_grain::ALLOCATED => {
                // The number is kept rotated: its low 12 bits lie above the others.
                let number = (entry >> 48) & 0xfff | (entry & 0xffff_ffff_ffff) << 12;
                let offset = number.checked_mul(GRAIN_SIZE);
                let at = offset.and_then(|offset| self.grains_at.checked_add(offset));
                at.map(Grain::At).ok_or("too large")
            }
            _ => Err("of an unknown kind"),
        }
    }
}

/// Opens the seSparse extent that `storage` holds.
pub(crate) fn open(
    storage: Arc<dyn Storage>,
    cx: &OpenContext<'_>,
) -> Result<Grains<SeSparseEntries>> {
    let bytes = read_struct_bytes(&*storage, 0, "header")?;
    let raw = spec::SeSparseHeader::ref_from_bytes(&bytes)
        .map_err(|_| Error::malformed(FORMAT, "header", 0, 0, "cut short").truncated())?;
    if raw.magic != spec::SE_SPARSE_MAGIC {
        let magic = U64::from_bytes(raw.magic).get();
        return Err(Error::malformed(
            FORMAT,
            "header.magic",
            0,
            magic,
            "not 0xcafebabe",
        ));
    }
    check_constants(raw)?;
    check_clean(&*storage, raw)?;

    let size = field("capacity", 2, raw.capacity).within(0..=MOST_SECTORS)? * SECTOR;
    let bytes_of = |name, index, value| {
        Ok::<_, Error>(field(name, index, value).within(0..=MOST_SECTORS)? * SECTOR)
    };
    let tables_at = bytes_of("grainTablesOffset", 18, raw.grain_tables.offset)?;
    let tables_len = bytes_of("grainTablesSize", 19, raw.grain_tables.size)?;
    let grains_at = bytes_of("grainsOffset", 24, raw.grains.offset)?;
    let directory_at = bytes_of("grainDirectoryOffset", 16, raw.grain_directory.offset)?;
    let directory_len = bytes_of("grainDirectorySize", 17, raw.grain_directory.size)?;

    let storage_size = storage.total_size()?;
    let count = directory_entries(size, GRAIN_SIZE, spec::SE_SPARSE_TABLE_ENTRIES);
    if count.saturating_mul(8) > directory_len {
        let why = format!("too small for a disk of {size:#x} bytes");
        return Err(field("grainDirectorySize", 17, raw.grain_directory.size).malformed(why));
    }
    let directory_field = field("grainDirectoryOffset", 16, raw.grain_directory.offset);
    let directory = read_directory(
        &*storage,
        directory_field,
        directory_at,
        count,
        storage_size,
        cx.limits,
    )?;
    Ok(Grains {
        storage,
        storage_size,
        size,
        grain_size: GRAIN_SIZE,
        table_entries: spec::SE_SPARSE_TABLE_ENTRIES,
        compressed: false,
        salvage: cx.salvage,
        layout: SeSparseEntries {
            tables_at,
            table_count: tables_len / TABLE_LEN,
            grains_at,
        },
        tables: Grains::<SeSparseEntries>::stored(
            directory,
            directory_at,
            spec::SE_SPARSE_TABLE_ENTRIES,
            cx.limits,
        ),
    })
}

/// The format is not published: nothing is known of any other values.
fn check_constants(raw: &spec::SeSparseHeader) -> Result<()> {
    field("version", 1, raw.version).equal_to(spec::SE_SPARSE_VERSION)?;
    field("grainSize", 3, raw.grain_size).equal_to(spec::SE_SPARSE_GRAIN_SECTORS)?;
    field("grainTableSize", 4, raw.grain_table_size).equal_to(spec::SE_SPARSE_TABLE_SECTORS)?;
    field("flags", 5, raw.flags).equal_to(0)?;
    for (index, reserved) in (6..).zip(raw.reserved) {
        field("reserved", index, reserved).equal_to(0)?;
    }
    match raw.pad.iter().position(|byte| *byte != 0) {
        None => Ok(()),
        Some(at) => {
            let padding = Field::new(FORMAT, "header.padding", 208 + at as u64, raw.pad[at]);
            Err(padding.malformed("not zero"))
        }
    }
}

/// The journal's format is unknown: an image that needs it cannot be read.
fn check_clean(storage: &dyn Storage, raw: &spec::SeSparseHeader) -> Result<()> {
    let at = field("volatileHeaderOffset", 10, raw.volatile_header.offset)
        .within(1..=MOST_SECTORS)?
        * SECTOR;
    let bytes = read_struct_bytes(storage, at, "volatile header")?;
    let volatile = spec::SeSparseVolatileHeader::ref_from_bytes(&bytes)
        .map_err(|_| Error::malformed(FORMAT, "volatile header", at, 0, "cut short").truncated())?;
    let magic = Field::new(FORMAT, "volatileHeader.magic", at, volatile.magic.get());
    magic.equal_to(spec::SE_SPARSE_VOLATILE_MAGIC)?;
    if volatile.replay_journal.get() != 0 {
        let replay = Field::new(
            FORMAT,
            "volatileHeader.replayJournal",
            at + 24,
            volatile.replay_journal.get(),
        );
        return Err(replay.malformed("the image is dirty, and the journal's format is unknown"));
    }
    match volatile.pad.iter().position(|byte| *byte != 0) {
        None => Ok(()),
        Some(index) => {
            let offset = at + 32 + index as u64;
            let padding = Field::new(
                FORMAT,
                "volatileHeader.padding",
                offset,
                volatile.pad[index],
            );
            Err(padding.malformed("not zero"))
        }
    }
}

/// A field of the constant header, by its index: all are 8 bytes long.
fn field(name: &'static str, index: u64, value: U64) -> Field {
    Field::new(FORMAT, format!("header.{name}"), index * 8, value.get())
}
