//! The header of a new hosted sparse extent.

use diskette_core::SECTOR;
use zerocopy::IntoBytes;

use crate::spec::{self, HostedHeader, flags};

/// Bytes of a grain.
pub(super) const GRAIN: u64 = 64 << 10;
/// The same, as a chunk's size.
pub(super) const GRAIN_CHUNK: u32 = 64 << 10;
/// The same, of a buffer.
pub(super) const GRAIN_LEN: usize = 64 << 10;
/// Entries of a grain table.
pub(super) const TABLE_ENTRIES: u64 = spec::TABLE_ENTRIES as u64;
/// Bytes of a grain table.
pub(super) const TABLE_LEN: u64 = TABLE_ENTRIES * 4;
/// Bytes of the disk under one grain table.
pub(super) const TABLE_COVERS: u64 = TABLE_ENTRIES * GRAIN;

/// What differs from header to header. Places are in sectors.
#[derive(Clone, Copy, Debug)]
pub(super) struct New {
    /// Bytes of the disk.
    pub size: u64,
    /// Whether a descriptor follows the header.
    pub descriptor: bool,
    pub redundant_directory: Option<u64>,
    pub directory: u64,
    pub overhead: u64,
    pub zeroed_grain: bool,
    pub compressed: bool,
}

/// The bytes of a header.
pub(super) fn header(new: New) -> [u8; 512] {
    let mut bits = flags::NEWLINES;
    for (wanted, bit) in [
        (new.redundant_directory.is_some(), flags::REDUNDANT),
        (new.zeroed_grain, flags::ZEROED_GRAIN),
        (new.compressed, flags::COMPRESSED | flags::MARKERS),
    ] {
        bits |= if wanted { bit } else { 0 };
    }
    let version = match (new.compressed, new.zeroed_grain) {
        (true, _) => spec::VERSION_STREAM,
        (false, true) => spec::VERSION_ZEROED_GRAIN,
        (false, false) => spec::VERSION,
    };
    let (descriptor_offset, descriptor_size) = match new.descriptor {
        true => (1, spec::DESCRIPTOR_SECTORS),
        false => (0, 0),
    };
    let header = HostedHeader {
        magic: spec::HOSTED_MAGIC,
        version: version.into(),
        flags: bits.into(),
        capacity: (new.size / SECTOR).into(),
        grain_size: (GRAIN / SECTOR).into(),
        descriptor_offset: descriptor_offset.into(),
        descriptor_size: descriptor_size.into(),
        gtes_per_gt: spec::TABLE_ENTRIES.into(),
        rgd_offset: new.redundant_directory.unwrap_or(0).into(),
        gd_offset: new.directory.into(),
        overhead: new.overhead.into(),
        unclean_shutdown: 0,
        newlines: spec::NEWLINES,
        compress_algorithm: match new.compressed {
            true => spec::COMPRESSION_DEFLATE.into(),
            false => spec::COMPRESSION_NONE.into(),
        },
        pad: [0; 433],
    };
    let mut bytes = [0; 512];
    bytes.copy_from_slice(header.as_bytes());
    bytes
}
