//! The numbers that follow from the size of a cluster, an L2 entry and a refcount.

use std::ops::Range;

use diskette_core::round_down;

use crate::entry::L2Entry;
use crate::spec;

/// Sizes of an image's parts. Only sound combinations exist: 9 to 21 cluster bits (14 at least with extended L2
/// entries), a refcount order of 6 at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    cluster_bits: u32,
    extended_l2: bool,
    refcount_order: u32,
}

/// A guest offset, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Which entry of the L1 table.
    pub l1_index: u64,
    /// Which entry of the L2 table.
    pub l2_index: u64,
    /// Bytes from the cluster's beginning.
    pub within: u64,
}

/// Where a compressed cluster's stream lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    /// The first byte's host offset; any alignment.
    pub offset: u64,
    /// Bytes up to the end of the last sector that the stream touches: at most two clusters.
    pub len: u64,
}

impl Geometry {
    /// The geometry of these sizes, if they are sound.
    pub(crate) fn new(cluster_bits: u32, extended_l2: bool, refcount_order: u32) -> Option<Self> {
        let least = if extended_l2 {
            spec::EXTENDED_L2_CLUSTER_BITS_MIN
        } else {
            spec::CLUSTER_BITS_MIN
        };
        let sound = (least..=spec::CLUSTER_BITS_MAX).contains(&cluster_bits)
            && refcount_order <= spec::REFCOUNT_ORDER_MAX;
        sound.then_some(Self {
            cluster_bits,
            extended_l2,
            refcount_order,
        })
    }

    /// A cluster has `1 << cluster_bits` bytes.
    pub(crate) const fn cluster_bits(self) -> u32 {
        self.cluster_bits
    }

    /// Bytes of a cluster.
    pub(crate) const fn cluster_size(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of a cluster, as a length in memory.
    pub(crate) const fn cluster_len(self) -> usize {
        1 << self.cluster_bits
    }

    /// Whether L2 entries have a bitmap of subclusters.
    pub(crate) const fn extended_l2(self) -> bool {
        self.extended_l2
    }

    /// Bytes of a subcluster, in an image with extended L2 entries.
    pub(crate) const fn subcluster_size(self) -> u64 {
        self.cluster_size() / spec::SUBCLUSTERS as u64
    }

    /// Bytes of an L2 entry.
    pub(crate) const fn l2_entry_size(self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Entries of an L2 table.
    pub(crate) const fn l2_entries(self) -> u64 {
        self.cluster_size() / self.l2_entry_size()
    }

    /// Bytes of the disk that one L2 table covers: 2^39 at most.
    pub(crate) const fn l2_coverage(self) -> u64 {
        self.l2_entries() << self.cluster_bits
    }

    /// L1 entries that a disk of `size` bytes needs.
    pub(crate) const fn l1_entries(self, size: u64) -> u64 {
        size.div_ceil(self.l2_coverage())
    }

    /// Which entries of the tables lead to a guest offset.
    pub(crate) const fn split(self, guest: u64) -> Position {
        Position {
            l1_index: guest / self.l2_coverage(),
            l2_index: (guest >> self.cluster_bits) % self.l2_entries(),
            within: guest % self.cluster_size(),
        }
    }

    /// The guest offset at which a cluster begins. The L1 index is that of a guest offset, or below 2^24.
    pub(crate) const fn cluster_start(self, l1_index: u64, l2_index: u64) -> u64 {
        l1_index * self.l2_coverage() + (l2_index << self.cluster_bits)
    }

    /// The number of clusters that hold `len` bytes.
    pub(crate) const fn clusters(self, len: u64) -> u64 {
        len.div_ceil(self.cluster_size())
    }

    /// The host clusters that hold `len` bytes from an offset on.
    pub(crate) const fn cluster_range(self, offset: u64, len: u64) -> Range<u64> {
        let end = self.clusters(offset.saturating_add(len));
        let first = offset >> self.cluster_bits;
        first..if len == 0 { first } else { end }
    }

    /// Whether a host offset is one of a cluster.
    pub(crate) const fn is_aligned(self, offset: u64) -> bool {
        offset.is_multiple_of(self.cluster_size())
    }

    /// A refcount has `1 << refcount_order` bits.
    pub(crate) const fn refcount_order(self) -> u32 {
        self.refcount_order
    }

    /// Bits of a refcount.
    pub(crate) const fn refcount_bits(self) -> u32 {
        1 << self.refcount_order
    }

    /// The greatest refcount.
    pub(crate) const fn refcount_max(self) -> u64 {
        u64::MAX >> (64 - self.refcount_bits())
    }

    /// Refcounts of a refcount block.
    pub(crate) const fn refcounts_per_block(self) -> u64 {
        (self.cluster_size() * 8) >> self.refcount_order
    }

    /// The stream that a compressed entry leads to.
    pub(crate) const fn stream(self, entry: L2Entry) -> Stream {
        let offset_bits = self.stream_offset_bits();
        let offset = entry.0 & ((1 << offset_bits) - 1);
        let more = (entry.0 & !(spec::COPIED | spec::L2_COMPRESSED)) >> offset_bits;
        Stream {
            offset,
            len: (more + 1) * spec::COMPRESSED_SECTOR - offset % spec::COMPRESSED_SECTOR,
        }
    }

    /// The compressed entry for a stream of `len` bytes (1 to two clusters) at a host offset, if the entry can hold
    /// the offset.
    pub(crate) const fn compressed(self, offset: u64, len: u64) -> Option<L2Entry> {
        let offset_bits = self.stream_offset_bits();
        if offset >= spec::HOST_OFFSET_END || offset >> offset_bits != 0 || len == 0 {
            return None;
        }
        let last = offset + (len - 1);
        let more = last / spec::COMPRESSED_SECTOR - offset / spec::COMPRESSED_SECTOR;
        if more >> (62 - offset_bits) != 0 {
            return None;
        }
        Some(L2Entry(spec::L2_COMPRESSED | more << offset_bits | offset))
    }

    /// Bits of the offset in a compressed entry; 49 to 61.
    const fn stream_offset_bits(self) -> u32 {
        62 - (self.cluster_bits - 8)
    }
}

impl Stream {
    /// The host clusters that the stream touches, as offsets of the first and the last.
    pub(crate) const fn host_clusters(self, geometry: Geometry) -> (u64, u64) {
        let last = self.offset.saturating_add(self.len - 1);
        (
            round_down(self.offset, geometry.cluster_size()),
            round_down(last, geometry.cluster_size()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(cluster_bits: u32) -> Geometry {
        Geometry::new(cluster_bits, false, 4).unwrap()
    }

    #[test]
    fn the_numbers_are_those_of_the_reference() {
        for (bits, entries, coverage, refcounts, offset_bits) in [
            (9, 64, 32 << 10, 256, 61),
            (16, 8192, 512 << 20, 32768, 54),
            (21, 262_144, 512 << 30, 1 << 20, 49),
        ] {
            let geometry = geometry(bits);
            assert_eq!(geometry.l2_entries(), entries);
            assert_eq!(geometry.l2_coverage(), coverage);
            assert_eq!(geometry.refcounts_per_block(), refcounts);
            assert_eq!(geometry.stream_offset_bits(), offset_bits);
        }
        assert!(Geometry::new(8, false, 4).is_none());
        assert!(Geometry::new(22, false, 4).is_none());
        assert!(Geometry::new(13, true, 4).is_none());
        assert!(Geometry::new(16, false, 7).is_none());
        assert_eq!(Geometry::new(16, true, 0).unwrap().refcount_max(), 1);
        assert_eq!(Geometry::new(16, true, 6).unwrap().refcount_max(), u64::MAX);
    }

    #[test]
    fn a_guest_offset_is_taken_apart_and_put_together() {
        let geometry = geometry(9);
        let position = geometry.split((3 * 64 + 5) * 512 + 7);
        assert_eq!((position.l1_index, position.l2_index), (3, 5));
        assert_eq!(position.within, 7);
        assert_eq!(geometry.cluster_start(3, 5) + 7, (3 * 64 + 5) * 512 + 7);
    }

    #[test]
    fn compressed_entries_are_those_that_qemu_writes() {
        for (bits, entry, offset, len) in [
            (16, 0x4000_0000_0005_0000, 0x5_0000, 512),
            (16, 0x4000_0000_0005_00c2, 0x5_00c2, 512 - 0xc2),
            (16, 0x4100_0000_0005_0000, 0x5_0000, 5 * 512),
            (16, 0x4140_0000_0005_09f2, 0x5_09f2, 6 * 512 - 0x1f2),
            (12, 0x5400_0000_0000_5000, 0x5000, 6 * 512),
            (12, 0x5800_0000_0000_5bf3, 0x5bf3, 7 * 512 - 0x1f3),
            (9, 0x4000_0000_0000_0a18, 0xa18, 512 - 0x18),
            (21, 0x4008_0000_00a0_0000, 0xa0_0000, 5 * 512),
        ] {
            let geometry = geometry(bits);
            assert_eq!(geometry.stream(L2Entry(entry)), Stream { offset, len });
            assert_eq!(geometry.compressed(offset, len), Some(L2Entry(entry)));
        }
    }

    #[test]
    fn every_length_up_to_two_clusters_fits_a_compressed_entry() {
        for bits in 9..=21 {
            let geometry = geometry(bits);
            let longest = 2 * geometry.cluster_size();
            let entry = geometry.compressed(1 << 20, longest).unwrap();
            assert_eq!(geometry.stream(entry).len, longest);
            assert_eq!(geometry.compressed(1 << 20, longest + 512), None);
            assert_eq!(geometry.compressed(1 << 62, 1), None);
        }
    }

    #[test]
    fn a_stream_that_straddles_touches_both_clusters() {
        let geometry = geometry(12);
        let stream = geometry.stream(L2Entry(0x5800_0000_0000_5bf3));
        assert_eq!(stream.host_clusters(geometry), (0x5000, 0x6000));
    }
}
