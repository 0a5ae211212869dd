//! An image that exists, written anywhere.
//!
//! ```text
//!  bitmaps and data of new blocks, the footer behind them ─► sync ─► table, bitmaps of blocks that became whole ─► sync
//! ```
//!
//! A new block covers the footer at the end; until the new one is written the copy at the beginning counts. A block that is
//! written to is there whole afterwards, with all bits of its bitmap set, as QEMU and Windows have it. There is no word for
//! zeros: they are stored, and the host's space of blocks that are no longer needed is given back.

use std::collections::BTreeSet;
use std::sync::Arc;

use diskette_core::{
    Block, BlockEditor, BlockReader, BlockTable, BlockWriter, Error, InPlace, LinearTable,
    NewPlace, OpenContext, Result, SECTOR, Space, Storage, StorageExt, StorageMut, Table,
    TableCache,
};
use zerocopy::IntoBytes;
use zerocopy::big_endian::U32;

use crate::dynamic::Dynamic;
use crate::footer::{Footer, Kind};
use crate::map::Bits;
use crate::{FORMAT, reader, spec};

/// Writes copies of the footer that are missing, and cuts off what lies behind the last block.
pub(crate) fn tidy(storage: Arc<dyn StorageMut>, cx: &OpenContext<'_>) -> Result<()> {
    let footer = Footer::read(&*storage, cx)?;
    let mut blocks = Blocks::open(storage, footer, cx)?;
    blocks.begin()?;
    blocks.footer.rear_offset = None;
    blocks.place_footer()?;
    blocks.sync()
}

/// Opens an image to be changed. `below` is what its holes show, if it has a parent.
pub(crate) fn open(
    storage: Arc<dyn StorageMut>,
    below: Option<Arc<dyn BlockReader>>,
    cx: &OpenContext<'_>,
) -> Result<Box<dyn BlockWriter>> {
    let footer = Footer::read(&*storage, cx)?;
    if footer.kind == Kind::Fixed {
        let reader = reader::open(Arc::clone(&storage) as Arc<dyn Storage>, cx)?.reader;
        return Ok(Box::new(InPlace::new(FORMAT, reader, storage)?));
    }
    let differencing = footer.kind == Kind::Differencing;
    if differencing && below.is_none() {
        let feature = "writing into a differencing image whose parent is not at hand";
        return Err(Error::unsupported(FORMAT, feature));
    }
    let below = below.filter(|_| differencing);
    let blocks = Blocks::open(Arc::clone(&storage), footer, cx)?;
    Ok(Box::new(BlockEditor::new(storage, below, blocks)))
}

/// The blocks of a dynamic or differencing image, and its footers.
#[derive(Debug)]
struct Blocks {
    storage: Arc<dyn StorageMut>,
    footer: Footer,
    block_size: u64,
    bitmap_size: u64,
    table: LinearTable<U32>,
    space: Space,
    /// Bitmaps by their host offsets.
    bitmaps: TableCache<u8>,
    /// Blocks that became whole, by the host offsets of their bitmaps, which do not say so yet.
    completed: BTreeSet<u64>,
}

impl Blocks {
    fn open(storage: Arc<dyn StorageMut>, footer: Footer, cx: &OpenContext<'_>) -> Result<Self> {
        let dynamic = Dynamic::read(&*storage, &footer, cx)?;
        let laid_out = dynamic.lay_out(Err)?;
        let file_size = storage.total_size()?;
        for index in 0..dynamic.bat.len() {
            // The disk may end within the last block, and with it the file.
            let len = footer.disk_size - index as u64 * dynamic.block_size;
            let len = dynamic.bitmap_size + len.min(dynamic.block_size);
            match dynamic.block_offset(index) {
                Some(at) if at + len > file_size => {
                    let why = format!("its block reaches beyond the file's end at {file_size:#x}");
                    return Err(dynamic.entry(index).malformed(why));
                }
                Some(_) | None => {}
            }
        }
        let table = LinearTable::new(
            Arc::clone(&storage),
            dynamic.bat_offset,
            dynamic.bat.len() as u64,
            cx.limits.cache_bytes,
        );
        let mut space = Space::new(laid_out.end, file_size, dynamic.block_size)
            .with_lead(dynamic.bitmap_size)
            .aligned_to(ALIGNMENT)
            .up_to(u64::from(spec::BLOCK_ABSENT - 1) * SECTOR);
        laid_out.gaps.iter().for_each(|gap| space.add_gap(gap));
        Ok(Self {
            space,
            bitmaps: TableCache::new(cx.limits.cache_bytes, dynamic.bitmap_size),
            completed: BTreeSet::new(),
            block_size: dynamic.block_size,
            bitmap_size: dynamic.bitmap_size,
            table,
            footer,
            storage,
        })
    }

    /// The host offset of a block's bitmap; `None` where the block is absent.
    fn bitmap_offset(&self, index: u64) -> Result<Option<u64>> {
        let entry = self.table.get(index)?.map(U32::get);
        let sector = entry.filter(|sector| *sector != spec::BLOCK_ABSENT);
        Ok(sector.map(|sector| u64::from(sector) * SECTOR))
    }

    fn bitmap(&self, at: u64) -> Result<Table<u8>> {
        self.bitmaps.get_or_read(at, || {
            let len = usize::try_from(self.bitmap_size).unwrap_or(usize::MAX);
            Ok(Table::new(self.storage.read_vec(len, at)?))
        })
    }

    fn bits<'a>(&self, bitmap: &'a Table<u8>) -> Bits<'a> {
        Bits {
            bytes: bitmap.entries(),
            reversed: self.footer.reversed_bits,
        }
    }

    /// Sectors of a block.
    fn sectors(&self) -> usize {
        usize::try_from(self.block_size / SECTOR).unwrap_or(usize::MAX)
    }

    fn is_full(&self, index: u64, at: u64) -> Result<bool> {
        let start = index * self.block_size;
        let len = self.block_size.min(self.footer.disk_size - start);
        let sectors = usize::try_from(len.div_ceil(SECTOR)).unwrap_or(usize::MAX);
        let bitmap = self.bitmap(at)?;
        let bits = self.bits(&bitmap);
        Ok(bits.get(0) && bits.end_of_run(0, sectors) == sectors)
    }

    fn write_full_bitmap(&self, at: u64) -> Result<()> {
        let len = usize::try_from(self.bitmap_size).unwrap_or(usize::MAX);
        self.bitmaps.forget(at);
        self.write(&vec![0xff; len], at)
    }

    /// Puts the footer behind the last block, if it is not there.
    fn place_footer(&mut self) -> Result<()> {
        let end = self.space.end();
        if self.footer.rear_offset.is_some_and(|at| at >= end) {
            return Ok(());
        }
        self.write(self.footer.raw.as_bytes(), end)?;
        let size = end + SECTOR;
        if self.storage.total_size()? > size {
            self.sync()?;
        }
        self.storage
            .set_size(size)
            .map_err(|source| self.storage.failed("resize", size, 0, source))?;
        self.footer.rear_offset = Some(end);
        Ok(())
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
}

/// Data of new blocks begin at multiples of this: hosts and guests write whole pages.
const ALIGNMENT: u64 = 4096;

impl BlockTable for Blocks {
    fn format(&self) -> &'static str {
        FORMAT
    }

    fn size(&self) -> u64 {
        self.footer.disk_size
    }

    fn block_size(&self) -> u64 {
        self.block_size
    }

    fn block(&self, index: u64) -> Result<Block> {
        let Some(at) = self.bitmap_offset(index)? else {
            return Ok(match self.footer.kind {
                Kind::Differencing => Block::Hole,
                Kind::Dynamic | Kind::Fixed => Block::Zero,
            });
        };
        let data = at + self.bitmap_size;
        Ok(
            match self.completed.contains(&at) || self.is_full(index, at)? {
                true => Block::Stored(data),
                false => Block::Partial(data),
            },
        )
    }

    fn part(&self, index: u64, within: u64) -> Result<(u64, bool)> {
        let Some(at) = self.bitmap_offset(index)? else {
            return Ok((self.block_size - within, false));
        };
        let bitmap = self.bitmap(at)?;
        let bits = self.bits(&bitmap);
        let sector = usize::try_from(within / SECTOR).unwrap_or(usize::MAX);
        let behind = bits.end_of_run(sector, self.sectors()) as u64 * SECTOR;
        Ok((behind - within, bits.get(sector)))
    }

    fn zero(&self, _block: Block) -> Option<Block> {
        None
    }

    fn gives_back(&self) -> bool {
        true
    }

    /// The footer's copy at the beginning will be the only one for a while.
    fn begin(&mut self) -> Result<()> {
        if self.footer.has_front {
            return Ok(());
        }
        self.write(self.footer.raw.as_bytes(), 0)?;
        self.footer.has_front = true;
        self.sync()
    }

    fn allocate(&mut self) -> Result<NewPlace> {
        let place = self.space.take(&*self.storage)?;
        let place = place.ok_or_else(|| Error::unsupported(FORMAT, "a file of more than 2 TiB"))?;
        self.write_full_bitmap(place.at - self.bitmap_size)?;
        Ok(place)
    }

    fn release(&mut self, at: u64) {
        self.space.release(at);
    }

    fn set(&mut self, index: u64, block: Block) -> Result<()> {
        let (Block::Stored(at) | Block::Partial(at)) = block else {
            return Ok(()); // There is no word for it: see `zero`.
        };
        let bitmap = at - self.bitmap_size;
        if self.bitmap_offset(index)? == Some(bitmap) {
            self.completed.insert(bitmap);
            return Ok(());
        }
        let sector = u32::try_from(bitmap / SECTOR).unwrap_or(spec::BLOCK_ABSENT);
        self.table.set(index, U32::new(sector))
    }

    fn resize(&mut self, _size: u64) -> Result<()> {
        Err(Error::unsupported(FORMAT, "another size for a disk"))
    }

    fn waiting(&self) -> usize {
        self.table.changed_count() + self.completed.len()
    }

    fn store(&mut self) -> Result<()> {
        self.place_footer()?;
        self.sync()?;
        self.table.write()?;
        for at in std::mem::take(&mut self.completed) {
            self.write_full_bitmap(at)?;
        }
        self.sync()
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}
