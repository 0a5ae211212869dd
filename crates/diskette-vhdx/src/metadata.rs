//! The metadata region: its table, and the items that say what the disk is.

use std::collections::BTreeSet;

use diskette_core::{Error, Identity, Limits, Reference, Result, Storage, StorageExt};
use uuid::Uuid;
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

use crate::header::field;
use crate::locator::Locator;
use crate::region::Region;
use crate::spec::{
    FILE_PARAMETERS, FORMAT, FileParameters, HAS_PARENT, ITEM_IS_REQUIRED, ITEM_IS_USER,
    LEAVE_BLOCKS_ALLOCATED, LOGICAL_SECTOR_SIZE, MAX_DISK_SIZE, MAX_ITEM_LEN, MAX_LOCATOR_LEN,
    MAX_TABLE_ENTRIES, METADATA_SIGNATURE, METADATA_TABLE_LEN, MetadataTableEntry,
    MetadataTableHeader, PARENT_LOCATOR, PHYSICAL_SECTOR_SIZE, VIRTUAL_DISK_ID, VIRTUAL_DISK_SIZE,
};

/// The kind of identity that an image and its parent must have in common.
pub(crate) const SECTOR_SIZE: &str = "logical sector size";

/// What the metadata say of the disk.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    /// Bytes of a payload block: a power of two from 1 to 256 MiB.
    pub block_size: u64,
    /// Whether all blocks have a place from the start.
    pub fixed: bool,
    /// The disk's size in bytes: a multiple of the logical sector, at most 64 TiB.
    pub disk_size: u64,
    /// Where they say so.
    pub disk_size_at: u64,
    /// "Page 83": the same along a chain.
    pub disk_id: Uuid,
    /// 512 or 4096.
    pub logical_sector_size: u64,
    /// Where the parent is, if the disk is a differencing one.
    pub parent: Option<Locator>,
}

impl Metadata {
    /// Reads the items of the metadata region.
    pub(crate) fn read(storage: &dyn Storage, region: &Region, limits: &Limits) -> Result<Self> {
        let items = Items::read(storage, region)?;
        let (parameters, at) = items.get::<FileParameters>(FILE_PARAMETERS, "File Parameters")?;
        let block_size = field("FileParameters.BlockSize", at, parameters.block_size)
            .power_of_two_in(1 << 20..=256 << 20)?;
        limits.allow_granule("block's bytes", block_size)?;

        let logical_sector_size = items.sector_size(LOGICAL_SECTOR_SIZE, "Logical Sector Size")?;
        // Nothing depends on it here, but a file without it, or with nonsense there, is not sound.
        items.sector_size(PHYSICAL_SECTOR_SIZE, "Physical Sector Size")?;

        let (disk_size, disk_size_at) = items.get::<U64>(VIRTUAL_DISK_SIZE, "Virtual Disk Size")?;
        let disk_size = || field("VirtualDiskSize", disk_size_at, disk_size);
        disk_size().aligned_to(logical_sector_size)?;
        let disk_size = disk_size().within(0..=MAX_DISK_SIZE)?;

        let (disk_id, _) = items.get::<[u8; 16]>(VIRTUAL_DISK_ID, "Virtual Disk ID")?;
        let parent = match parameters.flags.get() & HAS_PARENT {
            0 => None,
            _ => Some(items.locator(limits)?),
        };
        Ok(Self {
            block_size,
            fixed: parameters.flags.get() & LEAVE_BLOCKS_ALLOCATED != 0,
            disk_size,
            disk_size_at,
            disk_id: Uuid::from_bytes_le(disk_id),
            logical_sector_size,
            parent,
        })
    }

    /// The image below, if the disk is a differencing one. Its logical sectors must be of the same size.
    pub(crate) fn backing(&self) -> Option<Reference> {
        let parent = self.parent.as_ref()?;
        Some(parent.reference().with_identity(self.sector_identity()))
    }

    /// A child's bitmaps count in the same sectors as its parent.
    pub(crate) fn sector_identity(&self) -> Identity {
        Identity {
            kind: SECTOR_SIZE,
            value: self.logical_sector_size.to_string(),
        }
    }
}

/// The metadata table, whose entries are sound and known as far as they are required.
struct Items<'a> {
    storage: &'a dyn Storage,
    region: &'a Region,
    entries: Vec<Item>,
}

/// A metadata item.
#[derive(Clone, Copy)]
struct Item {
    id: Uuid,
    is_user: bool,
    /// Host offset.
    offset: u64,
    len: u64,
    /// Where its entry lies.
    entry_at: u64,
}

impl<'a> Items<'a> {
    fn read(storage: &'a dyn Storage, region: &'a Region) -> Result<Self> {
        let mut bytes = vec![0; METADATA_TABLE_LEN];
        storage.read_padded(&mut bytes, region.offset)?;
        let mut items = Self {
            storage,
            region,
            entries: Vec::new(),
        };
        let mut seen = BTreeSet::new();
        for (index, entry) in table_entries(&bytes, region)?.iter().enumerate() {
            let item = Item::parse(entry, index, region)?;
            if !seen.insert((item.id, item.is_user)) {
                return Err(Error::malformed(
                    FORMAT,
                    format!("MetadataTableEntry[{index}].ItemId"),
                    item.entry_at,
                    item.id.to_string().as_str(),
                    "there is an entry of this item already",
                ));
            }
            items.entries.push(item);
        }
        Ok(items)
    }

    /// The item, which must be there.
    fn find(&self, id: Uuid, name: &'static str) -> Result<Item> {
        let found = self
            .entries
            .iter()
            .find(|item| item.id == id && !item.is_user);
        found.copied().ok_or_else(|| {
            Error::malformed(
                FORMAT,
                format!("metadata table: {name}"),
                self.region.offset,
                "",
                "no such entry",
            )
        })
    }

    /// The item's value, and where it lies.
    fn get<T: FromBytes>(&self, id: Uuid, name: &'static str) -> Result<(T, u64)> {
        let item = self.find(id, name)?;
        let len = size_of::<T>();
        field(
            format!("MetadataTableEntry.Length of {name}"),
            item.entry_at + 20,
            item.len,
        )
        .equal_to(len as u64)?;
        let bytes = self.storage.read_vec(len, item.offset)?;
        let value = T::read_from_bytes(&bytes)
            .map_err(|_cut| field(name, item.offset, len as u64).malformed("cut off"))?;
        Ok((value, item.offset))
    }

    fn sector_size(&self, id: Uuid, name: &'static str) -> Result<u64> {
        let (size, at) = self.get::<U32>(id, name)?;
        match size.get() {
            512 | 4096 => Ok(size.into()),
            _ => Err(field(name, at, size).malformed("neither 512 nor 4096")),
        }
    }

    fn locator(&self, limits: &Limits) -> Result<Locator> {
        let name = "Parent Locator";
        let item = self.find(PARENT_LOCATOR, name)?;
        let len = field(
            format!("MetadataTableEntry.Length of {name}"),
            item.entry_at + 20,
            item.len,
        )
        .within(0..=MAX_LOCATOR_LEN)?;
        limits.allow_descriptor(len)?;
        limits.keep(len)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        Locator::parse(&self.storage.read_vec(len, item.offset)?, item.offset)
    }
}

fn table_entries<'b>(bytes: &'b [u8], region: &Region) -> Result<&'b [MetadataTableEntry]> {
    let at = region.offset;
    let truncated = || field("MetadataTableHeader.EntryCount", at + 10, 0_u64).malformed("cut off");
    let (header, behind) =
        MetadataTableHeader::ref_from_prefix(bytes).map_err(|_cut| truncated())?;
    if header.signature != METADATA_SIGNATURE {
        return Err(Error::malformed(
            FORMAT,
            "MetadataTableHeader.Signature",
            at,
            String::from_utf8_lossy(&header.signature).as_ref(),
            "not \"metadata\"",
        ));
    }
    let count = field(
        "MetadataTableHeader.EntryCount",
        at + 10,
        header.entry_count,
    )
    .within(0..=MAX_TABLE_ENTRIES)?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let (entries, _) = <[MetadataTableEntry]>::ref_from_prefix_with_elems(behind, count)
        .map_err(|_cut| truncated())?;
    Ok(entries)
}

impl Item {
    fn parse(entry: &MetadataTableEntry, index: usize, region: &Region) -> Result<Self> {
        let entry_at = region.offset + 32 + 32 * index as u64;
        let id = Uuid::from_bytes_le(entry.item_id);
        let flags = entry.flags.get();
        let is_user = flags & ITEM_IS_USER != 0;
        let known = [
            FILE_PARAMETERS,
            VIRTUAL_DISK_SIZE,
            VIRTUAL_DISK_ID,
            LOGICAL_SECTOR_SIZE,
            PHYSICAL_SECTOR_SIZE,
            PARENT_LOCATOR,
        ];
        if flags & ITEM_IS_REQUIRED != 0 && (is_user || !known.contains(&id)) {
            let feature = format!("required metadata item {id}");
            return Err(Error::unsupported(FORMAT, feature));
        }
        let len = field(
            format!("MetadataTableEntry[{index}].Length"),
            entry_at + 20,
            entry.length,
        )
        .within(0..=MAX_ITEM_LEN)?;
        let offset = || {
            field(
                format!("MetadataTableEntry[{index}].Offset"),
                entry_at + 16,
                entry.offset,
            )
        };
        if len > 0 {
            offset().within(METADATA_TABLE_LEN as u64..=u64::MAX)?;
            let why = "the item reaches beyond the metadata region";
            if u64::from(entry.offset.get()) + len > region.len {
                return Err(offset().malformed(why));
            }
        }
        Ok(Self {
            id,
            is_user,
            // Within the region, or unused.
            offset: region.offset.saturating_add(entry.offset.get().into()),
            len,
            entry_at,
        })
    }
}
