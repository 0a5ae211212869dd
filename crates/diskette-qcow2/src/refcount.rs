//! How often each host cluster is used, as the image itself counts.

use diskette_core::{Limits, Result, Storage, StorageExt, Table, TableCache};
use zerocopy::IntoBytes;
use zerocopy::big_endian::{U16, U32, U64};

use crate::geometry::Geometry;
use crate::header::{Header, field};
use crate::spec;

/// An entry of the refcount table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RefcountTableEntry(pub u64);

impl RefcountTableEntry {
    /// Where the refcount block lies; 0 where there is none.
    pub(crate) const fn block_offset(self) -> u64 {
        self.0 & spec::REFCOUNT_TABLE_OFFSET
    }

    /// Bits that should be zero.
    pub(crate) const fn reserved_bits(self) -> u64 {
        self.0 & spec::REFCOUNT_TABLE_RESERVED
    }
}

/// The refcounts of an image, read block by block.
#[derive(Debug)]
pub(crate) struct Refcounts {
    geometry: Geometry,
    table: Table<U64>,
    table_offset: u64,
    blocks: TableCache<u8>,
}

impl Refcounts {
    /// The refcounts of an image. What the file does not have of the table counts as zeros.
    pub(crate) fn open(storage: &dyn Storage, header: &Header, limits: &Limits) -> Result<Self> {
        let geometry = header.geometry;
        // At most 8 MiB.
        let len = u64::from(header.refcount_table.clusters) * geometry.cluster_size();
        limits.allow_table("qcow2: refcount table's bytes", len)?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        storage.read_padded(&mut bytes, header.refcount_table.offset)?;
        Ok(Self {
            geometry,
            table: Table::new(bytes),
            table_offset: header.refcount_table.offset,
            blocks: TableCache::new(limits.cache_bytes, geometry.cluster_size()),
        })
    }

    /// The entries of the refcount table.
    pub(crate) fn table(&self) -> impl Iterator<Item = RefcountTableEntry> {
        let entries = self.table.entries().iter();
        entries.map(|entry| RefcountTableEntry(entry.get()))
    }

    /// The refcount of the host cluster with this number. What lies behind the file's end counts as zeros.
    pub(crate) fn of(&self, storage: &dyn Storage, cluster: u64) -> Result<u64> {
        let per_block = self.geometry.refcounts_per_block();
        let Some(block) = self.block(storage, cluster / per_block)? else {
            return Ok(0);
        };
        Ok(refcount(
            block.entries(),
            cluster % per_block,
            self.geometry.refcount_order(),
        ))
    }

    /// The refcount block with this number, if there is one.
    pub(crate) fn block(&self, storage: &dyn Storage, index: u64) -> Result<Option<Table<u8>>> {
        let position = usize::try_from(index).unwrap_or(usize::MAX);
        let entry = RefcountTableEntry(self.table.get(position).unwrap_or_default().get());
        let offset = entry.block_offset();
        if offset == 0 {
            return Ok(None);
        }
        if !self.geometry.is_aligned(offset) {
            let at = self.table_offset + 8 * index;
            let claim = field(format!("refcount_table[{index}]"), at, entry.0);
            return Err(claim.malformed(format!("its block at {offset:#x} is not aligned")));
        }
        let read = || {
            let mut bytes = vec![0; self.geometry.cluster_len()];
            storage.read_padded(&mut bytes, offset)?;
            Ok(Table::new(bytes))
        };
        self.blocks.get_or_read(offset, read).map(Some)
    }
}

/// The refcount at `index` of a block; 0 behind its end. `order` is at most 6.
pub(crate) fn refcount(block: &[u8], index: u64, order: u32) -> u64 {
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    if order < 3 {
        // Several in a byte, the first in the lowest bits.
        let (shift, bits) = (3 - order, 1_usize << order);
        let byte = block.get(index >> shift).copied().unwrap_or_default();
        let within = (index & ((1 << shift) - 1)) * bits;
        return u64::from(byte) >> within & ((1 << bits) - 1);
    }
    let len = 1_usize << (order - 3);
    let start = index.saturating_mul(len);
    let bytes = block
        .get(start..start.saturating_add(len))
        .unwrap_or_default();
    bytes
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Sets a refcount in a block. `count` fits the width.
pub(crate) fn set_refcount(block: &mut [u8], index: usize, refcount_order: u32, count: u64) {
    match refcount_order {
        // Entry 0 lies in the lowest bits of a byte.
        0..=2 => {
            let bits = 1_usize << refcount_order;
            let shift = index * bits % 8;
            let mask = (1_u8 << bits) - 1;
            let byte = &mut block[index * bits / 8];
            *byte = *byte & !(mask << shift) | (low_byte(count) & mask) << shift;
        }
        3 => block[index] = low_byte(count),
        4 => put(
            block,
            index,
            U16::new(u16::try_from(count).unwrap_or(u16::MAX)).as_bytes(),
        ),
        5 => put(
            block,
            index,
            U32::new(u32::try_from(count).unwrap_or(u32::MAX)).as_bytes(),
        ),
        _ => put(block, index, U64::new(count).as_bytes()),
    }
}

fn put(block: &mut [u8], index: usize, entry: &[u8]) {
    block[index * entry.len()..][..entry.len()].copy_from_slice(entry);
}

fn low_byte(count: u64) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcounts_of_every_width_are_those_that_qemu_writes() {
        let blocks: [&[u8]; 7] = [
            &[0x7f, 0],
            &[0x55, 0x15, 0],
            &[0x11, 0x11, 0x11, 0x01, 0],
            &[1, 1, 1, 1, 1, 1, 1, 0],
            &[0, 1].repeat(7),
            &[0, 0, 0, 1].repeat(7),
            &[0, 0, 0, 0, 0, 0, 0, 1].repeat(7),
        ];
        for (order, block) in (0..).zip(blocks) {
            for index in 0..8 {
                let expected = u64::from(index < 7);
                assert_eq!(
                    refcount(block, index, order),
                    expected,
                    "order {order}, {index}"
                );
            }
        }
    }

    #[test]
    fn a_wide_refcount_is_read_whole() {
        assert_eq!(refcount(&[0x12, 0x34], 0, 4), 0x1234);
        assert_eq!(refcount(&[0xe4], 3, 1), 3);
        assert_eq!(refcount(&[0xff; 8], 0, 6), u64::MAX);
    }
}
