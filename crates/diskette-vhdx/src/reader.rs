//! A VHDX as a disk.

use diskette_core::{BlockReader, Extent, ExtentKind, Result, StorageExt};

use crate::map::Map;

/// Reads the guest's bytes by the map.
#[derive(Debug)]
pub(crate) struct Reader {
    map: Map,
    /// Whether what lies past the file's end is zeros.
    salvage: bool,
}

impl Reader {
    pub(crate) const fn new(map: Map, salvage: bool) -> Self {
        Self { map, salvage }
    }
}

impl BlockReader for Reader {
    fn size(&self) -> u64 {
        self.map.geometry.disk_size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        self.map.extent_at(offset)
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        let ExtentKind::Data(at) = extent.kind else {
            buf.fill(0);
            return Ok(());
        };
        let at = at.plus(offset.saturating_sub(extent.offset));
        if self.salvage {
            self.map.storage.read_padded(buf, at.offset)?;
            return Ok(());
        }
        self.map.storage.read(buf, at.offset)
    }
}
