//! A new image, written once and in guest order.

use std::sync::Arc;

use diskette_core::{
    ImageWriter, Packed, Packer, Place, PlacedBlocks, PlainPacker, Result, StorageExt, StorageMut,
    check_range, write_entries,
};
use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromZeros, IntoBytes, little_endian};

use super::layout::{BAT_OFFSET, BITMAP_LEN, BLOCK_SIZE, HEADER_OFFSET, Layout};
use super::options::{Parent, Settings, Subformat};
use crate::footer::{checksum, checksum_of};
use crate::spec;

/// Lays out a new image.
#[derive(Debug)]
pub(super) struct NewVpc {
    storage: Arc<dyn StorageMut>,
    settings: Settings,
    layout: Layout,
    packer: Arc<PlainPacker>,
    /// Of a dynamic image.
    placed: PlacedBlocks,
}

impl NewVpc {
    pub(super) fn new(storage: Arc<dyn StorageMut>, settings: Settings) -> Result<Self> {
        storage
            .set_size(0)
            .map_err(|source| storage.failed("empty", 0, 0, source))?;
        Ok(Self {
            storage,
            layout: Layout::new(&settings),
            packer: Arc::new(match settings.parent {
                Some(_) => PlainPacker::with_chunks(u32_of(BLOCK_SIZE).get()),
                None => PlainPacker::default(),
            }),
            placed: PlacedBlocks::default(),
            settings,
        })
    }

    /// Blocks are whole, also where zeros at their ends were left out, and the disk's last one. So is a fixed disk.
    fn grow(&self) -> Result<()> {
        let end = self.layout.footer_offset(self.placed.len());
        self.storage
            .set_size(end)
            .map_err(|source| self.storage.failed("grow", 0, end, source))
    }

    /// What a dynamic image has but for its footers.
    fn write_tables(&self) -> Result<()> {
        // All sectors are here: some readers never look, and zeros need no telling.
        let bitmap = [0xff; BITMAP_LEN];
        for place in 0..self.placed.len() {
            self.write(&bitmap, self.layout.bitmap_offset(place))?;
        }
        let padded = self.layout.bat_len() / 4;
        let entries = self.placed.places(padded).map(|place| match place {
            Place::Behind(count) => sector(self.layout.bitmap_offset(count)),
            Place::Absent | Place::Zero => U32::new(spec::BLOCK_ABSENT),
        });
        write_entries(&*self.storage, BAT_OFFSET, entries)?;
        if let Some(parent) = &self.settings.parent {
            let path: Vec<_> = parent
                .path
                .encode_utf16()
                .map(little_endian::U16::new)
                .collect();
            self.write(path.as_bytes(), self.layout.path_offset())?;
        }
        self.write(self.header().as_bytes(), HEADER_OFFSET)
    }

    fn header(&self) -> spec::DynamicHeader {
        let mut header = spec::DynamicHeader {
            cookie: spec::DYNAMIC_COOKIE,
            data_offset: u64::MAX.into(),
            table_offset: BAT_OFFSET.into(),
            header_version: spec::VERSION.into(),
            max_table_entries: u32_of(self.layout.block_count()),
            block_size: u32_of(BLOCK_SIZE),
            ..spec::DynamicHeader::new_zeroed()
        };
        if let Some(parent) = &self.settings.parent {
            self.name_parent(&mut header, parent);
        }
        spec::DynamicHeader {
            checksum: checksum(header.as_bytes()).into(),
            ..header
        }
    }

    /// The parent's UUID, its name, and where its path lies.
    fn name_parent(&self, header: &mut spec::DynamicHeader, parent: &Parent) {
        let path_len = u32_of(2 * parent.path.encode_utf16().count() as u64);
        let name = parent.path.rsplit('\\').next().unwrap_or_default();
        let (pairs, _) = header.parent_unicode_name.as_chunks_mut::<2>();
        for (pair, unit) in pairs.iter_mut().zip(name.encode_utf16()) {
            pair.copy_from_slice(U16::new(unit).as_bytes());
        }
        header.parent_unique_id = parent.unique_id.into_bytes();
        header.parent_locators[0] = spec::ParentLocator {
            platform_code: spec::LOCATOR_RELATIVE,
            // In bytes, as all but the specification have it.
            platform_data_space: u32_of(u64::from(path_len.get()).next_multiple_of(512)),
            platform_data_length: path_len,
            reserved: 0.into(),
            platform_data_offset: self.layout.path_offset().into(),
        };
    }

    fn footer(&self) -> spec::Footer {
        let Settings {
            size,
            geometry,
            creator,
            ..
        } = self.settings;
        let (data_offset, disk_type) = match (self.settings.subformat, &self.settings.parent) {
            (Subformat::Fixed, _) => (u64::MAX, spec::TYPE_FIXED),
            (Subformat::Dynamic, None) => (HEADER_OFFSET, spec::TYPE_DYNAMIC),
            (Subformat::Dynamic, Some(_)) => (HEADER_OFFSET, spec::TYPE_DIFFERENCING),
        };
        let id = self.settings.uuid;
        let footer = spec::Footer {
            cookie: spec::COOKIE,
            features: spec::FEATURE_RESERVED.into(),
            version: spec::VERSION.into(),
            data_offset: data_offset.into(),
            timestamp: self.settings.timestamp.into(),
            creator_application: creator.application,
            creator_version: creator.version.into(),
            creator_host_os: *b"Wi2k",
            original_size: size.into(),
            current_size: size.into(),
            cylinders: geometry.cylinders.into(),
            heads: geometry.heads,
            sectors_per_track: geometry.sectors_per_track,
            disk_type: disk_type.into(),
            unique_id: id.settle(self.packer.content(), size, "vpc").into_bytes(),
            ..spec::Footer::new_zeroed()
        };
        spec::Footer {
            checksum: checksum_of(&footer).into(),
            ..footer
        }
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let len = bytes.len() as u64;
        self.storage
            .write_at(bytes, offset)
            .map_err(|source| self.storage.failed("write", offset, len, source))
    }
}

/// In sectors. An image of 2040 GiB ends before they need more than 32 bits.
fn sector(offset: u64) -> U32 {
    u32_of(offset / 512)
}

fn u32_of(number: u64) -> U32 {
    U32::new(u32::try_from(number).unwrap_or(u32::MAX))
}

impl ImageWriter for NewVpc {
    fn packer(&self) -> Arc<dyn Packer> {
        Arc::clone(&self.packer) as Arc<dyn Packer>
    }

    fn storage(&self) -> Arc<dyn StorageMut> {
        Arc::clone(&self.storage)
    }

    fn place(&mut self, offset: u64, packed: Packed, len: u64) -> Result<Option<u64>> {
        check_range(self.settings.size, offset, len)?;
        let block = u32_of(offset / BLOCK_SIZE).get();
        Ok(match (packed, self.settings.subformat) {
            (Packed::Zero, _) => {
                if self.settings.parent.is_some() {
                    // There is no word for zeros: what is stored nowhere in a block of a new file reads as such.
                    self.packer.content().add(offset, b"zero");
                    self.placed.place(block);
                }
                None
            }
            (Packed::Plain | Packed::Compressed, Subformat::Fixed) => Some(offset),
            (Packed::Plain | Packed::Compressed, Subformat::Dynamic) => {
                let place = self.placed.place(block);
                Some(self.layout.data_offset(place) + offset % BLOCK_SIZE)
            }
        })
    }

    /// The footer that most readers look for first, the copy at the beginning, comes last.
    fn finish(self: Box<Self>) -> Result<()> {
        self.grow()?;
        let footer = self.footer();
        let footer_offset = self.layout.footer_offset(self.placed.len());
        match self.settings.subformat {
            Subformat::Fixed => self.write(footer.as_bytes(), footer_offset),
            Subformat::Dynamic => {
                self.write_tables()?;
                self.write(footer.as_bytes(), footer_offset)?;
                self.write(footer.as_bytes(), 0)
            }
        }
    }
}
