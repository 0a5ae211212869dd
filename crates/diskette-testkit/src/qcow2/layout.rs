//! Lays out an image: header, guest data and L2 tables, L1 tables, snapshot table, refcounts.

use std::collections::BTreeMap;

use super::{Built, Cluster, Qcow2, Snapshot};

impl Qcow2 {
    /// The image's bytes.
    #[must_use]
    pub fn build(&self) -> Built {
        let mut file = File::new(self);
        file.allocate(&[]); // The header's cluster: filled at the end.
        let (l1_offset, l2_offsets) = file.write_tree(self, self.size, &self.clusters);
        let snapshots_offset = file.write_snapshots(self);
        let (refcount_table_offset, refcount_block_offsets) = file.write_refcounts();
        let table_clusters = file.table_clusters;
        let header = self.header(&Places {
            l1_offset,
            refcount_table_offset,
            table_clusters,
            snapshots_offset,
        });
        file.bytes[..header.len()].copy_from_slice(&header);
        Built {
            bytes: file.bytes,
            data_file: self.data_file.is_some().then_some(file.data_file),
            l1_offset,
            l2_offsets,
            refcount_table_offset,
            refcount_block_offsets,
            snapshots_offset,
            entries: self.entries(),
            entry_size: self.entry_size(),
        }
    }

    fn header(&self, places: &Places) -> Vec<u8> {
        let mut extensions = Vec::new();
        for (kind, data) in &self.extensions {
            extensions.extend(kind.to_be_bytes());
            extensions.extend(len_u32(data).to_be_bytes());
            extensions.extend(data);
            extensions.resize(extensions.len().next_multiple_of(8), 0);
        }
        extensions.extend([0; 8]);
        let name = self.backing.as_deref().unwrap_or_default().as_bytes();
        let name_at = u64::from(self.header_length) + extensions.len() as u64;

        let mut header = b"QFI\xfb".to_vec();
        header.extend(self.version.to_be_bytes());
        header.extend(if name.is_empty() { 0 } else { name_at }.to_be_bytes());
        header.extend(len_u32(name).to_be_bytes());
        header.extend(self.cluster_bits.to_be_bytes());
        header.extend(self.size.to_be_bytes());
        header.extend(0_u32.to_be_bytes()); // crypt_method
        header.extend(u32_of(self.l1_entries(self.size)).to_be_bytes());
        header.extend(places.l1_offset.to_be_bytes());
        header.extend(places.refcount_table_offset.to_be_bytes());
        header.extend(u32_of(places.table_clusters).to_be_bytes());
        header.extend(len_u32(&self.snapshots).to_be_bytes());
        header.extend(places.snapshots_offset.to_be_bytes());
        header.extend(self.incompatible_features().to_be_bytes());
        header.extend(self.compatible.to_be_bytes());
        header.extend(self.autoclear.to_be_bytes());
        header.extend(self.refcount_order.to_be_bytes());
        header.extend(self.header_length.to_be_bytes());
        header.push(self.compression_type);
        header.resize(index(u64::from(self.header_length)), 0);
        header.extend(extensions);
        header.extend(name);
        header
    }

    fn incompatible_features(&self) -> u64 {
        self.incompatible
            | u64::from(self.data_file.is_some()) << 2
            | u64::from(self.compression_type != 0) << 3
            | u64::from(self.extended_l2) << 4
    }

    /// Entries of an L1 table for a disk of `size` bytes.
    fn l1_entries(&self, size: u64) -> u64 {
        size.div_ceil(self.cluster_size() * self.entries())
    }

    /// Entries of an L2 table.
    fn entries(&self) -> u64 {
        self.cluster_size() / self.entry_size()
    }

    /// Bytes of an L2 entry.
    fn entry_size(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }
}

/// What the header says of the places of others.
struct Places {
    l1_offset: u64,
    refcount_table_offset: u64,
    table_clusters: u64,
    snapshots_offset: u64,
}

/// A file that grows, and the refcounts of its clusters.
struct File {
    bytes: Vec<u8>,
    data_file: Vec<u8>,
    refcounts: Vec<u64>,
    cluster_bits: u32,
    refcount_bits: u64,
    /// Host offset behind the last stream; 0 where the next one begins a cluster.
    packed_end: u64,
    table_clusters: u64,
}

impl File {
    fn new(image: &Qcow2) -> Self {
        Self {
            bytes: Vec::new(),
            data_file: Vec::new(),
            refcounts: Vec::new(),
            cluster_bits: image.cluster_bits,
            refcount_bits: 1 << image.refcount_order,
            packed_end: 0,
            table_clusters: 0,
        }
    }

    /// Puts `data` into clusters of its own, at least one.
    fn allocate(&mut self, data: &[u8]) -> u64 {
        let offset = self.bytes.len();
        let clusters = data.len().div_ceil(self.cluster_size()).max(1);
        self.bytes.extend(data);
        self.bytes
            .resize(offset + clusters * self.cluster_size(), 0);
        self.refcounts.resize(self.refcounts.len() + clusters, 1);
        self.packed_end = 0;
        offset as u64
    }

    /// Puts a stream behind the one before it, into a cluster that may already be in use.
    fn pack(&mut self, stream: &[u8]) -> u64 {
        let last = self.refcounts.len() - 1;
        let most = u64::MAX >> (64 - self.refcount_bits);
        if self.packed_end == 0 || self.refcounts[last] == most {
            let offset = self.allocate(stream);
            self.packed_end = offset + stream.len() as u64;
            return offset;
        }
        let start = self.packed_end;
        let end = index(start) + stream.len();
        self.refcounts[last] += 1;
        let clusters = end.div_ceil(self.cluster_size());
        self.refcounts.resize(clusters, 1);
        self.bytes.resize(clusters * self.cluster_size(), 0);
        self.bytes[index(start)..end].copy_from_slice(stream);
        let full = end.is_multiple_of(self.cluster_size());
        self.packed_end = if full { 0 } else { end as u64 };
        start
    }

    /// Clusters, the L2 tables that lead to them, and the L1 table that leads to these.
    fn write_tree(
        &mut self,
        image: &Qcow2,
        size: u64,
        clusters: &BTreeMap<u64, Cluster>,
    ) -> (u64, BTreeMap<u64, u64>) {
        let mut tables: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (guest, cluster) in clusters {
            let (entry, bitmap) = self.write_cluster(image, *guest, cluster);
            let table = tables
                .entry(guest / image.entries())
                .or_insert_with(|| vec![0; 1 << image.cluster_bits]);
            let at = index(guest % image.entries() * image.entry_size());
            table[at..at + 8].copy_from_slice(&entry.to_be_bytes());
            if image.extended_l2 {
                table[at + 8..at + 16].copy_from_slice(&bitmap.to_be_bytes());
            }
        }
        let l2_offsets: BTreeMap<u64, u64> = tables
            .iter()
            .map(|(index, table)| (*index, self.allocate(table)))
            .collect();
        let mut l1 = vec![0; index(image.l1_entries(size) * 8)];
        for (l1_index, offset) in &l2_offsets {
            l1[index(l1_index * 8)..][..8].copy_from_slice(&(offset | COPIED).to_be_bytes());
        }
        (self.allocate(&l1), l2_offsets)
    }

    /// Stores a cluster, and gives its L2 entry and bitmap.
    fn write_cluster(&mut self, image: &Qcow2, guest: u64, cluster: &Cluster) -> (u64, u64) {
        let zero_flag = u64::from(!image.extended_l2);
        match cluster {
            Cluster::Data(data) => (self.place(image, guest, data) | COPIED, ALL),
            Cluster::Zero => (zero_flag, ALL << 32),
            Cluster::ZeroAllocated(data) => {
                let offset = self.place(image, guest, data);
                (offset | COPIED | zero_flag, ALL << 32)
            }
            Cluster::Compressed(stream) => {
                let offset = self.pack(stream);
                let last = offset + stream.len().max(1) as u64 - 1;
                let sectors = last / 512 - offset / 512;
                (
                    COMPRESSED | sectors << (70 - image.cluster_bits) | offset,
                    0,
                )
            }
            Cluster::Subclusters {
                allocated,
                zero,
                data,
            } => {
                let offset = data.as_ref().map(|data| self.place(image, guest, data));
                (
                    offset.map_or(0, |offset| offset | COPIED),
                    u64::from(*zero) << 32 | u64::from(*allocated),
                )
            }
            Cluster::Entry(entry, bitmap) => (*entry, *bitmap),
        }
    }

    /// Stores a cluster's bytes in the image, or in its data file.
    fn place(&mut self, image: &Qcow2, guest: u64, data: &[u8]) -> u64 {
        if image.data_file.is_none() {
            return self.allocate(data);
        }
        let offset = guest * image.cluster_size();
        let end = index(offset + image.cluster_size());
        self.data_file.resize(self.data_file.len().max(end), 0);
        self.data_file[index(offset)..][..data.len()].copy_from_slice(data);
        offset
    }

    fn write_snapshots(&mut self, image: &Qcow2) -> u64 {
        let mut table = Vec::new();
        for snapshot in &image.snapshots {
            let (l1_offset, _) = self.write_tree(image, snapshot.disk_size, &snapshot.clusters);
            let l1_entries = image.l1_entries(snapshot.disk_size);
            table.extend(snapshot_entry(snapshot, l1_offset, l1_entries));
        }
        if table.is_empty() {
            0
        } else {
            self.allocate(&table)
        }
    }

    /// Refcount blocks and their table, which count themselves.
    fn write_refcounts(&mut self) -> (u64, Vec<u64>) {
        let per_block = (self.cluster_size() as u64 * 8 / self.refcount_bits).max(1);
        let used = self.refcounts.len() as u64;
        let (mut blocks, mut table_clusters) = (0, 0);
        loop {
            let wanted = (used + blocks + table_clusters).div_ceil(per_block);
            let wanted_table = (wanted * 8).div_ceil(self.cluster_size() as u64);
            if (wanted, wanted_table) == (blocks, table_clusters) {
                break;
            }
            (blocks, table_clusters) = (wanted, wanted_table);
        }
        let table_offset = self.bytes.len() as u64;
        let first_block = table_offset + (table_clusters << self.cluster_bits);
        let offsets: Vec<u64> = (0..blocks)
            .map(|block| first_block + (block << self.cluster_bits))
            .collect();
        let mut table: Vec<u8> = offsets.iter().flat_map(|at| at.to_be_bytes()).collect();
        table.resize(index(table_clusters << self.cluster_bits), 0);
        self.allocate(&table);
        self.refcounts
            .resize(index(used + table_clusters + blocks), 1);
        for counts in self.refcounts.clone().chunks(index(per_block)) {
            let mut block = self.block_of(counts);
            block.resize(self.cluster_size(), 0);
            self.bytes.extend(block);
        }
        self.table_clusters = table_clusters;
        (table_offset, offsets)
    }

    fn block_of(&self, counts: &[u64]) -> Vec<u8> {
        let bits = index(self.refcount_bits);
        if bits >= 8 {
            return counts
                .iter()
                .flat_map(|count| count.to_be_bytes()[8 - bits / 8..].to_vec())
                .collect();
        }
        // The first count lies in the least significant bits of a byte.
        counts
            .chunks(8 / bits)
            .map(|byte| {
                let shifted = byte
                    .iter()
                    .enumerate()
                    .map(|(i, count)| count << (i * bits));
                u8::try_from(shifted.fold(0, |all, one| all | one)).expect("counts fit their bits")
            })
            .collect()
    }

    const fn cluster_size(&self) -> usize {
        1 << self.cluster_bits
    }
}

fn snapshot_entry(snapshot: &Snapshot, l1_offset: u64, l1_entries: u64) -> Vec<u8> {
    let mut entry = Vec::new();
    entry.extend(l1_offset.to_be_bytes());
    entry.extend(u32_of(l1_entries).to_be_bytes());
    for text in [&snapshot.id, &snapshot.name] {
        let len = u16::try_from(text.len()).expect("a short name");
        entry.extend(len.to_be_bytes());
    }
    entry.extend(1_700_000_000_u32.to_be_bytes()); // date, seconds
    entry.extend(0_u32.to_be_bytes()); // date, nanoseconds
    entry.extend(5_000_000_000_u64.to_be_bytes()); // guest run time
    entry.extend(0_u32.to_be_bytes()); // vm state size
    entry.extend(24_u32.to_be_bytes()); // extra data
    entry.extend(0_u64.to_be_bytes()); // vm state size
    entry.extend(snapshot.disk_size.to_be_bytes());
    entry.extend(u64::MAX.to_be_bytes()); // icount: none
    entry.extend(snapshot.id.as_bytes());
    entry.extend(snapshot.name.as_bytes());
    entry.resize(entry.len().next_multiple_of(8), 0);
    entry
}

pub(super) fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("what is in memory has such offsets")
}

fn u32_of(count: u64) -> u32 {
    u32::try_from(count).expect("a count that the format can say")
}

fn len_u32<T>(items: &[T]) -> u32 {
    u32_of(items.len() as u64)
}

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// All subclusters of a cluster.
const ALL: u64 = 0xffff_ffff;
