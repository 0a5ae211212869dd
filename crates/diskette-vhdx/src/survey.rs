//! A walk over the whole BAT: what is wrong with it that no single entry shows.

use std::ops::Range;

use diskette_core::{Error, ExtentKind, Limits, Result, RunKind, StorageExt, UsedUnits};
use zerocopy::IntoBytes;

use crate::map::{Block, ENTRY_LEN, Map, PAGE_LEN};
use crate::spec::{ALIGNMENT, BAT_OFFSET_MASK, BAT_RESERVED_MASK, SECTOR_BITMAP_LEN};

/// What a walk over the BAT has found, errors apart.
#[derive(Debug)]
pub(crate) struct Survey {
    /// Payload blocks that have a place in the file.
    pub allocated_count: u64,
    /// The first entry that has bits set where zeros should be.
    pub reserved_bits: Option<u64>,
    /// What of the file is in use.
    pub used: UsedUnits,
}

/// Goes over all entries. What is wrong is handed to `report`, which goes on or gives up.
pub(crate) fn survey(
    map: &Map,
    limits: &Limits,
    mut report: impl FnMut(Error) -> Result<()>,
) -> Result<Survey> {
    let mut used = UsedUnits::new(map.file_size, ALIGNMENT, "map of the file's use", limits)?;
    for range in map.taken.ranges() {
        used.take(range);
    }
    let mut found = Survey {
        allocated_count: 0,
        reserved_bits: None,
        used,
    };
    let mut partial_in_chunk = false;
    let mut page_at = 0;
    let end = map.geometry.entry_count * ENTRY_LEN;
    while page_at < end {
        // Where the host holds nothing, no block is present. A bitmap may be missing, though.
        if !partial_in_chunk && let Some(behind) = pages_of_hole(map, page_at)? {
            page_at = behind;
            continue;
        }
        let page = map.read_page(page_at)?;
        // The same holds of zeros that the host has.
        if !partial_in_chunk && page.entries().as_bytes() == NOTHING {
            page_at += PAGE_LEN;
            continue;
        }
        for (index, entry) in (page_at / ENTRY_LEN..map.geometry.entry_count).zip(page.entries()) {
            let entry = entry.get();
            let place = if map.geometry.is_bitmap_entry(index) {
                let partial = std::mem::take(&mut partial_in_chunk);
                bitmap_place(map, index, entry, partial)
            } else {
                payload_place(map, index, entry, &mut partial_in_chunk).inspect(|place| {
                    found.allocated_count += u64::from(place.is_some());
                })
            };
            if entry & BAT_RESERVED_MASK != 0 {
                found.reserved_bits.get_or_insert(index);
            }
            match place {
                Ok(Some(place)) if !found.used.take(&place) => report(
                    map.entry_field(index, entry)
                        .malformed("its block overlaps another"),
                )?,
                Ok(_) => {}
                Err(error @ Error::Malformed { .. }) => report(error)?,
                Err(error) => return Err(error),
            }
        }
        page_at += PAGE_LEN;
    }
    Ok(found)
}

/// A page that says nothing.
static NOTHING: [u8; 64 << 10] = [0; 64 << 10];
const _: () = assert!(NOTHING.len() as u64 == PAGE_LEN);

/// Where a payload block lies, if it has a place.
fn payload_place(
    map: &Map,
    index: u64,
    entry: u64,
    partial_in_chunk: &mut bool,
) -> Result<Option<Range<u64>>> {
    if map.geometry.block_of_entry(index) >= map.geometry.block_count {
        return Ok(None); // Only fills the last chunk of a differencing disk.
    }
    let offset = match map.decode_payload(index, entry)? {
        Block::Whole(ExtentKind::Data(at)) => at.offset,
        Block::Whole(_) => return Ok(None),
        Block::Partial(offset) => {
            *partial_in_chunk = true;
            offset
        }
    };
    Ok(Some(offset..offset.saturating_add(map.geometry.block_size)))
}

/// Where a sector bitmap lies, if there is one.
fn bitmap_place(map: &Map, index: u64, entry: u64, needed: bool) -> Result<Option<Range<u64>>> {
    if !map.geometry.differencing {
        return Ok(None); // Some writers leave something here. It means nothing.
    }
    match map.decode_bitmap(index, entry)? {
        Some(offset) => Ok(Some(offset..offset.saturating_add(SECTOR_BITMAP_LEN))),
        None if needed => Err(map.bitmap_missing(index, entry & !BAT_OFFSET_MASK)),
        None => Ok(None),
    }
}

/// If the page at `page_at` is a hole of the host: where the first page begins that is not.
fn pages_of_hole(map: &Map, page_at: u64) -> Result<Option<u64>> {
    let at = map.bat_offset + page_at; // The region has been checked.
    if at >= map.file_size {
        return Ok(Some(u64::MAX)); // Only in salvage.
    }
    let run = map.storage.run(at)?;
    let pages = match run.kind {
        RunKind::Data => 0,
        RunKind::Hole => run.len / PAGE_LEN,
    };
    Ok((pages > 0).then(|| page_at.saturating_add(pages * PAGE_LEN)))
}
