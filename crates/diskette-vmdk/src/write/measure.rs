//! How large an image will be, before there is one. Compression is not foreseen.

use diskette_core::{Measure, SECTOR};

use super::extent::Extent;
use super::header::{GRAIN, TABLE_COVERS, TABLE_LEN};
use super::options::{Settings, Subformat};

/// The sizes of all files of an image with these settings together, but for a descriptor in a file of its own, if `data`
/// bytes of whole grains hold data.
pub(super) fn measure(settings: &Settings, data: u64) -> Measure {
    let grains = settings.size.div_ceil(GRAIN);
    // Over a parent all grains of the source may be told.
    let needed = match settings.parent.is_some() && data > 0 {
        true => grains,
        false => data.div_ceil(GRAIN).min(grains),
    };
    let with = |count: u64| match (settings.subformat, settings.subformat.part_size()) {
        (Subformat::StreamOptimized, _) => stream_len(settings.size, count),
        (subformat, _) if subformat.is_flat() => settings.size,
        (_, None) => Extent::file_len(settings.size, count),
        (_, Some(part_size)) => {
            let whole = settings.size / part_size * Extent::file_len(part_size, 0);
            let rest = match settings.size % part_size {
                0 => 0,
                rest => Extent::file_len(rest, 0),
            };
            whole + rest + count * GRAIN
        }
    };
    Measure {
        required: with(needed),
        fully_allocated: with(grains),
        bitmaps: None,
    }
}

/// A grain that cannot be compressed takes a sector more than it has: for its marker, and for what deflate adds.
fn stream_len(size: u64, grains: u64) -> u64 {
    let tables = size.div_ceil(TABLE_COVERS);
    let head = GRAIN;
    let directory = (tables * 4).next_multiple_of(SECTOR);
    head + grains * (GRAIN + SECTOR)
        + tables.min(grains) * (SECTOR + TABLE_LEN)
        + directory
        + 4 * SECTOR
}
