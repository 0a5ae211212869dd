//! The bytes of a VHDX file as [MS-VHDX] draws them. Little-endian throughout.
//!
//! ```text
//! 0        64K       128K      192K            256K            320K      1M
//! | ident  | header1 | header2 | region table1 | region table2 | reserved | log, metadata, BAT, blocks in any order
//! ```
//!
//! Every object behind the header section starts at a multiple of 1 MiB, and overlaps no other.

use diskette_core::{KIB, MIB};
use uuid::{Uuid, uuid};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The format's name.
pub(crate) const FORMAT: &str = "vhdx";

/// `FileTypeIdentifier.Signature`.
pub(crate) const FILE_SIGNATURE: [u8; 8] = *b"vhdxfile";

/// Where the two headers lie.
pub(crate) const HEADER_OFFSETS: [u64; 2] = [64 * KIB, 128 * KIB];
/// Bytes of a header, all of which its checksum covers.
pub(crate) const HEADER_LEN: usize = 4096;
/// Where the two region tables lie.
pub(crate) const REGION_TABLE_OFFSETS: [u64; 2] = [192 * KIB, 256 * KIB];
/// Bytes of a region table, all of which its checksum covers.
pub(crate) const REGION_TABLE_LEN: usize = 65536;
/// The header section: no other object begins before its end.
pub(crate) const HEADER_SECTION_LEN: u64 = MIB;
/// What every object is aligned to.
pub(crate) const ALIGNMENT: u64 = MIB;

/// The greatest virtual disk.
pub(crate) const MAX_DISK_SIZE: u64 = 64 << 40;
/// Longer files than this are not believed in: twice what the greatest disk needs.
pub(crate) const MAX_FILE_SIZE: u64 = 128 << 40;

/// Header ("Headers"). 4016 zero bytes follow.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    /// `head`.
    pub signature: [u8; 4],
    /// CRC-32C of the 4 KiB with this field zero.
    pub checksum: U32,
    /// The valid header with the greater number is current.
    pub sequence_number: U64,
    /// New before the first change of anything.
    pub file_write_guid: [u8; 16],
    /// New before the first change that a guest could see.
    pub data_write_guid: [u8; 16],
    /// Zero: the log is empty. Else only log entries that bear it are valid.
    pub log_guid: [u8; 16],
    /// 0.
    pub log_version: U16,
    /// 1.
    pub version: U16,
    /// A multiple of 1 MiB.
    pub log_length: U32,
    /// A multiple of 1 MiB.
    pub log_offset: U64,
}
const _: () = assert!(size_of::<Header>() == 80);

/// `Header.Signature`.
pub(crate) const HEADER_SIGNATURE: [u8; 4] = *b"head";

/// Region table header ("Region Table").
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RegionTableHeader {
    /// `regi`.
    pub signature: [u8; 4],
    /// CRC-32C of the 64 KiB with this field zero.
    pub checksum: U32,
    /// At most 2047.
    pub entry_count: U32,
    /// 0.
    pub reserved: U32,
}
const _: () = assert!(size_of::<RegionTableHeader>() == 16);

/// `RegionTableHeader.Signature`.
pub(crate) const REGION_TABLE_SIGNATURE: [u8; 4] = *b"regi";
/// Most entries of a region table, and of a metadata table.
pub(crate) const MAX_TABLE_ENTRIES: u64 = 2047;

/// Region table entry.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RegionTableEntry {
    /// Which region.
    pub guid: [u8; 16],
    /// A multiple of 1 MiB.
    pub file_offset: U64,
    /// A multiple of 1 MiB.
    pub length: U32,
    /// Bit 0: who does not know the region must not open the file.
    pub required: U32,
}
const _: () = assert!(size_of::<RegionTableEntry>() == 32);

/// The region of the block allocation table.
pub(crate) const BAT_REGION: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
/// The region of the metadata.
pub(crate) const METADATA_REGION: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");
/// `RegionTableEntry.Required`.
pub(crate) const REGION_REQUIRED: u32 = 1;

/// Metadata table header ("Metadata Table").
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct MetadataTableHeader {
    /// `metadata`.
    pub signature: [u8; 8],
    /// 0.
    pub reserved: U16,
    /// At most 2047.
    pub entry_count: U16,
    /// 0.
    pub reserved2: [u8; 20],
}
const _: () = assert!(size_of::<MetadataTableHeader>() == 32);

/// `MetadataTableHeader.Signature`.
pub(crate) const METADATA_SIGNATURE: [u8; 8] = *b"metadata";
/// Bytes of the metadata table; items lie behind it.
pub(crate) const METADATA_TABLE_LEN: usize = 65536;
/// Most bytes of a metadata item.
pub(crate) const MAX_ITEM_LEN: u64 = MIB;

/// Metadata table entry.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct MetadataTableEntry {
    /// Which item.
    pub item_id: [u8; 16],
    /// From the region's beginning.
    pub offset: U32,
    /// 0: the item is there, and empty.
    pub length: U32,
    /// `ITEM_...`.
    pub flags: U32,
    /// 0.
    pub reserved: U32,
}
const _: () = assert!(size_of::<MetadataTableEntry>() == 32);

/// `MetadataTableEntry.IsUser`.
pub(crate) const ITEM_IS_USER: u32 = 1 << 0;
/// `MetadataTableEntry.IsVirtualDisk`.
pub(crate) const ITEM_IS_VIRTUAL_DISK: u32 = 1 << 1;
/// `MetadataTableEntry.IsRequired`.
pub(crate) const ITEM_IS_REQUIRED: u32 = 1 << 2;

/// The item "File Parameters": `BlockSize`, and flags.
pub(crate) const FILE_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
/// The item "Virtual Disk Size".
pub(crate) const VIRTUAL_DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
/// The item "Virtual Disk ID", the identification that SCSI page 83 tells.
pub(crate) const VIRTUAL_DISK_ID: Uuid = uuid!("beca12ab-b2e6-4523-93ef-c309e000c746");
/// The item "Logical Sector Size".
pub(crate) const LOGICAL_SECTOR_SIZE: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
/// The item "Physical Sector Size".
pub(crate) const PHYSICAL_SECTOR_SIZE: Uuid = uuid!("cda348c7-445d-4471-9cc9-e9885251c556");
/// The item "Parent Locator".
pub(crate) const PARENT_LOCATOR: Uuid = uuid!("a8d35f2d-b30b-454d-abf7-d3d84834ab0c");

/// Contents of the item "File Parameters".
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct FileParameters {
    /// A power of two from 1 to 256 MiB.
    pub block_size: U32,
    /// Bit 0: `LeaveBlocksAllocated` (the disk is fixed). Bit 1: `HasParent`.
    pub flags: U32,
}

/// `FileParameters.LeaveBlocksAllocated`.
pub(crate) const LEAVE_BLOCKS_ALLOCATED: u32 = 1 << 0;
/// `FileParameters.HasParent`.
pub(crate) const HAS_PARENT: u32 = 1 << 1;

/// Parent locator header ("Parent Locator").
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ParentLocatorHeader {
    /// [`VHDX_PARENT_LOCATOR`].
    pub locator_type: [u8; 16],
    /// 0.
    pub reserved: U16,
    /// Entries that follow.
    pub key_value_count: U16,
}
const _: () = assert!(size_of::<ParentLocatorHeader>() == 20);

/// The one kind of parent locator there is: the parent is another VHDX.
pub(crate) const VHDX_PARENT_LOCATOR: Uuid = uuid!("b04aefb7-d19e-4a81-b789-25b8e9445913");
/// Most bytes of a parent locator that are believed in.
pub(crate) const MAX_LOCATOR_LEN: u64 = 64 * KIB;

/// Parent locator entry: a key and its value, both UTF-16. Offsets are from the item's beginning.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ParentLocatorEntry {
    pub key_offset: U32,
    pub value_offset: U32,
    pub key_length: U16,
    pub value_length: U16,
}
const _: () = assert!(size_of::<ParentLocatorEntry>() == 12);

/// Bits 0 to 2 of a BAT entry: its state.
pub(crate) const BAT_STATE_MASK: u64 = 0x7;
/// Bits 20 to 63 of a BAT entry: a file offset, a multiple of 1 MiB.
pub(crate) const BAT_OFFSET_MASK: u64 = !0xf_ffff;
/// Bits 3 to 19 of a BAT entry: zero.
pub(crate) const BAT_RESERVED_MASK: u64 = 0xf_fff8;

/// `PAYLOAD_BLOCK_NOT_PRESENT`, and `SB_BLOCK_NOT_PRESENT`.
pub(crate) const BLOCK_NOT_PRESENT: u64 = 0;
/// `PAYLOAD_BLOCK_UNDEFINED`.
pub(crate) const BLOCK_UNDEFINED: u64 = 1;
/// `PAYLOAD_BLOCK_ZERO`.
pub(crate) const BLOCK_ZERO: u64 = 2;
/// `PAYLOAD_BLOCK_UNMAPPED`.
pub(crate) const BLOCK_UNMAPPED: u64 = 3;
/// `PAYLOAD_BLOCK_UNMAPPED` of the draft 0.95.
pub(crate) const BLOCK_UNMAPPED_DRAFT: u64 = 5;
/// `PAYLOAD_BLOCK_FULLY_PRESENT`, and `SB_BLOCK_PRESENT`.
pub(crate) const BLOCK_FULLY_PRESENT: u64 = 6;
/// `PAYLOAD_BLOCK_PARTIALLY_PRESENT`.
pub(crate) const BLOCK_PARTIALLY_PRESENT: u64 = 7;

/// Bits of a sector bitmap block: logical sectors of a chunk.
pub(crate) const SECTORS_PER_CHUNK: u64 = 1 << 23;
/// Bytes of a sector bitmap block.
pub(crate) const SECTOR_BITMAP_LEN: u64 = MIB;

/// Bytes of the sectors that the log consists of.
pub(crate) const LOG_SECTOR: usize = 4096;

/// Log entry header ("Log Entry"). Descriptors follow at once, data sectors at the next sector.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct LogEntryHeader {
    /// `loge`.
    pub signature: [u8; 4],
    /// CRC-32C of the whole entry with this field zero.
    pub checksum: U32,
    /// A multiple of 4 KiB.
    pub entry_length: U32,
    /// Offset within the log of the oldest entry that was still needed when this one was written.
    pub tail: U32,
    /// One more than that of the entry before; never 0.
    pub sequence_number: U64,
    /// May be 0.
    pub descriptor_count: U32,
    /// 0.
    pub reserved: U32,
    /// [`Header::log_guid`].
    pub log_guid: [u8; 16],
    /// So long was the file on stable storage, at least.
    pub flushed_file_offset: U64,
    /// All structures of the file end at or before this.
    pub last_file_offset: U64,
}
const _: () = assert!(size_of::<LogEntryHeader>() == 64);

/// `LogEntryHeader.Signature`.
pub(crate) const LOG_ENTRY_SIGNATURE: [u8; 4] = *b"loge";

/// Data descriptor or zero descriptor; the signature tells which.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct LogDescriptor {
    /// `desc` or `zero`.
    pub signature: [u8; 4],
    /// `TrailingBytes`: the last bytes of the sector. Reserved in a zero descriptor.
    pub trailing_bytes: [u8; 4],
    /// `LeadingBytes`: the first bytes of the sector. In a zero descriptor, `ZeroLength`.
    pub leading_bytes: [u8; 8],
    /// A multiple of 4 KiB.
    pub file_offset: U64,
    /// The entry's.
    pub sequence_number: U64,
}
const _: () = assert!(size_of::<LogDescriptor>() == 32);

/// `DataDescriptor.Signature`.
pub(crate) const DATA_DESCRIPTOR_SIGNATURE: [u8; 4] = *b"desc";
/// `ZeroDescriptor.Signature`.
pub(crate) const ZERO_DESCRIPTOR_SIGNATURE: [u8; 4] = *b"zero";

/// Data sector: what lies between the leading and the trailing bytes of its descriptor.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct LogDataSector {
    /// `data`.
    pub signature: [u8; 4],
    /// The upper half of the entry's sequence number.
    pub sequence_high: U32,
    /// Bytes 8 to 4091 of the sector.
    pub data: [u8; 4084],
    /// The lower half of the entry's sequence number.
    pub sequence_low: U32,
}
const _: () = assert!(size_of::<LogDataSector>() == LOG_SECTOR);

/// `DataSector.DataSignature`.
pub(crate) const DATA_SECTOR_SIGNATURE: [u8; 4] = *b"data";
