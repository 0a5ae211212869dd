//! How much of a disk is data, without a look at it.

use diskette_core::{
    BlockReader, BlockReaderExt, ExtentKind, Result, SECTOR, round_down, round_up,
};

/// Bytes of the granules (a power of two) that hold data, as far as the map knows; no data is read. What
/// [`WritableFormat::measure`](diskette_core::WritableFormat::measure) wants to be told.
pub fn data_len(source: &dyn BlockReader, granule: u64) -> Result<u64> {
    let granule = granule.max(SECTOR);
    let mut total = 0;
    let mut counted = 0;
    for extent in source.extents() {
        let extent = extent?;
        match extent.kind {
            ExtentKind::Unwritten(_) | ExtentKind::Zero(_) | ExtentKind::Hole(_) => continue,
            ExtentKind::Data(_) | ExtentKind::Encrypted(_) | ExtentKind::Compressed { .. } => {}
        }
        let start = round_down(extent.offset, granule).max(counted);
        let end = round_up(extent.end(), granule).unwrap_or(u64::MAX);
        total += end.saturating_sub(start);
        counted = end.max(counted);
    }
    Ok(total)
}
