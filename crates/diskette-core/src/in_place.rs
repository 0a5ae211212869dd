//! Images whose every byte has its place from the start, written where they lie.

use std::sync::Arc;

use crate::{
    BlockReader, BlockReaderExt, BlockWriter, Error, Extent, ExtentKind, Preallocation, Result,
    SnapshotWriter, StorageExt, StorageMut, check_range,
};

/// The disk of such an image, which can be written anywhere: no table ever changes.
#[derive(Debug)]
pub struct InPlace {
    format: &'static str,
    reader: Box<dyn BlockReader>,
    storage: Arc<dyn StorageMut>,
}

impl InPlace {
    /// The disk that `reader` reads from `storage`, if each of its bytes has a place there that no other has;
    /// [`Error::Unsupported`] where that is not so.
    pub fn new(
        format: &'static str,
        reader: Box<dyn BlockReader>,
        storage: Arc<dyn StorageMut>,
    ) -> Result<Self> {
        let mut behind = 0;
        for extent in reader.extents() {
            let extent = extent?;
            // Runs that ascend in the file as on the disk do not overlap.
            match place(&extent) {
                Some(at) if at >= behind => behind = at.saturating_add(extent.len),
                Some(_) | None => return Err(Error::unsupported(format, REFUSED)),
            }
        }
        Ok(Self {
            format,
            reader,
            storage,
        })
    }

    /// Calls `each` with the host offset and the range of every run that `len` bytes from `offset` on lie in.
    fn runs(
        &self,
        offset: u64,
        len: u64,
        mut each: impl FnMut(u64, u64, u64) -> Result<()>,
    ) -> Result<()> {
        check_range(self.size(), offset, len)?;
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let extent = self.reader.extent_at(at)?.clip(at, end);
            let Some(host) = place(&extent) else {
                return Err(Error::unsupported(self.format, REFUSED));
            };
            each(host, at - offset, extent.len)?;
            at = extent.end();
        }
        Ok(())
    }
}

const REFUSED: &str = "writing into an image that grows";

/// Where an extent's bytes belong.
const fn place(extent: &Extent) -> Option<u64> {
    match extent.kind {
        ExtentKind::Data(at) | ExtentKind::Unwritten(at) => Some(at.offset),
        ExtentKind::Encrypted(_)
        | ExtentKind::Compressed { .. }
        | ExtentKind::Zero(_)
        | ExtentKind::Hole(_) => None,
    }
}

impl BlockReader for InPlace {
    fn size(&self) -> u64 {
        self.reader.size()
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        self.reader.extent_at(offset)
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        self.reader.read_extent(extent, buf, offset)
    }
}

impl BlockWriter for InPlace {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.runs(offset, buf.len() as u64, |host, from, len| {
            // Within `buf`, whose length is a usize.
            let from = usize::try_from(from).unwrap_or(usize::MAX);
            let part = &buf[from..from + usize::try_from(len).unwrap_or(usize::MAX)];
            self.storage
                .write_at(part, host)
                .map_err(|source| self.storage.failed("write", host, len, source))
        })
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        self.runs(offset, len, |host, _, len| {
            self.storage
                .write_zeros(host, len)
                .map_err(|source| self.storage.failed("zero", host, len, source))
        })
    }

    /// Everything keeps its place.
    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self.size(), offset, len)
    }

    fn resize(&self, _size: u64) -> Result<()> {
        Err(Error::unsupported(self.format, "another size for a disk"))
    }

    fn preallocate(&self, _offset: u64, _len: u64, _how: Preallocation) -> Result<()> {
        Err(Error::unsupported(self.format, "preallocation"))
    }

    fn snapshots(&self) -> Option<&dyn SnapshotWriter> {
        None
    }

    fn flush(&self) -> Result<()> {
        self.storage
            .sync()
            .map_err(|source| self.storage.failed("sync", 0, 0, source))
    }

    fn close(&self) -> Result<()> {
        self.flush()
    }
}
