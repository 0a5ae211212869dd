//! A VHDX as a disk.

use diskette_core::{BlockReader, Extent, ExtentKind, Result, RunKind, StorageExt};

use crate::map::Map;

/// Reads the guest's bytes by the map.
#[derive(Debug)]
pub(crate) struct Reader {
    map: Map,
    /// Whether all blocks have a place from the start.
    fixed: bool,
    /// Whether what lies past the file's end is zeros.
    salvage: bool,
}

impl Reader {
    pub(crate) const fn new(map: Map, fixed: bool, salvage: bool) -> Self {
        Self {
            map,
            fixed,
            salvage,
        }
    }

    /// The part of a data extent from `offset` on that the host holds alike.
    fn with_host_holes(&self, extent: Extent, offset: u64) -> Result<Extent> {
        let part = extent.clip(offset, extent.end());
        let ExtentKind::Data(at) = part.kind else {
            return Ok(part);
        };
        if at.offset >= self.map.file_size {
            return Ok(part); // Only in salvage.
        }
        let run = self.map.storage.run(at.offset)?;
        let kind = match run.kind {
            RunKind::Data => part.kind,
            RunKind::Hole => ExtentKind::Unwritten(at),
        };
        Ok(Extent {
            len: part.len.min(run.len),
            kind,
            ..part
        })
    }
}

impl BlockReader for Reader {
    fn size(&self) -> u64 {
        self.map.geometry.disk_size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        let extent = self.map.extent_at(offset)?;
        match extent.kind {
            // The file of a fixed disk is sparse until blocks are written.
            ExtentKind::Data(_) if self.fixed => self.with_host_holes(extent, offset),
            _ => Ok(extent),
        }
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
