//! The bytes, as the "Virtual Hard Disk Image Format Specification" draws them. Big-endian. No logic.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Begins a footer.
pub(crate) const COOKIE: [u8; 8] = *b"conectix";
/// Begins the footer of an image that XenServer has taken out of use.
pub(crate) const POISON: [u8; 8] = *b"v_poison";
/// Begins a dynamic header.
pub(crate) const DYNAMIC_COOKIE: [u8; 8] = *b"cxsparse";
/// Begins XenServer's batmap.
pub(crate) const BATMAP_COOKIE: [u8; 8] = *b"tdbatmap";
/// 1.0: the only version of footer and header.
pub(crate) const VERSION: u32 = 0x0001_0000;

/// "Features": the bit that is always set.
pub(crate) const FEATURE_RESERVED: u32 = 2;

/// "Disk Type": data, then the footer.
pub(crate) const TYPE_FIXED: u32 = 2;
/// "Disk Type": blocks that are made when they are written.
pub(crate) const TYPE_DYNAMIC: u32 = 3;
/// "Disk Type": dynamic, over a parent.
pub(crate) const TYPE_DIFFERENCING: u32 = 4;

/// A BAT entry of a block that is not there.
pub(crate) const BLOCK_ABSENT: u32 = 0xffff_ffff;

/// "Hard Disk Footer Format".
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct Footer {
    pub cookie: [u8; 8],
    /// Bit 1 is always set.
    pub features: U32,
    pub version: U32,
    /// Where the dynamic header lies, in bytes; all ones in a fixed image.
    pub data_offset: U64,
    /// Seconds since 2000-01-01.
    pub timestamp: U32,
    pub creator_application: [u8; 4],
    pub creator_version: U32,
    pub creator_host_os: [u8; 4],
    pub original_size: U64,
    pub current_size: U64,
    pub cylinders: U16,
    pub heads: u8,
    pub sectors_per_track: u8,
    pub disk_type: U32,
    /// One's complement of the sum of all bytes but these.
    pub checksum: U32,
    pub unique_id: [u8; 16],
    /// 1: the machine was suspended.
    pub saved_state: u8,
    /// XenServer's; reserved elsewhere.
    pub hidden: u8,
    pub reserved: [u8; 426],
}
const _: () = assert!(size_of::<Footer>() == 512);

/// "Dynamic Disk Header Format".
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct DynamicHeader {
    pub cookie: [u8; 8],
    /// Unused; all ones.
    pub data_offset: U64,
    /// Where the block allocation table begins, in bytes.
    pub table_offset: U64,
    pub header_version: U32,
    pub max_table_entries: U32,
    /// Bytes of a block's data.
    pub block_size: U32,
    pub checksum: U32,
    /// `unique_id` of the parent's footer.
    pub parent_unique_id: [u8; 16],
    /// When the parent was changed last. Copying a file changes it: nobody holds to it.
    pub parent_timestamp: U32,
    pub reserved: U32,
    /// UTF-16, big-endian.
    pub parent_unicode_name: [u8; 512],
    pub parent_locators: [ParentLocator; 8],
    pub reserved2: [u8; 256],
}
const _: () = assert!(size_of::<DynamicHeader>() == 1024);

/// "Parent Locator Entry".
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct ParentLocator {
    /// [`LOCATOR_RELATIVE`] and so on; zero in an empty slot.
    pub platform_code: [u8; 4],
    /// In sectors by the specification, in bytes by most writers: not used.
    pub platform_data_space: U32,
    /// Bytes of the name.
    pub platform_data_length: U32,
    pub reserved: U32,
    /// Where the name lies, in bytes.
    pub platform_data_offset: U64,
}

/// A relative path with backslashes, UTF-16LE.
pub(crate) const LOCATOR_RELATIVE: [u8; 4] = *b"W2ru";
/// An absolute path with backslashes, UTF-16LE; XenServer puts relative ones here.
pub(crate) const LOCATOR_ABSOLUTE: [u8; 4] = *b"W2ku";
/// A `file://` URL, UTF-8.
pub(crate) const LOCATOR_URL: [u8; 4] = *b"MacX";

/// XenServer's batmap header, up to the key hash.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct BatmapHeader {
    pub cookie: [u8; 8],
    /// Where the map lies, in bytes.
    pub offset: U64,
    /// Of the map, in sectors.
    pub size: U32,
    pub version: U32,
    pub checksum: U32,
    pub marker: u8,
    /// 1: the disk's content is encrypted.
    pub key_hash_cookie: u8,
}
