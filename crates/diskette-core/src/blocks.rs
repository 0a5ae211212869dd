//! New images that are made of blocks of one size: which blocks they have, and how their tables are written.

use zerocopy::{Immutable, IntoBytes};

use crate::{Result, StorageExt, StorageMut};

/// The blocks of a new image that have a place, in the order in which they got it. As chunks are placed in guest order,
/// that is the guest's.
#[derive(Debug, Default)]
pub struct PlacedBlocks {
    /// Indices of blocks; they ascend.
    blocks: Vec<u32>,
    /// Blocks that are zero, and have no place; they ascend.
    zeros: Vec<u32>,
}

/// What a new image says of a block. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing.
    Absent,
    /// That it is zero.
    Zero,
    /// That it lies behind so many others.
    Behind(u64),
}

impl PlacedBlocks {
    /// The place of a block, as a number of blocks before it: the one it has, or a new one.
    pub fn place(&mut self, block: u32) -> u64 {
        match self.blocks.binary_search(&block) {
            Ok(position) => position as u64,
            Err(_) => {
                debug_assert!(self.blocks.last().is_none_or(|last| *last < block));
                self.blocks.push(block);
                self.len() - 1
            }
        }
    }

    /// Notes that a block is zero, whatever an image below has there.
    pub fn place_zeros(&mut self, block: u32) {
        debug_assert!(self.zeros.last().is_none_or(|last| *last < block));
        self.zeros.push(block);
    }

    /// How many have a place.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Whether none has.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The place of each of the first `count` blocks of the disk.
    pub fn places(&self, count: u64) -> impl Iterator<Item = Place> + '_ {
        let mut placed = (0..).zip(&self.blocks).peekable();
        let mut zeros = self.zeros.iter().peekable();
        (0..count).map(move |index| {
            if let Some((before, _)) = placed.next_if(|(_, block)| u64::from(**block) == index) {
                return Place::Behind(before);
            }
            match zeros.next_if(|block| u64::from(**block) == index) {
                Some(_) => Place::Zero,
                None => Place::Absent,
            }
        })
    }
}

/// Writes the entries of a table one after another, by large calls. Gives the host offset behind them.
pub fn write_entries<E: IntoBytes + Immutable>(
    storage: &dyn StorageMut,
    offset: u64,
    entries: impl IntoIterator<Item = E>,
) -> Result<u64> {
    const LARGE: usize = 1 << 20;
    let mut bytes = Vec::new();
    let mut at = offset;
    let mut entries = entries.into_iter().peekable();
    while let Some(entry) = entries.next() {
        bytes.extend_from_slice(entry.as_bytes());
        if bytes.len() >= LARGE || entries.peek().is_none() {
            let len = bytes.len() as u64;
            storage
                .write_at(&bytes, at)
                .map_err(|source| storage.failed("write", at, len, source))?;
            at += len;
            bytes.clear();
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_one_place() {
        let mut placed = PlacedBlocks::default();
        let places: Vec<_> = [1, 1, 4, 5, 5].map(|block| placed.place(block)).into();
        assert_eq!(places, [0, 0, 1, 2, 2]);
        placed.place_zeros(0);
        placed.place_zeros(3);
        let all: Vec<_> = placed.places(6).collect();
        let behind = Place::Behind;
        let expected = [
            Place::Zero,
            behind(0),
            Place::Absent,
            Place::Zero,
            behind(1),
            behind(2),
        ];
        assert_eq!(all, expected);
        assert_eq!(placed.places(0).count(), 0);
    }
}
