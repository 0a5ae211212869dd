//! The block allocation table: from a guest offset to an extent.
//!
//! Behind each `ChunkRatio` entries of payload blocks stands the entry of a sector bitmap block, in files of all
//! kinds; only differencing disks have such blocks. A chunk is what one sector bitmap covers.
//!
//! ```text
//! BAT:  | block 0 | block 1 | ... | block r-1 | bitmap 0 | block r | ... | block 2r-1 | bitmap 1 | ...
//! ```

use std::ops::Range;
use std::sync::Arc;

use diskette_core::{
    Error, Extent, ExtentKind, HostOffset, Limits, Result, Storage, StorageExt, Table, TableCache,
    round_down,
};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::header::field;
use crate::metadata::Metadata;
use crate::region::{Region, Taken};
use crate::spec::{
    BAT_OFFSET_MASK, BAT_STATE_MASK, BLOCK_FULLY_PRESENT, BLOCK_NOT_PRESENT,
    BLOCK_PARTIALLY_PRESENT, BLOCK_UNDEFINED, BLOCK_UNMAPPED, BLOCK_UNMAPPED_DRAFT, BLOCK_ZERO,
    HEADER_SECTION_LEN, SECTOR_BITMAP_LEN, SECTORS_PER_CHUNK,
};

/// Bytes of the BAT that are read at once.
pub(crate) const PAGE_LEN: u64 = 64 << 10;
/// Bytes of a sector bitmap that are read at once.
const BITMAP_PAGE_LEN: u64 = 4 << 10;
/// Bytes of a BAT entry.
pub(crate) const ENTRY_LEN: u64 = 8;
/// Blocks that one extent joins at the most: a map is not gone through for each small read.
const MOST_JOINED: u64 = 128;

/// The numbers that shape the BAT.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub disk_size: u64,
    /// A power of two from 1 to 256 MiB.
    pub block_size: u64,
    pub logical_sector_size: u64,
    /// Payload blocks of a chunk.
    pub chunk_ratio: u64,
    pub block_count: u64,
    /// Entries of the BAT, those of sector bitmaps included.
    pub entry_count: u64,
    pub differencing: bool,
}

/// Where the blocks of a disk are.
#[derive(Debug)]
pub(crate) struct Map {
    pub geometry: Geometry,
    /// The file, with its log replayed.
    pub storage: Arc<dyn Storage>,
    /// The file's size.
    pub file_size: u64,
    /// Where the BAT begins.
    pub bat_offset: u64,
    /// Bytes of its region.
    pub bat_len: u64,
    /// Where no block can be.
    pub taken: Taken,
    pages: TableCache<U64>,
    bitmaps: TableCache<u8>,
    /// Whether what cannot be read is taken for zeros.
    salvage: bool,
}

/// What the BAT says of a payload block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// All of it is of this kind.
    Whole(ExtentKind),
    /// What the sector bitmap tells lies at this host offset; of the rest nothing is said.
    Partial(u64),
}

impl Geometry {
    /// The geometry of a disk. Its metadata have been checked.
    pub(crate) fn new(metadata: &Metadata) -> Self {
        Self::of(
            metadata.disk_size,
            metadata.block_size,
            metadata.logical_sector_size,
            metadata.parent.is_some(),
        )
    }

    /// The same for a disk of another size.
    pub(crate) fn resized(&self, disk_size: u64) -> Self {
        Self::of(
            disk_size,
            self.block_size,
            self.logical_sector_size,
            self.differencing,
        )
    }

    fn of(disk_size: u64, block_size: u64, logical_sector_size: u64, differencing: bool) -> Self {
        // Blocks have at least 1 MiB, chunks at least 4 GiB, and disks at most 64 TiB: all counts stay small.
        let chunk_ratio = SECTORS_PER_CHUNK * logical_sector_size / block_size;
        let block_count = disk_size.div_ceil(block_size);
        let entry_count = if differencing {
            block_count.div_ceil(chunk_ratio) * (chunk_ratio + 1)
        } else {
            block_count + block_count.saturating_sub(1) / chunk_ratio
        };
        Self {
            disk_size,
            block_size,
            logical_sector_size,
            chunk_ratio,
            block_count,
            entry_count,
            differencing,
        }
    }

    /// The entry of a payload block.
    pub(crate) const fn payload_entry(&self, block: u64) -> u64 {
        block + block / self.chunk_ratio
    }

    /// The entry of a chunk's sector bitmap.
    const fn bitmap_entry(&self, chunk: u64) -> u64 {
        chunk * (self.chunk_ratio + 1) + self.chunk_ratio
    }

    /// Whether an entry is that of a sector bitmap.
    pub(crate) const fn is_bitmap_entry(&self, entry: u64) -> bool {
        entry % (self.chunk_ratio + 1) == self.chunk_ratio
    }

    /// The payload block of an entry that is not a sector bitmap's. Behind the last block in the last chunk of a
    /// differencing disk, one that the disk does not have.
    pub(crate) const fn block_of_entry(&self, entry: u64) -> u64 {
        entry - entry / (self.chunk_ratio + 1)
    }

    /// The guest's bytes of a block; the last may be shorter than the others.
    pub(crate) fn block_range(&self, block: u64) -> Range<u64> {
        let start = block * self.block_size;
        start..(start + self.block_size).min(self.disk_size)
    }
}

impl Map {
    /// The map of a disk, whose BAT lies in `region`.
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        geometry: Geometry,
        region: &Region,
        taken: Taken,
        limits: &Limits,
        salvage: bool,
    ) -> Result<Self> {
        let needed = geometry.entry_count * ENTRY_LEN;
        if region.len < needed {
            let why = format!("the BAT of this disk has {needed} bytes");
            return Err(field("length of the BAT region", region.offset, region.len).malformed(why));
        }
        Ok(Self {
            geometry,
            file_size: storage.total_size()?,
            storage,
            bat_offset: region.offset,
            bat_len: region.len,
            taken,
            pages: TableCache::within(limits, PAGE_LEN),
            bitmaps: TableCache::within(limits, BITMAP_PAGE_LEN),
            salvage,
        })
    }

    /// The extent that holds `offset`.
    pub(crate) fn extent_at(&self, offset: u64) -> Result<Extent> {
        if offset >= self.geometry.disk_size {
            return Err(Error::OutOfRange {
                offset,
                len: 1,
                size: self.geometry.disk_size,
            });
        }
        let number = offset / self.geometry.block_size;
        let mut entries = Entries::new(self);
        let mut extent = match self.block(number, &mut entries)? {
            Block::Whole(kind) => self.whole_extent(number, kind),
            Block::Partial(data) => return self.partial_extent(number, data, offset),
        };
        let end = self.geometry.block_count.min(number + MOST_JOINED);
        for next in number + 1..end {
            // What is wrong with a later block is told to those who ask for it.
            let Ok(Block::Whole(kind)) = self.block(next, &mut entries) else {
                break;
            };
            let next = self.whole_extent(next, kind);
            if !extent.continues_into(&next) {
                break;
            }
            extent.len += next.len;
        }
        Ok(extent)
    }

    /// The extent of a block that is all of one kind.
    fn whole_extent(&self, number: u64, kind: ExtentKind) -> Extent {
        let range = self.geometry.block_range(number);
        Extent::new(range.start, range.end - range.start, kind)
    }

    /// What the BAT says of a payload block.
    fn block(&self, number: u64, entries: &mut Entries<'_>) -> Result<Block> {
        let index = self.geometry.payload_entry(number);
        let block = entries
            .get(index)
            .and_then(|entry| self.decode_payload(index, entry));
        match block {
            Err(Error::Malformed { .. }) if self.salvage => {
                Ok(Block::Whole(ExtentKind::Zero(None)))
            }
            block => block,
        }
    }

    /// The extent of a partially present block from the sector that holds `offset` on.
    fn partial_extent(&self, number: u64, data: u64, offset: u64) -> Result<Extent> {
        let range = self.geometry.block_range(number);
        let start =
            range.start + round_down(offset - range.start, self.geometry.logical_sector_size);
        let (len, is_there) = match self.part(number, start - range.start) {
            Err(Error::Malformed { .. }) if self.salvage => {
                return Ok(self.whole_extent(number, ExtentKind::Zero(None)));
            }
            part => part?,
        };
        let end = range.end.min(start + len);
        let at = HostOffset::new(data).plus(start - range.start);
        let kind = match is_there {
            true => ExtentKind::Data(at),
            false => ExtentKind::Hole(Some(at)),
        };
        Ok(Extent::new(start, end - start, kind))
    }

    /// The run of a partially present block from `within` on whose sectors are all there, or all absent: its length, and
    /// whether they are there.
    pub(crate) fn part(&self, number: u64, within: u64) -> Result<(u64, bool)> {
        let Geometry {
            logical_sector_size,
            chunk_ratio,
            block_size,
            ..
        } = self.geometry;
        let bitmap = self.bitmap(number / chunk_ratio)?;
        // Bits of the block within its chunk, and the one that is asked for.
        let first_bit = number % chunk_ratio * (block_size / logical_sector_size);
        let bit = first_bit + within / logical_sector_size;
        let page_at = round_down(bit / 8, BITMAP_PAGE_LEN);
        let page = self.bitmaps.get_or_read(bitmap + page_at, || {
            self.read_table(bitmap + page_at, BITMAP_PAGE_LEN)
        })?;
        let run = Bits(page.entries()).run_at(bit - page_at * 8);
        let len = run.len * logical_sector_size - within % logical_sector_size;
        Ok((len, run.set))
    }

    /// Where a chunk's sector bitmap lies.
    fn bitmap(&self, chunk: u64) -> Result<u64> {
        let index = self.geometry.bitmap_entry(chunk);
        let entry = Entries::new(self).get(index)?;
        self.decode_bitmap(index, entry)?
            .ok_or_else(|| self.bitmap_missing(index, entry))
    }

    /// The entries of the BAT from byte `page_at` of it on.
    pub(crate) fn read_page(&self, page_at: u64) -> Result<Table<U64>> {
        self.read_table(self.bat_offset + page_at, PAGE_LEN)
    }

    /// A part of a table. Regions and bitmaps lie within the file, or zeros will do.
    fn read_table<E>(&self, offset: u64, len: u64) -> Result<Table<E>>
    where
        E: FromBytes + Immutable + KnownLayout + Unaligned + Copy,
    {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        self.storage.read_padded(&mut bytes, offset)?;
        Ok(Table::new(bytes))
    }

    /// What a payload block's entry means.
    pub(crate) fn decode_payload(&self, index: u64, entry: u64) -> Result<Block> {
        let offset = entry & BAT_OFFSET_MASK;
        match entry & BAT_STATE_MASK {
            BLOCK_NOT_PRESENT => Ok(Block::Whole(ExtentKind::Hole(None))),
            BLOCK_UNDEFINED | BLOCK_ZERO | BLOCK_UNMAPPED | BLOCK_UNMAPPED_DRAFT => {
                Ok(Block::Whole(ExtentKind::Zero(None)))
            }
            BLOCK_FULLY_PRESENT => {
                self.check_payload_place(index, entry)?;
                Ok(Block::Whole(ExtentKind::Data(HostOffset::new(offset))))
            }
            BLOCK_PARTIALLY_PRESENT if self.geometry.differencing => {
                self.check_payload_place(index, entry)?;
                Ok(Block::Partial(offset))
            }
            BLOCK_PARTIALLY_PRESENT => Err(self
                .entry_field(index, entry)
                .malformed("a partially present block of a disk that has no parent")),
            _ => Err(self
                .entry_field(index, entry)
                .malformed("no state of a payload block")),
        }
    }

    /// Where the sector bitmap of this entry lies, if there is one.
    pub(crate) fn decode_bitmap(&self, index: u64, entry: u64) -> Result<Option<u64>> {
        match entry & BAT_STATE_MASK {
            BLOCK_NOT_PRESENT => Ok(None),
            BLOCK_FULLY_PRESENT => {
                self.check_place(index, entry, SECTOR_BITMAP_LEN)?;
                Ok(Some(entry & BAT_OFFSET_MASK))
            }
            _ => Err(self
                .entry_field(index, entry)
                .malformed("no state of a sector bitmap block")),
        }
    }

    /// That a payload block lies in the file. Old versions of QEMU cut the file behind the guest's last byte.
    fn check_payload_place(&self, index: u64, entry: u64) -> Result<()> {
        let guest = self
            .geometry
            .block_range(self.geometry.block_of_entry(index));
        self.check_place(index, entry, guest.end.saturating_sub(guest.start))
    }

    /// That `len` bytes at an entry's offset lie in the file, where nothing else is.
    fn check_place(&self, index: u64, entry: u64, len: u64) -> Result<()> {
        let offset = entry & BAT_OFFSET_MASK;
        let wrong = |why: String| Err(self.entry_field(index, entry).malformed(why));
        let Some(end) = offset.checked_add(len).filter(|end| *end <= self.file_size) else {
            let why = format!(
                "its block reaches beyond the file's end at {:#x}",
                self.file_size
            );
            return Err(self.entry_field(index, entry).malformed(why).truncated());
        };
        if offset < HEADER_SECTION_LEN {
            return wrong("its block lies in the header section".to_owned());
        }
        if self.taken.overlaps(&(offset..end)) {
            return wrong("its block overlaps the log or a region".to_owned());
        }
        Ok(())
    }

    /// The error for a partially present block without a sector bitmap.
    pub(crate) fn bitmap_missing(&self, index: u64, entry: u64) -> Error {
        self.entry_field(index, entry)
            .malformed("no sector bitmap block, but a block of the chunk is partially present")
    }

    /// An entry, for messages.
    pub(crate) fn entry_field(&self, index: u64, entry: u64) -> diskette_core::Field {
        let at = self
            .bat_offset
            .saturating_add(index.saturating_mul(ENTRY_LEN));
        field(format!("BAT[{index}]"), at, entry)
    }
}

/// Entries of the BAT, asked for in order or nearly so: the cache is not asked for each.
struct Entries<'a> {
    map: &'a Map,
    /// The page at hand, and where in the BAT it begins.
    page: Option<(u64, Table<U64>)>,
}

impl<'a> Entries<'a> {
    const fn new(map: &'a Map) -> Self {
        Self { map, page: None }
    }

    /// An entry of the BAT.
    fn get(&mut self, index: u64) -> Result<u64> {
        let at = index * ENTRY_LEN;
        let page_at = round_down(at, PAGE_LEN);
        let within = usize::try_from((at - page_at) / ENTRY_LEN).unwrap_or(usize::MAX);
        let page = match &self.page {
            Some((at_hand, page)) if *at_hand == page_at => page,
            _ => {
                let page = self
                    .map
                    .pages
                    .get_or_read(self.map.bat_offset + page_at, || {
                        self.map.read_page(page_at)
                    })?;
                &self.page.insert((page_at, page)).1
            }
        };
        Ok(page.get(within).map_or(0, U64::get))
    }
}

/// Bits of a sector bitmap: the least significant bit of a byte comes first.
struct Bits<'a>(&'a [u8]);

/// A run of equal bits.
#[derive(Debug, PartialEq, Eq)]
struct BitRun {
    len: u64,
    set: bool,
}

impl Bits<'_> {
    /// The run of equal bits from `bit` on, up to the end.
    fn run_at(&self, bit: u64) -> BitRun {
        let first = usize::try_from(bit / 8).unwrap_or(usize::MAX);
        let bytes = self.0.get(first..).unwrap_or_default();
        let Some((&head, rest)) = bytes.split_first() else {
            return BitRun { len: 1, set: false };
        };
        let skipped = bit % 8;
        let set = head >> skipped & 1 == 1;
        // With equal bits for zeros, runs are counted by counting zeros.
        let flip = if set { 0xff } else { 0 };
        let in_head = u64::from(((head ^ flip) >> skipped).trailing_zeros()).min(8 - skipped);
        if in_head < 8 - skipped {
            return BitRun { len: in_head, set };
        }
        let whole = rest.iter().take_while(|byte| **byte == flip).count();
        let tail = rest
            .get(whole)
            .map_or(0, |byte| u64::from((byte ^ flip).trailing_zeros()));
        BitRun {
            len: in_head + 8 * whole as u64 + tail,
            set,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(disk_size: u64, block_size: u64, sector: u64, parent: bool) -> Geometry {
        Geometry::of(disk_size, block_size, sector, parent)
    }

    #[test]
    fn entries_of_sector_bitmaps_follow_each_whole_chunk() {
        let mib = 1 << 20;
        let plain = geometry(5 << 30, 256 * mib, 512, false);
        assert_eq!(
            (plain.chunk_ratio, plain.block_count, plain.entry_count),
            (16, 20, 21)
        );
        assert_eq!(
            [15, 16, 17].map(|block| plain.payload_entry(block)),
            [15, 17, 18]
        );
        assert_eq!([0, 1].map(|chunk| plain.bitmap_entry(chunk)), [16, 33]);
        assert_eq!(
            [15, 17, 18].map(|entry| plain.block_of_entry(entry)),
            [15, 16, 17]
        );
        // A whole last chunk has no bitmap entry behind it unless there is a parent.
        assert_eq!(geometry(4 << 30, 256 * mib, 512, false).entry_count, 16);
        assert_eq!(geometry(4 << 30, 256 * mib, 512, true).entry_count, 17);
        assert_eq!(geometry(1, mib, 512, true).entry_count, 4097);
        assert_eq!(geometry(1, mib, 4096, false).chunk_ratio, 32768);
        assert_eq!(geometry(0, mib, 512, true).entry_count, 0);
    }

    #[test]
    fn a_run_of_bits_ends_where_they_change() {
        let run = |bytes: &[u8], bit| {
            let run = Bits(bytes).run_at(bit);
            (run.len, run.set)
        };
        assert_eq!(run(&[0b0000_0111], 0), (3, true));
        assert_eq!(run(&[0b0000_0111], 2), (1, true));
        assert_eq!(run(&[0b0000_0111], 3), (5, false));
        assert_eq!(run(&[0xff, 0xff, 0x01, 0], 4), (13, true));
        assert_eq!(run(&[0x0f, 0, 0, 0x80], 4), (27, false));
        assert_eq!(run(&[0xff, 0xff], 15), (1, true));
    }

    #[test]
    fn runs_of_bits_cover_any_bitmap() {
        let bytes: Vec<u8> = (0..=255).flat_map(|byte| [byte, 0, 0xff]).collect();
        let set = |bit: u64| bytes[usize::try_from(bit / 8).unwrap()] >> (bit % 8) & 1 == 1;
        let end = bytes.len() as u64 * 8;
        for bit in 0..end {
            let run = Bits(&bytes).run_at(bit);
            assert!((bit..bit + run.len).all(|bit| set(bit) == run.set));
            assert!(bit + run.len == end || set(bit + run.len) != run.set);
        }
    }
}
