//! An image that exists, written anywhere.
//!
//! ```text
//!  headers: other GUIDs ─► blocks ─► sync ─► log: the changed sectors of BAT and metadata ─► sync ─► the sectors in their places
//! ```
//!
//! What the log holds is replayed by whoever opens the file after a crash: us, Hyper-V, QEMU. It is empty again when the image
//! is closed. A block that is written to is there whole afterwards. A log that waits when the image is opened is
//! replayed first.

mod journal;

use std::collections::BTreeMap;
use std::sync::Arc;

use diskette_core::{
    Block, BlockEditor, BlockReader, BlockTable, BlockWriter, Error, LinearTable, NewId, NewPlace,
    OpenContext, Result, Space, Storage, StorageExt, StorageMut,
};
use uuid::Uuid;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use self::journal::Journal;
use crate::header::HeaderPair;
use crate::image::Image;
use crate::map::{ENTRY_LEN, Geometry, Map};
use crate::repair::replay;
use crate::spec::{
    ALIGNMENT, BAT_OFFSET_MASK, BAT_STATE_MASK, BLOCK_FULLY_PRESENT, BLOCK_NOT_PRESENT,
    BLOCK_PARTIALLY_PRESENT, BLOCK_ZERO, FORMAT, HEADER_SECTION_LEN, MAX_DISK_SIZE, MAX_FILE_SIZE,
};
use crate::survey::survey;

/// Opens an image to be changed. `below` is what its holes show, if it has a parent.
pub(crate) fn open(
    storage: Arc<dyn StorageMut>,
    below: Option<Arc<dyn BlockReader>>,
    cx: &OpenContext<'_>,
) -> Result<Box<dyn BlockWriter>> {
    let strict = OpenContext {
        salvage: false,
        metadata_only: false,
        ..*cx
    };
    let mut image = Image::open(Arc::clone(&storage) as Arc<dyn Storage>, &strict)?;
    let differencing = image.map.geometry.differencing;
    if differencing && below.is_none() {
        let feature = "writing into a differencing image whose parent is not at hand";
        return Err(Error::unsupported(FORMAT, feature));
    }
    if let Some(guid) = image.header.log.guid {
        replay(&storage, &image.header.log, guid, &strict)?;
        image = Image::open(Arc::clone(&storage) as Arc<dyn Storage>, &strict)?;
    }
    let below = below.filter(|_| differencing);
    let blocks = Blocks::new(Arc::clone(&storage), image, &strict)?;
    Ok(Box::new(BlockEditor::new(storage, below, blocks)))
}

/// The blocks of an image, its log and its headers.
#[derive(Debug)]
struct Blocks {
    storage: Arc<dyn StorageMut>,
    /// As it is now.
    geometry: Geometry,
    bat: LinearTable<U64>,
    /// As it was when the image was opened: for sector bitmaps, which do not change.
    map: Map,
    space: Space,
    /// Whether blocks keep their place for good.
    fixed: bool,
    headers: HeaderPair,
    journal: Journal,
    /// Bytes of the BAT region.
    bat_len: u64,
    /// Where the metadata say the disk's size.
    size_at: u64,
    /// What they say there.
    stored_size: u64,
}

impl Blocks {
    fn new(storage: Arc<dyn StorageMut>, image: Image, cx: &OpenContext<'_>) -> Result<Self> {
        let found = survey(&image.map, cx.limits, Err)?;
        let file_size = storage.total_size()?;
        let geometry = image.map.geometry;
        let end = file_size.next_multiple_of(ALIGNMENT);
        let mut space = Space::new(end, file_size, geometry.block_size)
            .aligned_to(ALIGNMENT)
            .up_to(MAX_FILE_SIZE.saturating_sub(geometry.block_size));
        for gap in found.used.free_runs(HEADER_SECTION_LEN, file_size) {
            space.add_gap(&gap);
        }
        let sectors = geometry.entry_count.next_multiple_of(SECTOR_ENTRIES);
        Ok(Self {
            bat: LinearTable::new(
                Arc::clone(&storage),
                image.map.bat_offset,
                sectors,
                cx.limits.cache_bytes,
            ),
            space,
            fixed: image.metadata.fixed,
            headers: HeaderPair::read(&*storage)?,
            journal: Journal::new(Arc::clone(&storage), &image.header.log)?,
            bat_len: image.map.bat_len,
            size_at: image.metadata.disk_size_at,
            stored_size: geometry.disk_size,
            geometry,
            map: image.map,
            storage,
        })
    }

    fn entry(&self, index: u64) -> Result<u64> {
        let entry = self.bat.get(self.geometry.payload_entry(index))?;
        Ok(entry.map_or(BLOCK_NOT_PRESENT, U64::get))
    }

    /// The sectors of the file that have changed, by their offset, and whole.
    fn changed_sectors(&self) -> Result<BTreeMap<u64, Vec<u8>>> {
        let changed = self.bat.changed();
        let mut sectors: BTreeMap<u64, Vec<u8>> =
            changed.map(|(at, bytes)| (at, bytes.to_vec())).collect();
        if self.stored_size == self.geometry.disk_size {
            return Ok(sectors);
        }
        let size = U64::new(self.geometry.disk_size);
        // The number may lie on both sides of a sector's end.
        for (at, byte) in (self.size_at..).zip(size.as_bytes()) {
            let start = at / SECTOR_LEN * SECTOR_LEN;
            let sector = match sectors.entry(start) {
                std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
                std::collections::btree_map::Entry::Vacant(place) => {
                    let len = usize::try_from(SECTOR_LEN).unwrap_or(usize::MAX);
                    place.insert(self.storage.read_vec(len, start)?)
                }
            };
            let within = usize::try_from(at - start).unwrap_or(usize::MAX);
            if let Some(place) = sector.get_mut(within) {
                *place = *byte;
            }
        }
        Ok(sectors)
    }

    fn sync(&self) -> Result<()> {
        self.storage
            .sync()
            .map_err(|source| self.storage.failed("sync", 0, 0, source))
    }
}

/// Bytes of a sector of BAT and metadata, as the log knows them.
const SECTOR_LEN: u64 = 4096;
/// Entries of the BAT in one.
const SECTOR_ENTRIES: u64 = SECTOR_LEN / ENTRY_LEN;

impl BlockTable for Blocks {
    fn format(&self) -> &'static str {
        FORMAT
    }

    fn size(&self) -> u64 {
        self.geometry.disk_size
    }

    fn block_size(&self) -> u64 {
        self.geometry.block_size
    }

    fn block(&self, index: u64) -> Result<Block> {
        let entry = self.entry(index)?;
        let at = entry & BAT_OFFSET_MASK;
        Ok(match entry & BAT_STATE_MASK {
            BLOCK_NOT_PRESENT => Block::Hole,
            BLOCK_FULLY_PRESENT => Block::Stored(at),
            BLOCK_PARTIALLY_PRESENT => Block::Partial(at),
            // Others were refused when the image was opened.
            _ => Block::Zero,
        })
    }

    fn part(&self, index: u64, within: u64) -> Result<(u64, bool)> {
        self.map.part(index, within)
    }

    fn zero(&self, _block: Block) -> Option<Block> {
        (!self.fixed).then_some(Block::Zero)
    }

    fn gives_back(&self) -> bool {
        !self.fixed
    }

    /// Children of the image as it was are to know that it is another one now. Both headers say so.
    fn begin(&mut self) -> Result<()> {
        self.headers.advance(&*self.storage, |header| {
            for guid in [&mut header.file_write_guid, &mut header.data_write_guid] {
                *guid = NewId::after(Uuid::from_bytes_le(*guid)).to_bytes_le();
            }
        })?;
        self.headers.advance(&*self.storage, |_| {})
    }

    fn allocate(&mut self) -> Result<NewPlace> {
        let place = self.space.take(&*self.storage)?;
        place.ok_or_else(|| Error::unsupported(FORMAT, "a larger file"))
    }

    fn release(&mut self, at: u64) {
        self.space.release(at);
    }

    fn set(&mut self, index: u64, block: Block) -> Result<()> {
        let before = match self.block(index)? {
            Block::Stored(at) | Block::Partial(at) => Some(at),
            Block::Hole | Block::Zero => None,
        };
        let (entry, now) = match block {
            Block::Hole => (BLOCK_NOT_PRESENT, None),
            // Hyper-V reads no block of zeros that has an offset.
            Block::Zero => (BLOCK_ZERO, None),
            Block::Stored(at) => (at | BLOCK_FULLY_PRESENT, Some(at)),
            Block::Partial(at) => (at | BLOCK_PARTIALLY_PRESENT, Some(at)),
        };
        if let Some(at) = before.filter(|at| Some(*at) != now) {
            self.space.give_up(at);
        }
        let index = self.geometry.payload_entry(index);
        self.bat.set(index, U64::new(entry))
    }

    /// As far as the BAT region has room.
    fn resize(&mut self, size: u64) -> Result<()> {
        let refused = |feature: String| Err(Error::unsupported(FORMAT, feature));
        if self.fixed {
            return refused("another size for a fixed disk".to_owned());
        }
        let sector = self.geometry.logical_sector_size;
        if size > MAX_DISK_SIZE || !size.is_multiple_of(sector) {
            return refused(format!("a disk of {size} bytes"));
        }
        let geometry = self.geometry.resized(size);
        let room = self.bat_len / ENTRY_LEN;
        if geometry.entry_count > room {
            let feature = format!("a disk of more blocks than the BAT has room for, {room}");
            return refused(feature);
        }
        self.bat
            .grow(geometry.entry_count.next_multiple_of(SECTOR_ENTRIES));
        for index in self.geometry.entry_count..geometry.entry_count {
            // What lies behind the last entry means nothing, whatever it is.
            if self.bat.get(index)?.is_some_and(|entry| entry.get() != 0) {
                self.bat.set(index, U64::ZERO)?;
            }
        }
        self.geometry = geometry;
        Ok(())
    }

    fn waiting(&self) -> usize {
        let resized = self.stored_size != self.geometry.disk_size;
        self.bat.changed_count() + usize::from(resized) + usize::from(self.space.waits())
    }

    fn store(&mut self) -> Result<()> {
        let sectors: Vec<_> = self.changed_sectors()?.into_iter().collect();
        if sectors.is_empty() {
            return self.sync();
        }
        for some in sectors.chunks(self.journal.most_sectors()) {
            self.journal.write(&mut self.headers, some)?;
        }
        self.bat.stored();
        self.stored_size = self.geometry.disk_size;
        self.space.stored(&*self.storage)
    }

    fn close(&mut self) -> Result<()> {
        self.sync()?;
        self.journal.close(&mut self.headers)
    }
}
