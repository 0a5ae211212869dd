//! An image that exists, written anywhere.
//!
//! Blocks lie without gaps behind one another, in any order, and the header says how many there are: who writes next puts
//! a block there. So the header is never behind the map: a count that is too high merely leaks.
//!
//! ```text
//!  blocks ─► sync ─► a count that covers them ─► sync ─► map ─► sync
//!  where blocks were given up: the last ones copied into their places ─► sync ─► map ─► sync ─► count ─► sync ─► the file cut
//! ```

use std::sync::Arc;

use diskette_core::{
    Block, BlockEditor, BlockReader, BlockTable, BlockWriter, Error, Field, LinearTable, NewId,
    NewPlace, OpenContext, Result, Space, StorageExt, StorageMut,
};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use crate::check::{Findings, survey};
use crate::header::{Header, Kind};
use crate::map::Map;
use crate::{FORMAT, spec};

/// Opens an image to be changed. `below` is what its free blocks show, if it has a parent.
pub(crate) fn open(
    storage: Arc<dyn StorageMut>,
    below: Option<Arc<dyn BlockReader>>,
    cx: &OpenContext<'_>,
) -> Result<Box<dyn BlockWriter>> {
    let blocks = Blocks::open(Arc::clone(&storage), cx, Count::MustCover)?;
    let differencing = blocks.header.kind == Kind::Differencing;
    if differencing && below.is_none() {
        let feature = "writing into a differencing image whose parent is not at hand";
        return Err(Error::unsupported(FORMAT, feature));
    }
    let below = below.filter(|_| differencing);
    Ok(Box::new(BlockEditor::new(storage, below, blocks)))
}

/// Puts the blocks of a sound map without gaps behind one another, and says how many there are.
pub(crate) fn tidy(storage: Arc<dyn StorageMut>, cx: &OpenContext<'_>) -> Result<()> {
    Blocks::open(storage, cx, Count::Ignored)?.store()
}

/// What is asked of the header's count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Count {
    /// That it covers all blocks that are used.
    MustCover,
    /// Nothing: it will be set.
    Ignored,
}

/// The blocks of an image, and its header.
#[derive(Debug)]
struct Blocks {
    storage: Arc<dyn StorageMut>,
    header: Header,
    map: LinearTable<U32>,
    space: Space,
    /// Blocks that have a place now.
    allocated: u64,
    /// As many blocks have one by the header in the file.
    stored_count: u64,
    /// The disk's size by the header in the file.
    stored_size: u64,
}

impl Blocks {
    /// The blocks of an image whose map is sound; places that were leaked are free.
    fn open(storage: Arc<dyn StorageMut>, cx: &OpenContext<'_>, count: Count) -> Result<Self> {
        let header = Header::read(&*storage, cx.limits)?;
        let map = Map::new(header.clone(), cx.limits, false);
        let found = survey(&map, &*storage, cx.limits, &mut Findings::Refuse)?;
        if count == Count::MustCover && header.allocated_count < found.behind_last {
            let at = header.allocated_count_offset;
            let why = format!("but the map leads to block {}", found.behind_last - 1);
            let count = Field::new(FORMAT, "header.allocated_count", at, header.allocated_count);
            return Err(count.malformed(why));
        }
        let offset = header.data_offset + header.block_extra;
        let at = |position: u64| offset + position * header.stride();
        let file_size = storage.total_size()?;
        let mut space = Space::new(
            header.data_offset + found.behind_last * header.stride(),
            file_size,
            header.block_size,
        )
        .with_lead(header.block_extra);
        for position in found.unused() {
            space.add_free(at(position));
        }
        Ok(Self {
            map: LinearTable::new(
                Arc::clone(&storage),
                header.map_offset,
                header.block_count,
                cx.limits.cache_bytes,
            ),
            space,
            allocated: found.allocated,
            stored_count: header.allocated_count,
            stored_size: header.disk_size,
            header,
            storage,
        })
    }

    /// Whether blocks lie without a gap, and the header says how many.
    fn is_tidy(&self) -> bool {
        self.stored_count == self.allocated && self.position(self.space.end()) == self.allocated
    }

    /// The host offset of the data of the block at a position.
    const fn place(&self, position: u64) -> u64 {
        self.header.data_offset + position * self.header.stride() + self.header.block_extra
    }

    /// The number of blocks before a host offset.
    const fn position(&self, at: u64) -> u64 {
        (at - self.header.data_offset) / self.header.stride()
    }

    fn entry(&self, index: u64) -> Result<u32> {
        Ok(self.map.get(index)?.map_or(spec::BLOCK_FREE, U32::get))
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.storage
            .write_at(bytes, at)
            .map_err(|source| self.storage.failed("write", at, bytes.len() as u64, source))
    }

    fn sync(&self) -> Result<()> {
        self.storage
            .sync()
            .map_err(|source| self.storage.failed("sync", 0, 0, source))
    }

    fn store_count(&mut self, count: u64) -> Result<()> {
        if count != self.stored_count {
            let number = entry_of(count);
            self.write(number.as_bytes(), self.header.allocated_count_offset)?;
            self.stored_count = count;
        }
        Ok(())
    }

    /// Size and number of blocks, which lie in one sector.
    fn store_size(&mut self) -> Result<()> {
        if self.stored_size == self.header.disk_size {
            return Ok(());
        }
        let fields = self.header.offsets;
        let mut sector = self.storage.read_vec(512, 0)?;
        let size = U64::new(self.header.disk_size);
        for (at, bytes) in [
            (fields.disk_size, size.as_bytes()),
            (
                fields.block_count,
                entry_of(self.header.block_count).as_bytes(),
            ),
        ] {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            sector[at..at + bytes.len()].copy_from_slice(bytes);
        }
        self.write(&sector, 0)?;
        self.stored_size = self.header.disk_size;
        self.sync()
    }

    /// Moves the last blocks into places that are free, so that no place is free amid the others, and cuts the file.
    fn compact(&mut self) -> Result<()> {
        let end = self.place(self.allocated);
        let free: Vec<u64> = self
            .space
            .free_places()
            .take_while(|at| *at < end)
            .collect();
        if !free.is_empty() {
            let last = self.blocks_from(self.allocated)?;
            for (index, to) in last.into_iter().zip(free) {
                let from = self.place(self.entry(index)?.into());
                self.copy(from, to)?;
                let position = self.position(to);
                self.map.set(index, entry_of(position))?;
            }
            self.sync()?;
            self.map.write()?;
            self.sync()?;
        }
        let end = self.header.data_offset + self.allocated * self.header.stride();
        self.space.cut(end);
        self.store_count(self.allocated)?;
        self.sync()?;
        self.storage
            .set_size(end)
            .map_err(|source| self.storage.failed("cut", end, 0, source))
    }

    /// The blocks of the disk that lie at a position or behind it.
    fn blocks_from(&self, position: u64) -> Result<Vec<u64>> {
        let mut found = Vec::new();
        for index in 0..self.map.len() {
            let entry = u64::from(self.entry(index)?);
            if entry >= position && entry < spec::BLOCK_ZERO.into() {
                found.push(index);
            }
        }
        Ok(found)
    }

    /// Copies a block with all that is before its data.
    fn copy(&self, from: u64, to: u64) -> Result<()> {
        const PIECE: u64 = 1 << 20;
        let (from, to) = (from - self.header.block_extra, to - self.header.block_extra);
        let stride = self.header.stride();
        let mut done = 0;
        while done < stride {
            let len = PIECE.min(stride - done);
            let bytes = self
                .storage
                .read_vec(usize::try_from(len).unwrap_or(usize::MAX), from + done)?;
            self.write(&bytes, to + done)?;
            done += len;
        }
        Ok(())
    }
}

/// A number of blocks, which has 32 bits: there are no more.
fn entry_of(number: u64) -> U32 {
    U32::new(u32::try_from(number).unwrap_or(spec::BLOCK_FREE))
}

impl BlockTable for Blocks {
    fn format(&self) -> &'static str {
        FORMAT
    }

    fn size(&self) -> u64 {
        self.header.disk_size
    }

    fn block_size(&self) -> u64 {
        self.header.block_size
    }

    fn block(&self, index: u64) -> Result<Block> {
        Ok(match self.entry(index)? {
            spec::BLOCK_FREE if self.header.kind == Kind::Differencing => Block::Hole,
            spec::BLOCK_FREE | spec::BLOCK_ZERO => Block::Zero,
            entry => Block::Stored(self.place(entry.into())),
        })
    }

    fn part(&self, _index: u64, within: u64) -> Result<(u64, bool)> {
        Ok((self.header.block_size - within, true))
    }

    fn zero(&self, _block: Block) -> Option<Block> {
        (self.header.kind != Kind::Static).then_some(Block::Zero)
    }

    fn gives_back(&self) -> bool {
        self.header.kind != Kind::Static
    }

    /// Children of the image as it was are to know that it is another one now.
    fn begin(&mut self) -> Result<()> {
        let uuid = NewId::after(self.header.modification);
        self.header.modification = uuid;
        self.write(&uuid.to_bytes_le(), self.header.modification_offset)?;
        // Some writers leave out the end of the last block.
        let end = self.space.end();
        if self.storage.total_size()? < end {
            self.storage
                .set_size(end)
                .map_err(|source| self.storage.failed("grow", end, 0, source))?;
        }
        Ok(())
    }

    fn allocate(&mut self) -> Result<NewPlace> {
        // There are no more blocks in the file than on the disk: those that were given up must be free first.
        let is_full = self.position(self.space.end()) >= self.header.block_count;
        if is_full && self.space.waits() {
            self.store()?;
        }
        let place = self.space.take(&*self.storage)?;
        place.ok_or_else(|| Error::unsupported(FORMAT, "a larger file"))
    }

    fn release(&mut self, at: u64) {
        self.space.release(at);
    }

    fn set(&mut self, index: u64, block: Block) -> Result<()> {
        if let Block::Stored(before) = self.block(index)? {
            self.allocated -= 1;
            self.space.give_up(before);
        }
        let entry = match block {
            Block::Hole => spec::BLOCK_FREE,
            Block::Zero => spec::BLOCK_ZERO,
            Block::Stored(at) | Block::Partial(at) => {
                self.allocated += 1;
                return self.map.set(index, entry_of(self.position(at)));
            }
        };
        self.map.set(index, U32::new(entry))
    }

    /// As far as there is room before the first block.
    fn resize(&mut self, size: u64) -> Result<()> {
        let count = size.div_ceil(self.header.block_size);
        let room = (self.header.data_offset - self.header.map_offset) / 4;
        if size > i64::MAX as u64 || count > room.min(u64::from(spec::BLOCK_ZERO)) {
            let most = room.saturating_mul(self.header.block_size);
            let feature = format!("a disk of more than the {most} bytes that its map has room for");
            return Err(Error::unsupported(FORMAT, feature));
        }
        if self.header.kind == Kind::Static {
            return Err(Error::unsupported(FORMAT, "another size for a static disk"));
        }
        let before = self.header.block_count;
        if count > before {
            self.map.grow(count);
            for index in before..count {
                self.map.set(index, U32::new(spec::BLOCK_FREE))?;
            }
            self.header.block_count = count;
        }
        self.header.disk_size = size.next_multiple_of(512);
        Ok(())
    }

    fn waiting(&self) -> usize {
        let resized = self.stored_size != self.header.disk_size;
        self.map.changed_count() + usize::from(resized) + usize::from(self.space.waits())
    }

    fn store(&mut self) -> Result<()> {
        let count = self.position(self.space.end());
        self.sync()?;
        if count > self.stored_count {
            self.store_count(count)?;
            self.sync()?;
        }
        self.map.write()?;
        self.sync()?;
        self.store_size()?;
        self.space.stored(&*self.storage)?;
        match self.is_tidy() {
            true => Ok(()),
            false => self.compact(),
        }
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}
