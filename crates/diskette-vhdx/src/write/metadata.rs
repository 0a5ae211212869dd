//! The metadata region of a new image.

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use super::options::{Parent, Settings};
use crate::spec::{
    FILE_PARAMETERS, FileParameters, HAS_PARENT, ITEM_IS_REQUIRED, ITEM_IS_VIRTUAL_DISK,
    LEAVE_BLOCKS_ALLOCATED, LOGICAL_SECTOR_SIZE, METADATA_SIGNATURE, METADATA_TABLE_LEN,
    MetadataTableEntry, MetadataTableHeader, PARENT_LOCATOR, PHYSICAL_SECTOR_SIZE,
    ParentLocatorEntry, ParentLocatorHeader, VHDX_PARENT_LOCATOR, VIRTUAL_DISK_ID,
    VIRTUAL_DISK_SIZE,
};

/// The table, and the items behind it, in Hyper-V's order.
pub(super) fn metadata(settings: &Settings, disk_id: Uuid) -> Vec<u8> {
    let parameters = FileParameters {
        block_size: u32_of(settings.block_size),
        flags: match (settings.fixed, &settings.parent) {
            (true, _) => LEAVE_BLOCKS_ALLOCATED.into(),
            (false, Some(_)) => HAS_PARENT.into(),
            (false, None) => 0.into(),
        },
    };
    let of_disk = ITEM_IS_REQUIRED | ITEM_IS_VIRTUAL_DISK;
    let mut items = Items::default();
    items.add(FILE_PARAMETERS, ITEM_IS_REQUIRED, parameters.as_bytes());
    items.add(
        VIRTUAL_DISK_SIZE,
        of_disk,
        U64::new(settings.size).as_bytes(),
    );
    items.add(
        LOGICAL_SECTOR_SIZE,
        of_disk,
        U32::new(settings.logical_sector_size).as_bytes(),
    );
    items.add(
        PHYSICAL_SECTOR_SIZE,
        of_disk,
        U32::new(PHYSICAL_SECTOR).as_bytes(),
    );
    items.add(VIRTUAL_DISK_ID, of_disk, &disk_id.to_bytes_le());
    if let Some(parent) = &settings.parent {
        items.add(PARENT_LOCATOR, ITEM_IS_REQUIRED, &locator(parent));
    }
    items.bytes()
}

/// The parent locator: header, entries, and the keys and values that they lead to.
fn locator(parent: &Parent) -> Vec<u8> {
    let linkage = format!("{{{}}}", parent.data_write_guid);
    let pairs = [
        ("parent_linkage", linkage.as_str()),
        ("relative_path", parent.path.as_str()),
    ];
    let header = ParentLocatorHeader {
        locator_type: VHDX_PARENT_LOCATOR.to_bytes_le(),
        reserved: 0.into(),
        key_value_count: 2.into(),
    };
    let text_at = size_of::<ParentLocatorHeader>() + pairs.len() * size_of::<ParentLocatorEntry>();
    let (mut entries, mut text) = (Vec::new(), Vec::new());
    let mut add = |words: &str| {
        let at = text_at + text.len();
        text.extend(words.encode_utf16().flat_map(u16::to_le_bytes));
        // A path of at most 4096 characters.
        let len = u16::try_from(text_at + text.len() - at).unwrap_or(u16::MAX);
        (u32_of(at as u64), U16::new(len))
    };
    for (key, value) in pairs {
        let (key_offset, key_length) = add(key);
        let (value_offset, value_length) = add(value);
        entries.push(ParentLocatorEntry {
            key_offset,
            value_offset,
            key_length,
            value_length,
        });
    }
    [header.as_bytes(), entries.as_bytes(), &text].concat()
}

/// What disks and hosts have today; Hyper-V's default, too.
const PHYSICAL_SECTOR: u32 = 4096;

/// Items of the metadata.
#[derive(Default)]
struct Items {
    entries: Vec<MetadataTableEntry>,
    contents: Vec<u8>,
}

impl Items {
    fn add(&mut self, id: Uuid, flags: u32, content: &[u8]) {
        let offset = METADATA_TABLE_LEN + self.contents.len();
        self.entries.push(MetadataTableEntry {
            item_id: id.to_bytes_le(),
            offset: u32_of(offset as u64),
            length: u32_of(content.len() as u64),
            flags: flags.into(),
            reserved: 0.into(),
        });
        self.contents.extend_from_slice(content);
    }

    fn bytes(&self) -> Vec<u8> {
        let header = MetadataTableHeader {
            signature: METADATA_SIGNATURE,
            entry_count: u16::try_from(self.entries.len()).unwrap_or(u16::MAX).into(),
            ..MetadataTableHeader::new_zeroed()
        };
        let mut bytes = [header.as_bytes(), self.entries.as_bytes()].concat();
        bytes.resize(METADATA_TABLE_LEN, 0);
        bytes.extend_from_slice(&self.contents);
        bytes
    }
}

/// A few items, and a block of at most 256 MiB.
fn u32_of(number: u64) -> U32 {
    U32::new(u32::try_from(number).unwrap_or(u32::MAX))
}
