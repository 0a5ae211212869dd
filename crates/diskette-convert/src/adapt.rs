//! Disks made of disks: several one after another, and the top layer of a chain alone.

use diskette_core::{
    BlockReader, BlockReaderExt, Chain, Error, Extent, ExtentKind, Result, SECTOR, round_up,
};

/// Several disks, one after another, each rounded up to whole sectors.
///
/// The host offsets in its extents are those of the part that the extent lies in.
#[derive(Debug)]
pub struct Concat<'a> {
    /// Each with the guest offset at which it begins.
    parts: Vec<(u64, &'a dyn BlockReader)>,
    size: u64,
}

impl<'a> Concat<'a> {
    /// Puts disks one after another.
    pub fn new(disks: impl IntoIterator<Item = &'a dyn BlockReader>) -> Result<Self> {
        let mut parts = Vec::new();
        let mut size = 0_u64;
        for disk in disks {
            parts.push((size, disk));
            size = round_up(disk.size(), SECTOR)
                .and_then(|len| size.checked_add(len))
                .ok_or(Error::LimitExceeded {
                    what: "size of all sources together",
                    wanted: u64::MAX,
                    limit: u64::MAX - 1,
                })?;
        }
        Ok(Self { parts, size })
    }

    /// The disk that holds `offset`, and the guest offset at which it begins. Disks without a byte hold nothing.
    fn part_at(&self, offset: u64) -> Option<(u64, &'a dyn BlockReader)> {
        let behind = self.parts.partition_point(|(start, _)| *start <= offset);
        self.parts[..behind].last().copied()
    }

    fn out_of_range(&self, offset: u64, len: u64) -> Error {
        Error::OutOfRange {
            offset,
            len,
            size: self.size,
        }
    }
}

impl BlockReader for Concat<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        let part = self.part_at(offset).filter(|_| offset < self.size);
        let (start, disk) = part.ok_or_else(|| self.out_of_range(offset, 1))?;
        let within = offset - start;
        if within < disk.size() {
            let extent = disk.extent_at(within)?;
            return Ok(moved(&extent, start));
        }
        let end = round_up(disk.size(), SECTOR).unwrap_or(u64::MAX);
        Ok(Extent::zero(start + disk.size(), end - disk.size()))
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        let len = buf.len() as u64;
        let (start, disk) = self
            .part_at(offset)
            .ok_or_else(|| self.out_of_range(offset, len))?;
        if offset - start >= disk.size() {
            buf.fill(0);
            return Ok(());
        }
        let extent = Extent {
            offset: extent.offset - start,
            ..*extent
        };
        disk.read_extent(&extent, buf, offset - start)
    }
}

fn moved(extent: &Extent, by: u64) -> Extent {
    Extent {
        offset: extent.offset + by,
        ..*extent
    }
}

/// The top layer of a chain, for conversion onto what lies below it: where it has holes that show a layer below they
/// stay holes, yet what they show can be read.
#[derive(Clone, Copy, Debug)]
pub struct TopLayer<'a> {
    chain: &'a Chain,
}

impl<'a> TopLayer<'a> {
    /// The top layer of `chain`.
    #[must_use]
    pub const fn new(chain: &'a Chain) -> Self {
        Self { chain }
    }

    /// Where the layer below ends; all holes of the top layer before it show that layer.
    fn below_size(&self) -> u64 {
        self.chain
            .layers()
            .get(1)
            .map_or(0, |below| below.reader.size())
    }
}

impl BlockReader for TopLayer<'_> {
    fn size(&self) -> u64 {
        self.chain.size()
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        let extent = self.chain.top().reader.extent_at(offset)?;
        let ExtentKind::Hole(at) = extent.kind else {
            return Ok(extent);
        };
        let edge = self.below_size();
        if offset < edge {
            return Ok(extent.clip(extent.offset, edge));
        }
        let kind = ExtentKind::Zero(at);
        Ok(Extent { kind, ..extent }.clip(edge, u64::MAX))
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        match extent.kind {
            ExtentKind::Hole(_) => self.chain.read_at(buf, offset),
            ExtentKind::Zero(_) => {
                buf.fill(0);
                Ok(())
            }
            ExtentKind::Data(_)
            | ExtentKind::Encrypted(_)
            | ExtentKind::Compressed { .. }
            | ExtentKind::Unwritten(_) => self.chain.top().reader.read_extent(extent, buf, offset),
        }
    }
}
