//! A new image, written once and in guest order.

use std::sync::Arc;

use diskette_core::{
    ImageWriter, NewId, Packed, Packer, Place, PlacedBlocks, PlainPacker, Result, StorageExt,
    StorageMut, check_range, write_entries,
};
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromZeros, IntoBytes};

use super::layout::Layout;
use super::metadata::metadata;
use super::options::Settings;
use crate::checksum::seal;
use crate::spec::{
    BAT_REGION, BLOCK_FULLY_PRESENT, BLOCK_NOT_PRESENT, BLOCK_ZERO, FILE_SIGNATURE, HEADER_LEN,
    HEADER_OFFSETS, HEADER_SIGNATURE, Header, METADATA_REGION, REGION_REQUIRED, REGION_TABLE_LEN,
    REGION_TABLE_OFFSETS, REGION_TABLE_SIGNATURE, RegionTableEntry, RegionTableHeader,
};

/// Lays out a new image.
#[derive(Debug)]
pub(super) struct NewVhdx {
    storage: Arc<dyn StorageMut>,
    settings: Settings,
    layout: Layout,
    packer: Arc<PlainPacker>,
    /// Of a fixed image: none, for all have their place.
    placed: PlacedBlocks,
}

impl NewVhdx {
    pub(super) fn new(storage: Arc<dyn StorageMut>, settings: Settings) -> Result<Self> {
        storage
            .set_size(0)
            .map_err(|source| storage.failed("empty", 0, 0, source))?;
        Ok(Self {
            storage,
            layout: Layout::new(&settings),
            packer: Arc::new(match settings.parent {
                // At most 2 MiB.
                Some(_) => PlainPacker::with_chunks(index(settings.block_size)),
                None => PlainPacker::default(),
            }),
            placed: PlacedBlocks::default(),
            settings,
        })
    }

    /// Blocks that the file holds.
    const fn stored_count(&self) -> u64 {
        match self.settings.fixed {
            true => self.layout.block_count(),
            false => self.placed.len(),
        }
    }

    /// Blocks are whole, also where zeros at their ends were left out, and the disk's last one.
    fn grow(&self) -> Result<()> {
        let end = self.layout.block_offset(self.stored_count());
        self.storage
            .set_size(end)
            .map_err(|source| self.storage.failed("grow", 0, end, source))
    }

    fn write_bat(&self) -> Result<()> {
        let count = self.layout.block_count();
        let mut places: Box<dyn Iterator<Item = Place>> = match self.settings.fixed {
            true => Box::new((0..count).map(Place::Behind)),
            false => Box::new(self.placed.places(count)),
        };
        let entries = (0..self.layout.entry_count()).map(|index| {
            // Blocks are here whole or not at all: there is no need of sector bitmaps.
            let place = match self.layout.is_bitmap_entry(index) {
                true => return U64::new(BLOCK_NOT_PRESENT),
                false => places.next(),
            };
            U64::new(match place {
                Some(Place::Behind(count)) => self.layout.block_offset(count) | BLOCK_FULLY_PRESENT,
                Some(Place::Zero) => BLOCK_ZERO,
                Some(Place::Absent) => self.absent(),
                None => BLOCK_NOT_PRESENT, // Behind the last block of a chunk that is filled up.
            })
        });
        write_entries(&*self.storage, self.layout.bat_offset(), entries)?;
        Ok(())
    }

    /// The entry of a block of which nothing is said: one that is not present shows the parent.
    const fn absent(&self) -> u64 {
        match self.settings.block_state_zero && self.settings.parent.is_none() {
            true => BLOCK_ZERO,
            false => BLOCK_NOT_PRESENT,
        }
    }

    fn write_metadata(&self) -> Result<()> {
        let Settings { size, uuid, .. } = self.settings;
        let disk_id = match (&self.settings.parent, uuid) {
            (Some(parent), NewId::Derived) => parent.disk_id,
            _ => uuid.settle(self.packer.content(), size, "vhdx disk"),
        };
        let bytes = metadata(&self.settings, disk_id);
        self.write(&bytes, self.layout.metadata_offset())
    }

    /// Twice, for one may be damaged.
    fn write_region_tables(&self) -> Result<()> {
        let layout = &self.layout;
        // Required: without that mark VirtualBox does not know its own.
        let region = |guid: uuid::Uuid, offset: u64, len: u64| RegionTableEntry {
            guid: guid.to_bytes_le(),
            file_offset: offset.into(),
            length: u32::try_from(len).unwrap_or(u32::MAX).into(),
            required: REGION_REQUIRED.into(),
        };
        let regions = [
            region(BAT_REGION, layout.bat_offset(), layout.bat_len()),
            region(
                METADATA_REGION,
                layout.metadata_offset(),
                Layout::METADATA_LEN,
            ),
        ];
        let header = RegionTableHeader {
            signature: REGION_TABLE_SIGNATURE,
            checksum: 0.into(),
            entry_count: 2.into(),
            reserved: 0.into(),
        };
        let mut table = [header.as_bytes(), regions.as_bytes()].concat();
        table.resize(REGION_TABLE_LEN, 0);
        seal(&mut table);
        for offset in REGION_TABLE_OFFSETS {
            self.write(&table, offset)?;
        }
        Ok(())
    }

    /// Two headers; the second is the current one.
    fn write_headers(&self) -> Result<()> {
        let Settings { size, uuid, .. } = self.settings;
        let content = self.packer.content();
        let guid = |purpose| uuid.settle_another(content, size, purpose).to_bytes_le();
        let (file_write_guid, data_write_guid) = (guid("vhdx file"), guid("vhdx data"));
        for (sequence_number, offset) in (1_u64..).zip(HEADER_OFFSETS) {
            let header = Header {
                signature: HEADER_SIGNATURE,
                sequence_number: sequence_number.into(),
                file_write_guid,
                data_write_guid,
                version: 1.into(),
                log_length: self.settings.log_size.into(),
                log_offset: Layout::LOG_OFFSET.into(),
                ..Header::new_zeroed()
            };
            let mut bytes = header.as_bytes().to_vec();
            bytes.resize(HEADER_LEN, 0);
            seal(&mut bytes);
            self.write(&bytes, offset)?;
        }
        Ok(())
    }

    /// The file's signature, and who made it.
    fn write_identifier(&self) -> Result<()> {
        let creator: Vec<_> = CREATOR.encode_utf16().map(U16::new).collect();
        let bytes = [FILE_SIGNATURE.as_slice(), creator.as_bytes()].concat();
        self.write(&bytes, 0)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let len = bytes.len() as u64;
        self.storage
            .write_at(bytes, offset)
            .map_err(|source| self.storage.failed("write", offset, len, source))
    }
}

/// A block's index: at most 64 TiB in blocks of 1 MiB.
fn index(block: u64) -> u32 {
    u32::try_from(block).unwrap_or(u32::MAX)
}

const CREATOR: &str = "diskette";

impl ImageWriter for NewVhdx {
    fn packer(&self) -> Arc<dyn Packer> {
        Arc::clone(&self.packer) as Arc<dyn Packer>
    }

    fn storage(&self) -> Arc<dyn StorageMut> {
        Arc::clone(&self.storage)
    }

    fn place(&mut self, offset: u64, packed: Packed, len: u64) -> Result<Option<u64>> {
        check_range(self.settings.size, offset, len)?;
        let block = offset / self.settings.block_size;
        if packed == Packed::Zero {
            if self.settings.parent.is_some() {
                self.packer.content().add(offset, b"zero");
                self.placed.place_zeros(index(block));
            }
            return Ok(None);
        }
        let place = match self.settings.fixed {
            true => block,
            false => self.placed.place(index(block)),
        };
        let within = offset % self.settings.block_size;
        Ok(Some(self.layout.block_offset(place) + within))
    }

    /// The signature comes last: until then the file is nothing.
    fn finish(self: Box<Self>) -> Result<()> {
        self.grow()?;
        self.write_bat()?;
        self.write_metadata()?;
        self.write_region_tables()?;
        self.write_headers()?;
        self.write_identifier()
    }
}
