//! The bytes as the specification draws them: VMware's "Virtual Disk Format 5.0", and what is known of COWD and
//! seSparse. All numbers are little-endian; offsets and sizes are in sectors of 512 bytes where nothing else is said.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `magic` of a hosted sparse extent.
pub(crate) const HOSTED_MAGIC: [u8; 4] = *b"KDMV";
/// What open-vmdk writes in its place until the file is complete.
pub(crate) const UNFINISHED_MAGIC: [u8; 4] = *b"kdmv";
/// `magic` of an ESX copy-on-write extent.
pub(crate) const COWD_MAGIC: [u8; 4] = *b"COWD";
/// `magic` of a seSparse extent: the first eight bytes.
pub(crate) const SE_SPARSE_MAGIC: [u8; 8] = [0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0];

/// `SparseExtentHeader` of a hosted sparse extent. In a stream it may stand a second time, as the footer.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct HostedHeader {
    /// `magicNumber`.
    pub magic: [u8; 4],
    /// 1; 2 with zeroed grains; 3 in streams of today.
    pub version: U32,
    /// See [`flags`].
    pub flags: U32,
    /// Sectors of the disk that this extent holds.
    pub capacity: U64,
    /// Sectors of one grain.
    pub grain_size: U64,
    /// Where the embedded descriptor begins; 0 if there is none.
    pub descriptor_offset: U64,
    /// Its size.
    pub descriptor_size: U64,
    /// Entries of one grain table.
    pub gtes_per_gt: U32,
    /// The redundant grain directory.
    pub rgd_offset: U64,
    /// The grain directory, or [`GD_AT_END`].
    pub gd_offset: U64,
    /// Sectors of metadata before the first grain.
    pub overhead: U64,
    /// 1 while the extent is open for writing.
    pub unclean_shutdown: u8,
    /// [`NEWLINES`], which a transfer as text would have changed.
    pub newlines: [u8; 4],
    /// See [`COMPRESSION_DEFLATE`].
    pub compress_algorithm: U16,
    /// Unused.
    pub pad: [u8; 433],
}
const _: () = assert!(size_of::<HostedHeader>() == 512);

/// `singleEndLineChar`, `nonEndLineChar`, `doubleEndLineChar1` and `doubleEndLineChar2`.
pub(crate) const NEWLINES: [u8; 4] = *b"\n \r\n";
/// `gdOffset` where the directory's place is told by the footer.
pub(crate) const GD_AT_END: u64 = u64::MAX;
/// `compressAlgorithm`: none.
pub(crate) const COMPRESSION_NONE: u16 = 0;
/// `compressAlgorithm`: deflate, in the zlib wrapping of RFC 1950.
pub(crate) const COMPRESSION_DEFLATE: u16 = 1;
/// `version` of a plain extent.
pub(crate) const VERSION: u32 = 1;
/// `version` with [`flags::ZEROED_GRAIN`].
pub(crate) const VERSION_ZEROED_GRAIN: u32 = 2;
/// `version` of a stream.
pub(crate) const VERSION_STREAM: u32 = 3;
/// The newest `version` that is known.
pub(crate) const HOSTED_VERSION_MAX: u64 = 3;

/// Bits of [`HostedHeader::flags`].
pub(crate) mod flags {
    /// The newline bytes are valid.
    pub(crate) const NEWLINES: u32 = 1 << 0;
    /// There is a redundant grain directory.
    pub(crate) const REDUNDANT: u32 = 1 << 1;
    /// A grain table's entry of 1 is a grain of zeros.
    pub(crate) const ZEROED_GRAIN: u32 = 1 << 2;
    /// Grains are compressed.
    pub(crate) const COMPRESSED: u32 = 1 << 16;
    /// Grains and tables are preceded by markers.
    pub(crate) const MARKERS: u32 = 1 << 17;
    /// The bits that a reader must not overlook.
    pub(crate) const INCOMPATIBLE: u32 = 0xffff_0000;
}

/// Sectors that an embedded descriptor takes where the header does not say.
pub(crate) const DESCRIPTOR_SECTORS: u64 = 20;
/// Entries of a hosted grain table, in practice.
pub(crate) const TABLE_ENTRIES: u32 = 512;
/// The entry of a hosted grain table for a grain of zeros.
pub(crate) const GTE_ZERO: u32 = 1;

/// Entries of each grain table of a stream-optimized extent, whoever wrote it.
pub(crate) const STREAM_TABLE_ENTRIES: u64 = 512;

/// The head of a piece of a stream: of a compressed grain (`size` is not 0, the data follow at once), or of a
/// metadata sector (`size` is 0, and `kind` says which).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Marker {
    /// Of a grain: its first sector on the disk. Of metadata: how many sectors follow the marker.
    pub value: U64,
    /// Bytes of compressed data.
    pub size: U32,
    /// See [`marker`].
    pub kind: U32,
}
/// The marker of a compressed grain: the data follow at once.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct GrainMarker {
    /// Its first sector on the disk.
    pub value: U64,
    /// Bytes of compressed data.
    pub size: U32,
}
const _: () = assert!(size_of::<GrainMarker>() == 12);
/// Bytes of a grain's marker.
pub(crate) const GRAIN_MARKER_LEN: u64 = size_of::<GrainMarker>() as u64;

/// Values of [`Marker::kind`].
pub(crate) mod marker {
    /// The end of the stream.
    pub(crate) const END_OF_STREAM: u32 = 0;
    /// A grain table follows.
    pub(crate) const GRAIN_TABLE: u32 = 1;
    /// The grain directory follows.
    pub(crate) const GRAIN_DIRECTORY: u32 = 2;
    /// The footer follows.
    pub(crate) const FOOTER: u32 = 3;
    /// Seen in newer exports of vSphere; nothing follows.
    pub(crate) const PROGRESS: u32 = 4;
}

/// `COWDisk_Header`: its first bytes, which are all that a reader needs.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct CowdHeader {
    /// `magicNumber`.
    pub magic: [u8; 4],
    /// 1.
    pub version: U32,
    /// 3.
    pub flags: U32,
    /// `numSectors`.
    pub capacity: U32,
    /// `granularity`: sectors of one grain.
    pub grain_size: U32,
    /// `rootOffset`: the grain directory.
    pub gd_offset: U32,
    /// `numRootEntries`.
    pub gd_entries: U32,
    /// The first sector that is not in use.
    pub free_sector: U32,
}
const _: () = assert!(size_of::<CowdHeader>() == 32);

/// Sectors of a COWD header.
pub(crate) const COWD_HEADER_SECTORS: u64 = 4;
/// Entries of a COWD grain table.
pub(crate) const COWD_TABLE_ENTRIES: u64 = 4096;

/// The constant header of a seSparse extent.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct SeSparseHeader {
    /// [`SE_SPARSE_MAGIC`].
    pub magic: [u8; 8],
    /// [`SE_SPARSE_VERSION`].
    pub version: U64,
    /// Sectors of the disk.
    pub capacity: U64,
    /// 8.
    pub grain_size: U64,
    /// 64: sectors of one grain table.
    pub grain_table_size: U64,
    /// 0.
    pub flags: U64,
    /// 0.
    pub reserved: [U64; 4],
    /// The volatile header.
    pub volatile_header: SeSparseArea,
    /// The journal's header.
    pub journal_header: SeSparseArea,
    /// The journal.
    pub journal: SeSparseArea,
    /// The grain directory.
    pub grain_directory: SeSparseArea,
    /// All grain tables, one behind the other.
    pub grain_tables: SeSparseArea,
    /// The bitmap of free grains.
    pub free_bitmap: SeSparseArea,
    /// From grains back to the disk.
    pub backmap: SeSparseArea,
    /// All grains, one behind the other.
    pub grains: SeSparseArea,
    /// 0.
    pub pad: [u8; 304],
}
const _: () = assert!(size_of::<SeSparseHeader>() == 512);

/// A stretch of a seSparse extent's file.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct SeSparseArea {
    /// Its first sector.
    pub offset: U64,
    /// Its sectors.
    pub size: U64,
}

/// The volatile header of a seSparse extent.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct SeSparseVolatileHeader {
    /// [`SE_SPARSE_VOLATILE_MAGIC`].
    pub magic: U64,
    /// The next grain table that is free.
    pub free_gt_number: U64,
    /// The next transaction.
    pub next_txn_seq_number: U64,
    /// Not 0 if the journal must be replayed first.
    pub replay_journal: U64,
    /// 0.
    pub pad: [u8; 480],
}
const _: () = assert!(size_of::<SeSparseVolatileHeader>() == 512);

/// Version 2.1, the only one known.
pub(crate) const SE_SPARSE_VERSION: u64 = 0x0000_0002_0000_0001;
/// `magic` of the volatile header.
pub(crate) const SE_SPARSE_VOLATILE_MAGIC: u64 = 0xcafe_cafe;
/// The only grain size, in sectors.
pub(crate) const SE_SPARSE_GRAIN_SECTORS: u64 = 8;
/// The only size of a grain table, in sectors.
pub(crate) const SE_SPARSE_TABLE_SECTORS: u64 = 64;
/// Entries of a grain table.
pub(crate) const SE_SPARSE_TABLE_ENTRIES: u64 = 4096;
/// The upper half of a directory's entry that names a table.
pub(crate) const SE_SPARSE_GDE_ALLOCATED: u64 = 0x1000_0000;

/// The uppermost four bits of a seSparse grain table's entry.
pub(crate) mod se_sparse_grain {
    /// Never written.
    pub(crate) const UNALLOCATED: u64 = 0;
    /// Given up by the guest: zeros.
    pub(crate) const UNMAPPED: u64 = 1;
    /// Zeros.
    pub(crate) const ZERO: u64 = 2;
    /// Stored.
    pub(crate) const ALLOCATED: u64 = 3;
}
