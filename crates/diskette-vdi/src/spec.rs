//! The bytes, as VirtualBox's headers draw them. Little-endian; UUIDs in mixed-endian order. No logic.

use std::mem::offset_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where [`SIGNATURE`] lies. The 64 bytes of text before it are free.
pub(crate) const SIGNATURE_OFFSET: usize = 64;
/// 0xBEDA107F.
pub(crate) const SIGNATURE: [u8; 4] = [0x7f, 0x10, 0xda, 0xbe];

/// Where the version lies.
pub(crate) const VERSION_OFFSET: usize = 68;
/// Version 1.1: every VirtualBox in use.
pub(crate) const VERSION_1_1: u32 = 0x0001_0001;
/// Version 0.2: before VirtualBox 1.0.
pub(crate) const VERSION_0_2: u32 = 2;

/// An entry of the map: no data here; a parent shows through.
pub(crate) const BLOCK_FREE: u32 = 0xffff_ffff;
/// An entry of the map: zeros, whatever a parent has.
pub(crate) const BLOCK_ZERO: u32 = 0xffff_fffe;

/// What every version begins with.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct PreHeader {
    /// Free text.
    pub text: [u8; 64],
    /// [`SIGNATURE`].
    pub signature: [u8; 4],
    /// Major version in the upper half.
    pub version: U32,
}
const _: () = assert!(size_of::<PreHeader>() == 72);

/// Version 1.1, from byte 72 on.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header11 {
    /// Bytes of the header, counted from here.
    pub header_size: U32,
    /// 1 dynamic, 2 static, 3 undo, 4 differencing.
    pub image_type: U32,
    /// Bit 0: expand with zeros.
    pub flags: U32,
    /// UTF-8.
    pub comment: [u8; 256],
    /// Where the map lies, in bytes.
    pub map_offset: U32,
    /// Where the first block lies, in bytes.
    pub data_offset: U32,
    /// Cylinders, heads, sectors; unused.
    pub geometry: [U32; 3],
    /// Bytes of a sector.
    pub sector_size: U32,
    /// Unused.
    pub unused: U32,
    /// Bytes of the disk.
    pub disk_size: U64,
    /// Bytes of a block.
    pub block_size: U32,
    /// Bytes before each block's data.
    pub block_extra: U32,
    /// Entries of the map.
    pub block_count: U32,
    /// Entries of the map that lead to data.
    pub allocated_count: U32,
    /// This image.
    pub image_uuid: [u8; 16],
    /// Changes with the contents.
    pub modification_uuid: [u8; 16],
    /// The parent image.
    pub parent_uuid: [u8; 16],
    /// The parent's `modification_uuid` when this image was made.
    pub parent_modification_uuid: [u8; 16],
}
const _: () = assert!(size_of::<Header11>() == 456 - 72);
/// Where version 1.1 has the image's UUID.
pub(crate) const IMAGE_UUID_OFFSET_1_1: usize = 72 + offset_of!(Header11, image_uuid);

/// Version 1.1 where `header_size` is [`HEADER_SIZE_LCHS`], from byte 456 on: cylinders, heads, sectors, bytes of a sector.
pub(crate) type Lchs = [U32; 4];

/// Bytes of a header up to its [`Lchs`], counted from byte 72 on.
pub(crate) const HEADER_SIZE_LCHS: u32 = 0x190;

/// `image_type`: blocks that are made when they are written.
pub(crate) const TYPE_DYNAMIC: u32 = 1;
/// `image_type`: all blocks are there from the start.
pub(crate) const TYPE_STATIC: u32 = 2;
/// `image_type`: dynamic, over a parent.
pub(crate) const TYPE_DIFFERENCING: u32 = 4;

/// Version 0.2, from byte 72 on.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header02 {
    /// As in 1.1.
    pub image_type: U32,
    /// As in 1.1.
    pub flags: U32,
    /// UTF-8.
    pub comment: [u8; 256],
    /// Cylinders, heads, sectors, bytes of a sector.
    pub geometry: [U32; 4],
    /// Bytes of the disk.
    pub disk_size: U64,
    /// Bytes of a block.
    pub block_size: U32,
    /// Entries of the map.
    pub block_count: U32,
    /// Entries of the map that lead to data.
    pub allocated_count: U32,
    /// This image.
    pub image_uuid: [u8; 16],
    /// Changes with the contents.
    pub modification_uuid: [u8; 16],
    /// The parent image.
    pub parent_uuid: [u8; 16],
}
const _: () = assert!(size_of::<Header02>() == 420 - 72);
/// Where version 0.2 has the image's UUID.
pub(crate) const IMAGE_UUID_OFFSET_0_2: usize = 72 + offset_of!(Header02, image_uuid);
