//! ESX copy-on-write extents ("vmfsSparse"): a header of four sectors, and tables of 4096 entries.

use std::sync::Arc;

use diskette_core::{Error, Field, OpenContext, Result, SECTOR, Storage, StorageExt};
use zerocopy::FromBytes;

use crate::grains::{Grains, directory_entries, read_directory};
use crate::header::read_struct_bytes;
use crate::sparse::SectorEntries;
use crate::{FORMAT, spec};

/// Opens the COWD extent that `storage` holds.
pub(crate) fn open(
    storage: Arc<dyn Storage>,
    cx: &OpenContext<'_>,
) -> Result<Grains<SectorEntries>> {
    let bytes = read_struct_bytes(&*storage, 0, "header")?;
    let (raw, _) = spec::CowdHeader::ref_from_prefix(&bytes)
        .map_err(|_| Error::malformed(FORMAT, "header", 0, 0, "cut short").truncated())?;
    let field = |name: &'static str, offset, value: u32| Field::new(FORMAT, name, offset, value);

    field("header.version", 4, raw.version.get()).equal_to(1)?;
    let size = u64::from(raw.capacity.get()) * SECTOR;
    let grain_size =
        field("header.granularity", 16, raw.grain_size.get()).power_of_two_in(1..=2048)? * SECTOR;
    cx.limits.allow_granule("grain's bytes", grain_size)?;
    let directory_field = || field("header.rootOffset", 20, raw.gd_offset.get());
    let directory_at = directory_field().within(spec::COWD_HEADER_SECTORS..=u64::MAX)? * SECTOR;
    let count = directory_entries(size, grain_size, spec::COWD_TABLE_ENTRIES);
    field("header.numRootEntries", 24, raw.gd_entries.get()).within(count..=u64::MAX)?;

    let storage_size = storage.total_size()?;
    let directory = read_directory(
        &*storage,
        directory_field(),
        directory_at,
        count,
        storage_size,
        cx.limits,
    )?;
    Ok(Grains {
        storage,
        storage_size,
        size,
        grain_size,
        table_entries: spec::COWD_TABLE_ENTRIES,
        compressed: false,
        salvage: cx.salvage,
        layout: SectorEntries {
            lowest: directory_at,
            one_is_zero: false,
        },
        tables: Grains::<SectorEntries>::stored(
            directory,
            directory_at,
            spec::COWD_TABLE_ENTRIES,
            cx.limits,
        ),
    })
}
