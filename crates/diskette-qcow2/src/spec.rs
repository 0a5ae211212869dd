//! The bytes, as the specification of QCOW2 draws them. Big-endian throughout. No logic.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `QFI` and 0xfb.
pub(crate) const MAGIC: u32 = 0x5146_49fb;
/// Bytes of a version 2 header.
pub(crate) const HEADER_V2_LEN: u32 = 72;
/// Bytes of the shortest version 3 header.
pub(crate) const HEADER_V3_LEN: u32 = 104;
/// Bytes of a version 3 header that has `compression_type`: what is written today.
pub(crate) const HEADER_V3_FULL_LEN: u32 = 112;

/// `cluster_bits` may be from here ...
pub(crate) const CLUSTER_BITS_MIN: u32 = 9;
/// ... to here.
pub(crate) const CLUSTER_BITS_MAX: u32 = 21;
/// The least `cluster_bits` of an image with extended L2 entries.
pub(crate) const EXTENDED_L2_CLUSTER_BITS_MIN: u32 = 14;
/// Most bytes of an L1 table.
pub(crate) const L1_TABLE_LEN_MAX: u64 = 32 << 20;
/// Most bytes of the refcount table.
pub(crate) const REFCOUNT_TABLE_LEN_MAX: u64 = 8 << 20;
/// The greatest `refcount_order`: 64 bits.
pub(crate) const REFCOUNT_ORDER_MAX: u32 = 6;
/// The `refcount_order` of version 2, and the usual one: 16 bits.
pub(crate) const REFCOUNT_ORDER_DEFAULT: u32 = 4;
/// Most bytes of a backing file's name.
pub(crate) const BACKING_NAME_LEN_MAX: u32 = 1023;

/// What both versions begin with.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    /// [`MAGIC`].
    pub magic: U32,
    /// 2 or 3.
    pub version: U32,
    /// Where the backing file's name lies, or 0.
    pub backing_file_offset: U64,
    /// Bytes of that name.
    pub backing_file_size: U32,
    /// A cluster has `1 << cluster_bits` bytes.
    pub cluster_bits: U32,
    /// The disk's size in bytes.
    pub size: U64,
    /// One of the `CRYPT_*` constants.
    pub crypt_method: U32,
    /// Entries of the active L1 table.
    pub l1_size: U32,
    /// Where the active L1 table lies.
    pub l1_table_offset: U64,
    /// Where the refcount table lies.
    pub refcount_table_offset: U64,
    /// Clusters of the refcount table.
    pub refcount_table_clusters: U32,
    /// Internal snapshots.
    pub nb_snapshots: U32,
    /// Where the snapshot table lies.
    pub snapshots_offset: U64,
}
const _: () = assert!(size_of::<Header>() == HEADER_V2_LEN as usize);

/// What version 3 adds, from byte 72 on. A field counts as absent where `header_length` ends before it.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct HeaderV3 {
    /// The `INCOMPATIBLE_*` bits: an unknown one forbids opening.
    pub incompatible_features: U64,
    /// The `COMPATIBLE_*` bits: an unknown one may be ignored.
    pub compatible_features: U64,
    /// The `AUTOCLEAR_*` bits: an unknown one is cleared by who writes.
    pub autoclear_features: U64,
    /// A refcount has `1 << refcount_order` bits.
    pub refcount_order: U32,
    /// Bytes of the header; extensions follow.
    pub header_length: U32,
    /// One of the `COMPRESSION_*` constants.
    pub compression_type: u8,
    /// Zero.
    pub padding: [u8; 7],
}
const _: () = assert!(size_of::<HeaderV3>() + size_of::<Header>() == HEADER_V3_FULL_LEN as usize);

/// `crypt_method`: none.
pub(crate) const CRYPT_NONE: u32 = 0;
/// `crypt_method`: AES-128-CBC.
pub(crate) const CRYPT_AES: u32 = 1;
/// `crypt_method`: LUKS.
pub(crate) const CRYPT_LUKS: u32 = 2;

/// Refcounts may be wrong; L1 and L2 are right.
pub(crate) const INCOMPATIBLE_DIRTY: u64 = 1 << 0;
/// Metadata is known to be bad.
pub(crate) const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
/// Guest data lies in another file.
pub(crate) const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
/// `compression_type` is not 0.
pub(crate) const INCOMPATIBLE_COMPRESSION_TYPE: u64 = 1 << 3;
/// L2 entries have 16 bytes, and a bitmap of 32 subclusters.
pub(crate) const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
/// All that are known.
pub(crate) const INCOMPATIBLE_KNOWN: u64 = INCOMPATIBLE_DIRTY
    | INCOMPATIBLE_CORRUPT
    | INCOMPATIBLE_DATA_FILE
    | INCOMPATIBLE_COMPRESSION_TYPE
    | INCOMPATIBLE_EXTENDED_L2;

/// Who writes may put off refcounts, with the dirty bit set.
pub(crate) const COMPATIBLE_LAZY_REFCOUNTS: u64 = 1 << 0;

/// The bitmaps extension is in step with the data.
pub(crate) const AUTOCLEAR_BITMAPS: u64 = 1 << 0;
/// The external data file is the whole disk by itself.
pub(crate) const AUTOCLEAR_DATA_FILE_RAW: u64 = 1 << 1;

/// All that are known.
pub(crate) const AUTOCLEAR_KNOWN: u64 = AUTOCLEAR_BITMAPS | AUTOCLEAR_DATA_FILE_RAW;

/// `compression_type`: raw deflate.
pub(crate) const COMPRESSION_DEFLATE: u8 = 0;
/// `compression_type`: Zstandard.
pub(crate) const COMPRESSION_ZSTD: u8 = 1;

/// What each header extension begins with. Its data is padded to a multiple of 8 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct ExtensionHeader {
    /// One of the `EXTENSION_*` constants.
    pub kind: U32,
    /// Bytes of its data.
    pub len: U32,
}

/// No more extensions.
pub(crate) const EXTENSION_END: u32 = 0;
/// The backing file's format, as text.
pub(crate) const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
/// A list of [`FeatureName`].
pub(crate) const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
/// A [`BitmapsExtension`].
pub(crate) const EXTENSION_BITMAPS: u32 = 0x2385_2875;
/// An [`EncryptionExtension`].
pub(crate) const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;
/// The external data file's name, as text. "DATA".
pub(crate) const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
/// Most bytes of a backing format's name.
pub(crate) const BACKING_FORMAT_LEN_MAX: u32 = 15;

/// The name of one feature bit.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct FeatureName {
    /// 0 incompatible, 1 compatible, 2 autoclear.
    pub word: u8,
    /// The bit's number.
    pub bit: u8,
    /// Padded with zeros.
    pub name: [u8; 46],
}
const _: () = assert!(size_of::<FeatureName>() == 48);

/// The known features' names, in the order in which they are written: word, bit, name.
pub(crate) const FEATURE_NAMES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// Where the persistent bitmaps are listed.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct BitmapsExtension {
    /// Bitmaps in the directory.
    pub nb_bitmaps: U32,
    /// Zero.
    pub reserved: U32,
    /// Bytes of the directory.
    pub directory_size: U64,
    /// Where the directory lies.
    pub directory_offset: U64,
}
const _: () = assert!(size_of::<BitmapsExtension>() == 24);

/// Most bitmaps of an image.
pub(crate) const BITMAPS_MAX: u32 = 65535;
/// Most bytes of a bitmap's directory entry, on the average.
pub(crate) const BITMAP_ENTRY_LEN_MAX: u64 = 1024;

/// An entry of the bitmap directory. Extra data and name follow, padded to a multiple of 8 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct BitmapEntry {
    /// Where the bitmap's table of clusters lies.
    pub table_offset: U64,
    /// Entries of that table.
    pub table_size: U32,
    /// `BITMAP_*` bits.
    pub flags: U32,
    /// 1: dirty tracking.
    pub kind: u8,
    /// A bit stands for `1 << granularity_bits` bytes of the disk.
    pub granularity_bits: u8,
    /// Bytes of the name.
    pub name_len: U16,
    /// Bytes of the extra data.
    pub extra_len: U32,
}
const _: () = assert!(size_of::<BitmapEntry>() == 24);

/// Most bytes of a bitmap's name.
pub(crate) const BITMAP_NAME_LEN_MAX: u64 = 1023;
/// Most bytes of a bitmap, in whole clusters.
pub(crate) const BITMAP_LEN_MAX: u64 = 512 << 20;
/// The bitmap was not saved properly.
pub(crate) const BITMAP_IN_USE: u32 = 1 << 0;
/// The bitmap records writes.
pub(crate) const BITMAP_AUTO: u32 = 1 << 1;
/// Entries of a bitmap's table: where the data lies, in clusters.
pub(crate) const BITMAP_TABLE_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Entries of a bitmap's table: all bits are ones. Only where there is no offset.
pub(crate) const BITMAP_TABLE_ALL_ONES: u64 = 1 << 0;

/// Where the LUKS header lies.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct EncryptionExtension {
    /// Host offset.
    pub offset: U64,
    /// Bytes.
    pub len: U64,
}

/// Entries of the L1 table: the L2 table's host offset; 0 where there is none.
pub(crate) const L1_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Entries of the L1 table: bits that are zero.
pub(crate) const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// Entries of L1 and L2 tables: what is pointed to has a refcount of exactly 1.
pub(crate) const COPIED: u64 = 1 << 63;
/// Entries of an L2 table: the cluster is compressed.
pub(crate) const L2_COMPRESSED: u64 = 1 << 62;
/// Standard entries of an L2 table: the cluster's host offset.
pub(crate) const L2_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Standard entries of an L2 table, version 3, not extended: the cluster reads as zeros.
pub(crate) const L2_ZERO: u64 = 1 << 0;
/// Standard entries of an L2 table: bits that are zero.
pub(crate) const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
/// Entries of the refcount table: the block's host offset; 0 where there is none.
pub(crate) const REFCOUNT_TABLE_OFFSET: u64 = 0xffff_ffff_ffff_fe00;
/// Entries of the refcount table: bits that are zero.
pub(crate) const REFCOUNT_TABLE_RESERVED: u64 = 0x1ff;

/// Host offsets of clusters and L2 tables are below this.
pub(crate) const HOST_OFFSET_END: u64 = 1 << 56;
/// Compressed clusters' lengths are counted in these.
pub(crate) const COMPRESSED_SECTOR: u64 = 512;

/// Subclusters of a cluster.
pub(crate) const SUBCLUSTERS: u32 = 32;

/// What an entry of the snapshot table begins with. Extra data, id and name follow; each entry begins at a multiple of
/// 8 bytes from the table's beginning.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct SnapshotEntry {
    /// Where the snapshot's L1 table lies.
    pub l1_table_offset: U64,
    /// Entries of that table.
    pub l1_size: U32,
    /// Bytes of the id.
    pub id_len: U16,
    /// Bytes of the name.
    pub name_len: U16,
    /// When it was taken, in seconds since 1970.
    pub date_seconds: U32,
    /// And nanoseconds.
    pub date_nanoseconds: U32,
    /// How long the guest had run, in nanoseconds.
    pub vm_clock_nanoseconds: U64,
    /// Bytes of saved machine state, where the extra data does not say.
    pub vm_state_size: U32,
    /// Bytes of the extra data.
    pub extra_len: U32,
}
const _: () = assert!(size_of::<SnapshotEntry>() == 40);

/// The known extra data of a snapshot. A field counts as absent where the extra data ends before it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct SnapshotExtra {
    /// Bytes of saved machine state.
    pub vm_state_size: U64,
    /// The disk's size when the snapshot was taken.
    pub disk_size: U64,
    /// Instructions executed; all ones: not counted.
    pub icount: U64,
}
const _: () = assert!(size_of::<SnapshotExtra>() == 24);

/// Most extra data of a snapshot.
pub(crate) const SNAPSHOT_EXTRA_LEN_MAX: u32 = 1024;
/// Most bytes of the snapshot table.
pub(crate) const SNAPSHOT_TABLE_LEN_MAX: u64 = 64 << 20;
/// Most snapshots of an image.
pub(crate) const SNAPSHOTS_MAX: u32 = 65536;
