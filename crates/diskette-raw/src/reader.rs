//! The disk: the file's bytes, and zeros up to a whole sector.

use std::sync::{Arc, Mutex, PoisonError};

use diskette_core::{
    BlockReader, Error, Extent, ExtentKind, HostOffset, ImageInfo, Opened, Result, RunKind, SECTOR,
    Storage, StorageExt, check_range, round_up,
};

use crate::FORMAT;

pub(crate) fn open(storage: Arc<dyn Storage>) -> Result<Opened> {
    let reader = Reader::new(storage)?;
    let info = ImageInfo::new(FORMAT, reader.size);
    Ok(Opened {
        reader: Box::new(reader),
        info,
        backing: None,
    })
}

/// A raw image, for reading.
#[derive(Debug)]
struct Reader {
    storage: Arc<dyn Storage>,
    /// A multiple of 512, not below the file's.
    size: u64,
    /// What was found last. To ask the host costs two system calls, and runs are long.
    last: Mutex<Option<Extent>>,
}

impl Reader {
    fn new(storage: Arc<dyn Storage>) -> Result<Self> {
        let len = storage.total_size()?;
        let size = round_up(len, SECTOR)
            .ok_or_else(|| Error::unsupported(FORMAT, "a size of 2^64 bytes"))?;
        Ok(Self {
            storage,
            size,
            last: Mutex::new(None),
        })
    }
}

impl BlockReader for Reader {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(extent) = *last
            && (extent.offset..extent.end()).contains(&offset)
        {
            return Ok(extent);
        }
        let extent = extent_at(&*self.storage, self.size, offset)?;
        *last = Some(extent);
        Ok(extent)
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        read_extent(&*self.storage, extent, buf, offset)
    }
}

/// The run of the file from `offset` on: guest offsets are host offsets here. `size` is the disk's.
pub(crate) fn extent_at(storage: &dyn Storage, size: u64, offset: u64) -> Result<Extent> {
    check_range(size, offset, 1)?;
    let end = storage.total_size()?;
    if offset >= end {
        // The rest of the last sector.
        return Ok(Extent::new(
            offset,
            size - offset,
            ExtentKind::Zero(Some(HostOffset::new(offset))),
        ));
    }
    let run = storage.run(offset)?;
    let len = run.len.min(size - offset);
    let at = HostOffset::new(offset);
    let kind = match run.kind {
        RunKind::Data => ExtentKind::Data(at),
        RunKind::Hole => ExtentKind::Zero(Some(at)),
    };
    Ok(Extent::new(offset, len, kind))
}

pub(crate) fn read_extent(
    storage: &dyn Storage,
    extent: &Extent,
    buf: &mut [u8],
    offset: u64,
) -> Result<()> {
    match extent.kind {
        ExtentKind::Data(at) => {
            let at = at.plus(offset.saturating_sub(extent.offset)).offset;
            let end = storage.total_size()?;
            if at.saturating_add(buf.len() as u64) <= end {
                return storage.read(buf, at);
            }
            storage.read_padded(buf, at).map(|_| ())
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

#[cfg(test)]
mod tests {
    use diskette_core::{BlockReaderExt, Format, OpenOptions};
    use diskette_storage::MemoryStorage;

    use crate::Raw;

    #[test]
    fn the_last_sector_is_filled_up_with_zeros() {
        let storage = std::sync::Arc::new(MemoryStorage::new(vec![7; 700]));
        let disk = Raw
            .open(storage, &OpenOptions::default().context())
            .unwrap()
            .reader;
        assert_eq!(disk.size(), 1024);
        let bytes = disk.read_vec(0, 1024).unwrap();
        assert_eq!((bytes[699], bytes[700], bytes[1023]), (7, 0, 0));
        assert!(disk.read_vec(1000, 25).is_err());
    }

    #[test]
    fn an_empty_file_is_an_empty_disk() {
        let storage = std::sync::Arc::new(MemoryStorage::new(Vec::new()));
        let disk = Raw
            .open(storage, &OpenOptions::default().context())
            .unwrap()
            .reader;
        assert_eq!(disk.size(), 0);
        assert_eq!(disk.extents().count(), 0);
    }
}
