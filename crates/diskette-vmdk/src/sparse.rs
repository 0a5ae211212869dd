//! Hosted sparse extents, and COWD: 32-bit sector numbers in both tables.

use std::sync::Arc;

use diskette_core::{Error, Field, OpenContext, Result, SECTOR, Storage, StorageExt};
use zerocopy::little_endian::U32;

use crate::grains::{Grain, Grains, Layout, Tables, directory_entries, read_directory};
use crate::header::Header;
use crate::remarks::Remarks;
use crate::{FORMAT, redundant, spec, stream};

/// Entries that are numbers of sectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SectorEntries {
    /// Host offset before which no grain lies.
    pub lowest: u64,
    /// Whether the entry 1 means zeros.
    pub one_is_zero: bool,
}

impl Layout for SectorEntries {
    type Entry = U32;

    fn number(entry: U32) -> u64 {
        u64::from(entry.get())
    }

    fn table_at(&self, entry: U32) -> Result<Option<u64>, &'static str> {
        match entry.get() {
            0 => Ok(None),
            sector => Ok(Some(u64::from(sector) * SECTOR)),
        }
    }

    fn grain_at(&self, entry: U32) -> Result<Grain, &'static str> {
        match entry.get() {
            0 => Ok(Grain::Hole),
            // VMware's reader takes it so whatever the header's flags and version say.
            spec::GTE_ZERO if self.one_is_zero => Ok(Grain::Zero),
            sector if u64::from(sector) * SECTOR < self.lowest => Err("a grain amid the metadata"),
            sector => Ok(Grain::At(u64::from(sector) * SECTOR)),
        }
    }
}

/// Opens the hosted sparse extent that `storage` holds. Of its disk the first `size` bytes count.
pub(crate) fn open(
    storage: Arc<dyn Storage>,
    header: &Header,
    size: u64,
    cx: &OpenContext<'_>,
    remarks: &mut Remarks,
) -> Result<Grains<SectorEntries>> {
    if header.unclean {
        remarks.warn(format!("{} was not closed properly", storage.name()));
    }
    let tables = match header.directory {
        Some(at) => stored_tables(&*storage, header, at, size, cx, remarks)?,
        None => stream::scan(&*storage, header, size, cx, remarks)?,
    };
    if !cx.salvage {
        stream::expect_grains_known(&*storage, header, &tables, size)?;
    }
    let grains = Grains {
        storage_size: storage.total_size()?,
        storage,
        size,
        grain_size: header.grain_size,
        table_entries: header.table_entries,
        compressed: header.compressed,
        salvage: cx.salvage,
        layout: SectorEntries {
            lowest: header.overhead,
            one_is_zero: true,
        },
        tables,
    };
    redundant::compare_if_cheap(&grains, header, cx.limits, remarks);
    Ok(grains)
}

/// The tables that the directory at `at` leads to. Where it cannot be used, the redundant one serves.
fn stored_tables(
    storage: &dyn Storage,
    header: &Header,
    at: u64,
    size: u64,
    cx: &OpenContext<'_>,
    remarks: &mut Remarks,
) -> Result<Tables<U32>> {
    let count = directory_entries(size, header.grain_size, header.table_entries);
    let storage_size = storage.total_size()?;
    let read = |name: &str, field_offset, at| {
        let name = format!("{}.{name}", header.name());
        let field = Field::new(FORMAT, name, header.host_offset(field_offset), at / SECTOR);
        read_directory::<U32>(storage, field, at, count, storage_size, cx.limits)
    };
    let redundant = || {
        header
            .redundant_directory
            .map(|at| Ok((read("rgdOffset", 48, at)?, at)))
    };

    let stored = |(directory, at)| {
        Grains::<SectorEntries>::stored(directory, at, header.table_entries, cx.limits)
    };
    let error = match read("gdOffset", 56, at) {
        Ok(directory) if cx.salvage => {
            let directory =
                redundant::repair(directory, redundant(), header, storage_size, remarks);
            return Ok(stored((directory, at)));
        }
        Ok(directory) => return Ok(stored((directory, at))),
        Err(error) => error,
    };
    // A directory that the machine cannot read has a second copy. One that the image misplaces is a damaged image:
    // whoever wants to read on is to say so.
    let may_fall_back = cx.salvage || matches!(error, Error::Io { .. });
    if may_fall_back && let Some(Ok(found)) = redundant() {
        let text = format!("the redundant grain directory is used: {error}");
        match error {
            Error::Io { .. } => remarks.warn(text),
            // Nobody else will read the image.
            _ => remarks.damaged(text),
        }
        return Ok(stored(found));
    }
    if cx.salvage && header.compressed {
        remarks.damaged(&error);
        return stream::scan(storage, header, size, cx, remarks);
    }
    Err(error)
}
