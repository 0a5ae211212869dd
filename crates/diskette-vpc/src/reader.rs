//! The disk.

use std::sync::Arc;

use diskette_core::{
    BlockReader, Extent, ExtentKind, HostOffset, Identity, ImageInfo, OpenContext, Opened, Result,
    RunKind, Storage, StorageExt, check_range,
};

use crate::FORMAT;
use crate::dynamic::Dynamic;
use crate::footer::{Footer, Kind, UNIQUE_ID};
use crate::map::Map;

pub(crate) fn open(storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<Opened> {
    let footer = Footer::read(&*storage, cx)?;
    let mut info = ImageInfo::new(FORMAT, footer.disk_size);
    info.warnings.clone_from(&footer.warnings);
    info.identity.push(Identity {
        kind: UNIQUE_ID,
        value: footer.unique_id.to_string(),
    });
    if footer.kind == Kind::Fixed {
        let reader = Box::new(Fixed {
            storage,
            size: footer.disk_size,
        });
        return Ok(Opened {
            reader,
            info,
            backing: None,
        });
    }
    let dynamic = Dynamic::read(&*storage, &footer, cx)?;
    dynamic.check_blocks()?;
    info.granule_size = Some(dynamic.block_size);
    let backing = dynamic.backing.clone();
    let map = Map::new(&footer, dynamic, cx.limits, cx.salvage);
    let reader = Box::new(Sparse {
        storage,
        size: footer.disk_size,
        map,
    });
    Ok(Opened {
        reader,
        info,
        backing,
    })
}

/// A fixed image: the disk's bytes as they are.
#[derive(Debug)]
struct Fixed {
    storage: Arc<dyn Storage>,
    size: u64,
}

impl BlockReader for Fixed {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size, offset, 1)?;
        let run = self.storage.run(offset)?;
        let at = HostOffset::new(offset);
        let kind = match run.kind {
            RunKind::Data => ExtentKind::Data(at),
            RunKind::Hole => ExtentKind::Unwritten(at),
        };
        Ok(Extent::new(offset, run.len.min(self.size - offset), kind))
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        read(&*self.storage, extent, buf, offset)
    }
}

/// A dynamic or differencing image.
#[derive(Debug)]
struct Sparse {
    storage: Arc<dyn Storage>,
    size: u64,
    map: Map,
}

impl BlockReader for Sparse {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size, offset, 1)?;
        self.map.extent_at(&*self.storage, offset)
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        read(&*self.storage, extent, buf, offset)
    }
}

fn read(storage: &dyn Storage, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
    match extent.kind {
        ExtentKind::Data(at) => {
            storage.read(buf, at.plus(offset.saturating_sub(extent.offset)).offset)
        }
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
