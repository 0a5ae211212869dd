//! Entries of the tables, decoded and encoded. What needs the cluster's size is in [`geometry`](crate::geometry).

use crate::spec;

/// An entry of an L1 table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct L1Entry(pub u64);

impl L1Entry {
    /// An entry that leads to the L2 table at a host offset.
    pub(crate) const fn to_table(offset: u64, copied: bool) -> Self {
        Self(offset | copied_bit(copied))
    }

    /// Where the L2 table lies; 0 where there is none.
    pub(crate) const fn table_offset(self) -> u64 {
        self.0 & spec::L1_OFFSET
    }

    /// Whether the L2 table's refcount is said to be exactly 1.
    pub(crate) const fn is_copied(self) -> bool {
        self.0 & spec::COPIED != 0
    }

    /// Bits that should be zero.
    pub(crate) const fn reserved_bits(self) -> u64 {
        self.0 & spec::L1_RESERVED
    }
}

/// An entry of an L2 table: the first eight bytes of it, in an image with extended entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct L2Entry(pub u64);

impl L2Entry {
    /// Nothing allocated: what lies behind shows through.
    pub(crate) const HOLE: Self = Self(0);
    /// Reads as zeros; no space is kept.
    pub(crate) const ZERO: Self = Self(spec::L2_ZERO);

    /// A cluster stored as it is.
    pub(crate) const fn data(offset: u64, copied: bool) -> Self {
        Self(offset | copied_bit(copied))
    }

    /// Whether [`Geometry::stream`](crate::geometry::Geometry::stream) decodes the rest.
    pub(crate) const fn is_compressed(self) -> bool {
        self.0 & spec::L2_COMPRESSED != 0
    }

    /// Where the cluster lies, if it is not compressed; 0 where it has no place.
    pub(crate) const fn offset(self) -> u64 {
        self.0 & spec::L2_OFFSET
    }

    /// Whether the cluster has a place in its file. Offset 0 is one in an external data file, where the entry is
    /// marked as copied.
    pub(crate) const fn place(self, data_file: bool) -> Option<u64> {
        match self.offset() {
            0 if !(data_file && self.is_copied()) => None,
            offset => Some(offset),
        }
    }

    /// Whether the cluster's refcount is said to be exactly 1.
    pub(crate) const fn is_copied(self) -> bool {
        self.0 & spec::COPIED != 0
    }

    /// The same entry, marked or not as the only user of its cluster.
    pub(crate) const fn with_copied(self, copied: bool) -> Self {
        Self(self.0 & !spec::COPIED | copied_bit(copied))
    }

    /// The zero flag. It has no meaning in extended and in compressed entries.
    pub(crate) const fn is_zero(self) -> bool {
        self.0 & spec::L2_ZERO != 0
    }

    /// Bits of a standard entry that should be zero.
    pub(crate) const fn reserved_bits(self) -> u64 {
        self.0 & spec::L2_RESERVED
    }
}

/// The bitmap of an extended L2 entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subclusters(pub u64);

/// What is in one subcluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subcluster {
    /// What lies behind shows through.
    Hole,
    /// It is stored.
    Data,
    /// It reads as zeros.
    Zero,
}

impl Subclusters {
    /// All of them show what lies behind.
    pub(crate) const HOLES: Self = Self(0);
    /// All of them are stored.
    pub(crate) const DATA: Self = Self(0x0000_0000_ffff_ffff);
    /// All of them read as zeros.
    pub(crate) const ZEROS: Self = Self(0xffff_ffff_0000_0000);

    /// The bits of stored subclusters.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    pub(crate) const fn data_bits(self) -> u32 {
        self.0 as u32
    }

    /// The bits of subclusters that read as zeros.
    pub(crate) const fn zero_bits(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether no subcluster is both stored and zero, and none is stored without a place for the cluster.
    pub(crate) const fn is_valid(self, has_place: bool) -> bool {
        self.data_bits() & self.zero_bits() == 0 && (has_place || self.data_bits() == 0)
    }

    /// What is in subcluster `index` (below 32), and how many in a row from there on are alike.
    pub(crate) const fn run_at(self, index: u32) -> (Subcluster, u32) {
        let data = self.data_bits() >> index;
        let zero = self.zero_bits() >> index;
        let left = spec::SUBCLUSTERS - index;
        let (kind, run) = if data & 1 != 0 {
            (Subcluster::Data, data.trailing_ones())
        } else if zero & 1 != 0 {
            (Subcluster::Zero, zero.trailing_ones())
        } else {
            (Subcluster::Hole, (data | zero).trailing_zeros())
        };
        (kind, if run < left { run } else { left })
    }
}

const fn copied_bit(copied: bool) -> u64 {
    if copied { spec::COPIED } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_at_offset_0_is_one_only_in_a_data_file() {
        assert_eq!(L2Entry::data(0, true).place(true), Some(0));
        assert_eq!(L2Entry::data(0, true).place(false), None);
        assert_eq!(L2Entry::HOLE.place(true), None);
        assert_eq!(L2Entry::data(0x5_0000, false).place(false), Some(0x5_0000));
    }

    #[test]
    fn subclusters_come_in_runs() {
        // As qemu-io leaves it after a write of 4 KiB at 2 KiB, and zeros of 4 KiB at 8 KiB.
        let bitmap = Subclusters(0x0000_0030_0000_0006);
        assert!(bitmap.is_valid(true) && !bitmap.is_valid(false));
        assert_eq!(bitmap.run_at(0), (Subcluster::Hole, 1));
        assert_eq!(bitmap.run_at(1), (Subcluster::Data, 2));
        assert_eq!(bitmap.run_at(3), (Subcluster::Hole, 1));
        assert_eq!(bitmap.run_at(4), (Subcluster::Zero, 2));
        assert_eq!(bitmap.run_at(6), (Subcluster::Hole, 26));
        assert_eq!(Subclusters::ZEROS.run_at(5), (Subcluster::Zero, 27));
        assert!(!Subclusters(0x0000_0001_0000_0001).is_valid(true));
    }
}
