//! A new image, written once and in guest order.
//!
//! ```text
//!  header │ 1 MiB: map │ from the next MiB on: blocks, as they come
//! ```

use std::sync::Arc;

use diskette_core::{
    ImageWriter, Packed, Packer, Place, PlacedBlocks, PlainPacker, Result, StorageExt, StorageMut,
    check_range, write_entries,
};
use uuid::Uuid;
use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

use super::options::{BLOCK_SIZE, Parent, Settings};
use crate::spec;

/// Lays out a new image.
#[derive(Debug)]
pub(super) struct NewVdi {
    storage: Arc<dyn StorageMut>,
    settings: Settings,
    packer: Arc<PlainPacker>,
    /// Of a static image: none, for all have their place.
    placed: PlacedBlocks,
}

impl NewVdi {
    pub(super) fn new(storage: Arc<dyn StorageMut>, settings: Settings) -> Result<Self> {
        storage
            .set_size(0)
            .map_err(|source| storage.failed("empty", 0, 0, source))?;
        Ok(Self {
            storage,
            settings,
            packer: Arc::new(match settings.parent {
                Some(_) => PlainPacker::with_chunks(entry(BLOCK_SIZE).get()),
                None => PlainPacker::default(),
            }),
            placed: PlacedBlocks::default(),
        })
    }

    /// Blocks that the file holds.
    const fn stored_count(&self) -> u64 {
        match self.settings.is_static {
            true => self.settings.block_count(),
            false => self.placed.len(),
        }
    }

    fn write_map(&self) -> Result<()> {
        let count = self.settings.block_count();
        let offset = self.settings.map_offset();
        match self.settings.is_static {
            true => write_entries(&*self.storage, offset, (0..count).map(entry))?,
            false => {
                let places = self.placed.places(count);
                let entries = places.map(|place| match place {
                    Place::Absent => U32::new(spec::BLOCK_FREE),
                    Place::Zero => U32::new(spec::BLOCK_ZERO),
                    Place::Behind(count) => entry(count),
                });
                write_entries(&*self.storage, offset, entries)?
            }
        };
        Ok(())
    }

    fn write_header(&self) -> Result<()> {
        let header = self.header();
        let len = header.len() as u64;
        self.storage
            .write_at(&header, 0)
            .map_err(|source| self.storage.failed("write", 0, len, source))
    }

    /// What comes before the map.
    fn header(&self) -> Vec<u8> {
        let Settings { size, uuid, .. } = self.settings;
        let content = self.packer.content();
        let mut text = [0; 64];
        text[..TEXT.len()].copy_from_slice(TEXT);
        let start = spec::PreHeader {
            text,
            signature: spec::SIGNATURE,
            version: spec::VERSION_1_1.into(),
        };
        let image_type = match (self.settings.is_static, self.settings.parent) {
            (_, Some(_)) => spec::TYPE_DIFFERENCING,
            (true, None) => spec::TYPE_STATIC,
            (false, None) => spec::TYPE_DYNAMIC,
        };
        let parent = self.settings.parent;
        let parent_uuid =
            |uuid: fn(Parent) -> Uuid| parent.map_or([0; 16], |it| uuid(it).to_bytes_le());
        let header = spec::Header11 {
            header_size: spec::HEADER_SIZE_LCHS.into(),
            image_type: image_type.into(),
            map_offset: entry(self.settings.map_offset()),
            data_offset: entry(self.settings.data_offset()),
            sector_size: 512.into(),
            disk_size: size.into(),
            block_size: entry(BLOCK_SIZE),
            block_count: entry(self.settings.block_count()),
            allocated_count: entry(self.stored_count()),
            image_uuid: uuid.settle(content, size, "vdi image").to_bytes_le(),
            modification_uuid: uuid
                .settle_another(content, size, "vdi modification")
                .to_bytes_le(),
            parent_uuid: parent_uuid(|parent| parent.image),
            parent_modification_uuid: parent_uuid(|parent| parent.modification),
            ..spec::Header11::new_zeroed()
        };
        let lchs: spec::Lchs = [0, 0, 0, 512].map(U32::new);
        [start.as_bytes(), header.as_bytes(), lchs.as_bytes()].concat()
    }
}

const TEXT: &[u8] = b"<<< diskette VDI Disk Image >>>\n";

/// What fits into 32 bits by the number of blocks that an image can have.
fn entry(number: u64) -> U32 {
    U32::new(u32::try_from(number).unwrap_or(spec::BLOCK_FREE))
}

impl ImageWriter for NewVdi {
    fn packer(&self) -> Arc<dyn Packer> {
        Arc::clone(&self.packer) as Arc<dyn Packer>
    }

    fn storage(&self) -> Arc<dyn StorageMut> {
        Arc::clone(&self.storage)
    }

    fn place(&mut self, offset: u64, packed: Packed, len: u64) -> Result<Option<u64>> {
        check_range(self.settings.size, offset, len)?;
        let block = offset / BLOCK_SIZE;
        if packed == Packed::Zero {
            if self.settings.parent.is_some() {
                self.packer.content().add(offset, b"zero");
                self.placed.place_zeros(entry(block).get());
            }
            return Ok(None);
        }
        let place = match self.settings.is_static {
            true => block,
            false => self.placed.place(entry(block).get()),
        };
        let host = self.settings.data_offset() + place * BLOCK_SIZE;
        Ok(Some(host + offset % BLOCK_SIZE))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let end = self.settings.data_offset() + self.stored_count() * BLOCK_SIZE;
        // Blocks are whole, also where zeros at their ends were left out, and the disk's last one.
        self.storage
            .set_size(end)
            .map_err(|source| self.storage.failed("grow", 0, end, source))?;
        self.write_map()?;
        self.write_header()
    }
}
