//! A walk over a disk that its image may have made up: as much of it as can be looked at in a moment.

use diskette_core::{BlockReader, BlockReaderExt, Extent, Result};

/// Looks at extents from both ends of the disk on, and reads something of each. Bounded whatever the disk's size; ends
/// at the first error.
pub fn walk(reader: &dyn BlockReader) -> Result<()> {
    let size = reader.size();
    let mut at = 0;
    for _ in 0..MOST_EXTENTS {
        if at >= size {
            return Ok(());
        }
        let extent = reader.extent_at(at)?;
        read_some(reader, &extent)?;
        at = extent.end();
    }
    for back in 1..=MOST_EXTENTS {
        let extent = reader.extent_at(size - (size / MOST_EXTENTS * back).clamp(1, size))?;
        read_some(reader, &extent)?;
    }
    Ok(())
}

/// The first and the last bytes of an extent, and some on both sides of its end.
fn read_some(reader: &dyn BlockReader, extent: &Extent) -> Result<()> {
    let mut buf = [0; 1024];
    let len = usize::try_from(extent.len).unwrap_or(usize::MAX).min(512);
    reader.read_extent(extent, &mut buf[..len], extent.offset)?;
    let start = extent.end() - len as u64;
    let left = usize::try_from(reader.size() - start).unwrap_or(usize::MAX);
    reader.read_at(&mut buf[..left.min(1024)], start)
}

const MOST_EXTENTS: u64 = 512;
