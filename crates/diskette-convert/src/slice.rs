//! A part of a disk, as a disk.

use diskette_core::{BlockReader, Extent, Result, check_range};

/// The bytes of a disk from an offset on, so many of them. The host offsets in its extents are those of the disk.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a> {
    disk: &'a dyn BlockReader,
    start: u64,
    len: u64,
}

impl<'a> Slice<'a> {
    /// `len` bytes of `disk` from guest offset `start` on, all of which it must have.
    pub fn new(disk: &'a dyn BlockReader, start: u64, len: u64) -> Result<Self> {
        check_range(disk.size(), start, len)?;
        Ok(Self { disk, start, len })
    }
}

impl BlockReader for Slice<'_> {
    fn size(&self) -> u64 {
        self.len
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.len, offset, 1)?;
        let extent = self.disk.extent_at(self.start + offset)?;
        let part = extent.clip(self.start, self.start + self.len);
        Ok(Extent {
            offset: part.offset - self.start,
            ..part
        })
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.len, offset, buf.len() as u64)?;
        let extent = Extent {
            offset: extent.offset + self.start,
            ..*extent
        };
        self.disk.read_extent(&extent, buf, self.start + offset)
    }
}
