//! Guest offset to extent: the table of blocks, and in each block the bitmap of its sectors.

use diskette_core::{
    Extent, ExtentKind, HostOffset, Limits, Result, SECTOR, Storage, StorageExt, Table, TableCache,
};

use crate::dynamic::Dynamic;
use crate::footer::{Footer, Kind};

/// The map of a dynamic or differencing image.
#[derive(Debug)]
pub(crate) struct Map {
    dynamic: Dynamic,
    disk_size: u64,
    differencing: bool,
    reversed_bits: bool,
    salvage: bool,
    bitmaps: TableCache<u8>,
}

impl Map {
    pub(crate) fn new(footer: &Footer, dynamic: Dynamic, limits: &Limits, salvage: bool) -> Self {
        let bitmaps = TableCache::within(limits, dynamic.bitmap_size);
        Self {
            disk_size: footer.disk_size,
            differencing: footer.kind == Kind::Differencing,
            reversed_bits: footer.reversed_bits,
            dynamic,
            salvage,
            bitmaps,
        }
    }

    /// The extent that holds `offset`, which lies within the disk.
    pub(crate) fn extent_at(&self, storage: &dyn Storage, offset: u64) -> Result<Extent> {
        let block_size = self.dynamic.block_size;
        let index = usize::try_from(offset / block_size).unwrap_or(usize::MAX);
        let Some(host) = self.dynamic.block_offset(index) else {
            return Ok(self.absent(index));
        };
        let start = offset / block_size * block_size;
        let len = block_size.min(self.disk_size - start);
        let end = host + self.dynamic.bitmap_size + len; // 32-bit sectors, and at most 256 MiB: no overflow
        let file_size = storage.total_size()?;
        if end > file_size {
            if self.salvage {
                return Ok(Extent::new(start, len, self.nothing()));
            }
            let why =
                format!("its block at {host:#x} reaches beyond the file's end at {file_size:#x}");
            return Err(self.dynamic.entry(index).malformed(why).truncated());
        }
        let bitmap = self.bitmaps.get_or_read(host, || {
            let len = usize::try_from(self.dynamic.bitmap_size).unwrap_or(0);
            Ok(Table::new(storage.read_vec(len, host)?))
        })?;
        let data = Extent::new(
            start,
            len,
            ExtentKind::Data(HostOffset::new(host + self.dynamic.bitmap_size)),
        );
        let sectors = usize::try_from(len.div_ceil(SECTOR)).unwrap_or(usize::MAX);
        let first = usize::try_from((offset - start) / SECTOR).unwrap_or(usize::MAX);
        Ok(self.run(
            &data,
            Bits {
                bytes: bitmap.entries(),
                reversed: self.reversed_bits,
            },
            first,
            sectors,
        ))
    }

    /// The run of equal bits that holds the block's sector `at`, from there on.
    fn run(&self, data: &Extent, bits: Bits<'_>, at: usize, sectors: usize) -> Extent {
        let here = bits.get(at);
        let behind = bits.end_of_run(at, sectors);
        // A block that is all there is one extent from its beginning.
        let from = if behind == sectors && bits.end_of_run(0, sectors) == sectors {
            0
        } else {
            at
        };
        let offset = |sector: usize| data.offset + sector as u64 * SECTOR;
        let mut run = data.clip(offset(from), offset(behind));
        if !here {
            run.kind = self.nothing();
        }
        run
    }

    /// The absent blocks from `index` on.
    fn absent(&self, index: usize) -> Extent {
        const MOST: usize = 1 << 16; // one look does not walk a table of millions
        let count = (index..self.dynamic.bat.len())
            .take(MOST)
            .take_while(|index| self.dynamic.block_offset(*index).is_none())
            .count();
        let start = index as u64 * self.dynamic.block_size;
        let len = (count as u64 * self.dynamic.block_size).min(self.disk_size - start);
        Extent::new(start, len, self.nothing())
    }

    /// What is where this image has nothing.
    const fn nothing(&self) -> ExtentKind {
        if self.differencing {
            ExtentKind::Hole(None)
        } else {
            ExtentKind::Zero(None)
        }
    }
}

/// A bitmap, one bit for each sector.
#[derive(Clone, Copy)]
pub(crate) struct Bits<'a> {
    pub bytes: &'a [u8],
    pub reversed: bool,
}

impl Bits<'_> {
    pub(crate) fn get(self, at: usize) -> bool {
        let byte = self.bytes.get(at / 8).copied().unwrap_or(0);
        let mask = if self.reversed {
            1 << (at % 8)
        } else {
            0x80 >> (at % 8)
        };
        byte & mask != 0
    }

    /// Where the bits stop being like the one at `at`; `end` where they do not before.
    pub(crate) fn end_of_run(self, at: usize, end: usize) -> usize {
        let here = self.get(at);
        let alike = if here { 0xff } else { 0 };
        let mut next = at;
        while next < end {
            if next.is_multiple_of(8) && self.bytes.get(next / 8) == Some(&alike) {
                next += 8;
            } else if self.get(next) == here {
                next += 1;
            } else {
                return next;
            }
        }
        end
    }
}
