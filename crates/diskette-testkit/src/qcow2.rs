//! QCOW2 images made from the format's description, by other hands than our writer's.
//!
//! ```
//! use diskette_testkit::qcow2::{Cluster, Qcow2};
//!
//! let mut image = Qcow2::v3(1 << 20)
//!     .cluster(0, Cluster::Data(b"hello".to_vec()))
//!     .cluster(2, Cluster::Zero)
//!     .build();
//! // And now a lie: the first cluster lies where no cluster can begin.
//! let entry = image.l2_entry_at(0);
//! image.put_u64(entry, 1 << 63 | 0x1_0200);
//! ```

mod layout;

use std::collections::BTreeMap;

/// A QCOW2 image to be built. Fields may lie: nothing is checked.
#[derive(Clone, Debug)]
pub struct Qcow2 {
    /// `version`: 2 or 3.
    pub version: u32,
    /// The disk's size in bytes.
    pub size: u64,
    /// `cluster_bits`.
    pub cluster_bits: u32,
    /// `refcount_order`; version 2 has no such field, and means 4.
    pub refcount_order: u32,
    /// `header_length`; version 2 has no such field, and means 72.
    pub header_length: u32,
    /// `compression_type`: 0 is deflate, 1 is zstd.
    pub compression_type: u8,
    /// Whether L2 entries have bitmaps of subclusters.
    pub extended_l2: bool,
    /// More bits of `incompatible_features`, beside those that follow from the other fields.
    pub incompatible: u64,
    /// `compatible_features`.
    pub compatible: u64,
    /// `autoclear_features`.
    pub autoclear: u64,
    /// The backing image's name.
    pub backing: Option<String>,
    /// The data file's name. With one, plain clusters go into the data file.
    pub data_file: Option<String>,
    /// Header extensions: type and data. Where there is a backing format it is one of these.
    pub extensions: Vec<(u32, Vec<u8>)>,
    /// Guest clusters by their index; unallocated where there is none.
    pub clusters: BTreeMap<u64, Cluster>,
    /// Internal snapshots, each with clusters of its own.
    pub snapshots: Vec<Snapshot>,
}

/// What an L2 entry leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// A cluster with these bytes, and zeros up to its end.
    Data(Vec<u8>),
    /// Zeros without a place.
    Zero,
    /// Zeros with a place, where these bytes lie that nobody may see.
    ZeroAllocated(Vec<u8>),
    /// A compressed stream, packed behind the one before it.
    Compressed(Vec<u8>),
    /// Subclusters, by the bits of an extended entry: allocated ones, and those that read as zeros. `None` has no
    /// place.
    Subclusters {
        /// Bit `i`: subcluster `i` is stored.
        allocated: u32,
        /// Bit `i`: subcluster `i` reads as zeros.
        zero: u32,
        /// The cluster's bytes.
        data: Option<Vec<u8>>,
    },
    /// An entry, and its bitmap, as given. Nothing is stored.
    Entry(u64, u64),
}

/// An internal snapshot to be built.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Unique.
    pub id: String,
    /// By the user.
    pub name: String,
    /// The disk's size when it was taken.
    pub disk_size: u64,
    /// Guest clusters by their index.
    pub clusters: BTreeMap<u64, Cluster>,
}

/// An image that has been built, and where its parts lie.
#[derive(Clone, Debug)]
pub struct Built {
    /// The file.
    pub bytes: Vec<u8>,
    /// The data file, where there is one.
    pub data_file: Option<Vec<u8>>,
    /// Host offset of the L1 table.
    pub l1_offset: u64,
    /// Host offset of each L2 table, by its index in the L1 table.
    pub l2_offsets: BTreeMap<u64, u64>,
    /// Host offset of the refcount table.
    pub refcount_table_offset: u64,
    /// Host offset of each refcount block.
    pub refcount_block_offsets: Vec<u64>,
    /// Host offset of the snapshot table; 0 where there is none.
    pub snapshots_offset: u64,
    /// Entries of an L2 table.
    entries: u64,
    /// Bytes of an L2 entry.
    entry_size: u64,
}

impl Qcow2 {
    /// A version 3 image of `size` bytes, as qemu-img makes it: clusters of 64 KiB, refcounts of 16 bits.
    #[must_use]
    pub const fn v3(size: u64) -> Self {
        Self {
            version: 3,
            size,
            cluster_bits: 16,
            refcount_order: 4,
            header_length: 112,
            compression_type: 0,
            extended_l2: false,
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            backing: None,
            data_file: None,
            extensions: Vec::new(),
            clusters: BTreeMap::new(),
            snapshots: Vec::new(),
        }
    }

    /// A version 2 image of `size` bytes.
    #[must_use]
    pub const fn v2(size: u64) -> Self {
        let mut image = Self::v3(size);
        image.version = 2;
        image.header_length = 72;
        image
    }

    /// The same, with clusters of `1 << bits` bytes.
    #[must_use]
    pub const fn cluster_bits(mut self, bits: u32) -> Self {
        self.cluster_bits = bits;
        self
    }

    /// The same, with refcounts of `1 << order` bits.
    #[must_use]
    pub const fn refcount_order(mut self, order: u32) -> Self {
        self.refcount_order = order;
        self
    }

    /// The same, with streams that are zstd frames.
    #[must_use]
    pub const fn zstd(mut self) -> Self {
        self.compression_type = 1;
        self
    }

    /// The same, with extended L2 entries.
    #[must_use]
    pub const fn extended_l2(mut self) -> Self {
        self.extended_l2 = true;
        self
    }

    /// The same, over a backing image of this format.
    #[must_use]
    pub fn backing(mut self, name: &str, format: &str) -> Self {
        self.backing = Some(name.to_owned());
        self.extension(BACKING_FORMAT, format.as_bytes())
    }

    /// The same, with guest data in a file of its own.
    #[must_use]
    pub fn data_file(mut self, name: &str) -> Self {
        self.data_file = Some(name.to_owned());
        self.extension(DATA_FILE_NAME, name.as_bytes())
    }

    /// The same, with one more header extension.
    #[must_use]
    pub fn extension(mut self, kind: u32, data: &[u8]) -> Self {
        self.extensions.push((kind, data.to_vec()));
        self
    }

    /// The same, with this at the guest cluster `index`.
    #[must_use]
    pub fn cluster(mut self, index: u64, cluster: Cluster) -> Self {
        self.clusters.insert(index, cluster);
        self
    }

    /// The same, with one more internal snapshot.
    #[must_use]
    pub fn snapshot(mut self, snapshot: Snapshot) -> Self {
        self.snapshots.push(snapshot);
        self
    }

    /// Bytes of a cluster.
    #[must_use]
    pub const fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }
}

impl Built {
    /// Host offset of the L2 entry of the guest cluster `index`, whose L2 table must exist.
    #[must_use]
    pub fn l2_entry_at(&self, index: u64) -> u64 {
        self.l2_offsets[&(index / self.entries)] + index % self.entries * self.entry_size
    }

    /// The number at a host offset.
    #[must_use]
    pub fn u64_at(&self, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.bytes[layout::index(offset)..][..8]);
        u64::from_be_bytes(bytes)
    }

    /// Puts another number of 64 bits at a host offset.
    pub fn put_u64(&mut self, offset: u64, value: u64) {
        self.put(offset, &value.to_be_bytes());
    }

    /// Puts another number of 32 bits at a host offset.
    pub fn put_u32(&mut self, offset: u64, value: u32) {
        self.put(offset, &value.to_be_bytes());
    }

    /// Puts other bytes at a host offset.
    pub fn put(&mut self, offset: u64, bytes: &[u8]) {
        self.bytes[layout::index(offset)..][..bytes.len()].copy_from_slice(bytes);
    }
}

/// The header extension that names the backing image's format.
pub const BACKING_FORMAT: u32 = 0xe279_2aca;
/// The header extension that names the data file.
pub const DATA_FILE_NAME: u32 = 0x4441_5441;

#[cfg(test)]
mod tests;
