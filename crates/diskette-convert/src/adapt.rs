//! Disks made of disks: several one after another, and the top layer of a chain alone.

use diskette_core::{
    BlockReader, BlockReaderExt, Chain, Error, Extent, ExtentKind, Layer, Result, SECTOR, round_up,
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

/// The upper layers of a chain, to be written into the layer below them: what shows through their holes is that layer's
/// own, and stays.
#[derive(Clone, Copy, Debug)]
pub struct UpperLayers<'a> {
    layers: &'a [Layer],
    below: &'a dyn BlockReader,
    /// Where the layer below ended before it was made as long as the disk.
    below_size: u64,
}

impl<'a> UpperLayers<'a> {
    /// The first `count` layers of `chain`. `below` is the disk that lies under them, as it is now; it had `below_size` bytes
    /// when the chain was put together.
    #[must_use]
    pub fn new(
        chain: &'a Chain,
        count: usize,
        below: &'a dyn BlockReader,
        below_size: u64,
    ) -> Self {
        let layers = chain.layers();
        Self {
            layers: &layers[..count.clamp(1, layers.len())],
            below,
            below_size,
        }
    }

    /// The extent that holds `offset`, and the layer that says so. What a layer hides that ends before is zero.
    fn find(&self, offset: u64) -> Result<(&'a Layer, Extent)> {
        let mut layer = &self.layers[0];
        let mut found = layer.reader.extent_at(offset)?;
        for below in &self.layers[1..] {
            if !matches!(found.kind, ExtentKind::Hole(_)) {
                return Ok((layer, found));
            }
            let size = below.reader.size();
            if offset >= size {
                let zero = Extent::zero(found.offset, found.len);
                return Ok((layer, zero.clip(size, u64::MAX)));
            }
            let inner = below.reader.extent_at(offset)?;
            found = inner.clip(found.offset, found.end());
            layer = below;
        }
        if matches!(found.kind, ExtentKind::Hole(_)) {
            found = match offset < self.below_size {
                true => found.clip(found.offset, self.below_size),
                false => found.clip(self.below_size, u64::MAX),
            };
        }
        Ok((layer, found))
    }
}

impl BlockReader for UpperLayers<'_> {
    fn size(&self) -> u64 {
        self.layers[0].reader.size()
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        self.find(offset).map(|(_, extent)| extent)
    }

    fn read_extent(&self, _extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let (layer, extent) = self.find(at)?;
            let left = usize::try_from(extent.end() - at).unwrap_or(usize::MAX);
            let (part, behind) = rest.split_at_mut(left.min(rest.len()));
            match extent.kind {
                ExtentKind::Hole(_) if at < self.below_size => self.below.read_at(part, at)?,
                ExtentKind::Hole(_) => part.fill(0),
                _ => layer.reader.read_extent(&extent, part, at)?,
            }
            at += part.len() as u64;
            rest = behind;
        }
        Ok(())
    }
}
