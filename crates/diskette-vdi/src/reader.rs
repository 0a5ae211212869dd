//! The disk.

use std::sync::Arc;

use diskette_core::{
    BlockReader, Extent, ExtentKind, ImageInfo, OpenContext, Opened, Result, RunKind, Storage,
    StorageExt, check_range,
};

use crate::FORMAT;
use crate::header::{Header, Kind};
use crate::map::Map;

pub(crate) fn open(storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<Opened> {
    let header = Header::read(&*storage, cx.limits)?;
    let mut info = ImageInfo::new(FORMAT, header.disk_size);
    info.granule_size = Some(header.block_size);
    info.identity = header.identity();
    info.warnings.clone_from(&header.warnings);
    let backing = header.backing();
    let map = Map::new(header, cx.limits, cx.salvage);
    Ok(Opened {
        reader: Box::new(Reader { storage, map }),
        info,
        backing,
    })
}

#[derive(Debug)]
struct Reader {
    storage: Arc<dyn Storage>,
    map: Map,
}

impl BlockReader for Reader {
    fn size(&self) -> u64 {
        self.map.header().disk_size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        let extent = self.map.extent_at(&*self.storage, offset)?;
        match extent.kind {
            // A static image has a place for each block from the start; its file is sparse until they are written.
            ExtentKind::Data(_) if self.map.header().kind == Kind::Static => {
                self.with_host_holes(extent, offset)
            }
            _ => Ok(extent),
        }
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        match extent.kind {
            ExtentKind::Data(at) => self
                .storage
                .read(buf, at.plus(offset.saturating_sub(extent.offset)).offset),
            ExtentKind::Unwritten(_)
            | ExtentKind::Encrypted(_)
            | ExtentKind::Compressed { .. }
            | ExtentKind::Zero(_)
            | ExtentKind::Hole(_) => {
                buf.fill(0);
                Ok(())
            }
        }
    }
}

impl Reader {
    /// The part of a data extent from `offset` on that the host holds alike.
    fn with_host_holes(&self, extent: Extent, offset: u64) -> Result<Extent> {
        let part = extent.clip(offset, extent.end());
        let ExtentKind::Data(at) = part.kind else {
            return Ok(part);
        };
        let run = self.storage.run(at.offset)?;
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
