//! A table of an image, kept as the bytes it was stored as and decoded entry by entry.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::{Result, Storage, StorageExt};

/// Entries of type `E` (one of zerocopy's byte-order types, or a struct of them), as they were stored.
#[derive(Clone)]
pub struct Table<E> {
    bytes: Arc<Vec<u8>>,
    entry: PhantomData<fn() -> E>,
}

impl<E: FromBytes + Immutable + KnownLayout + Unaligned + Copy> Table<E> {
    /// A table of these bytes. Bytes that are no whole entry at the end do not count.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            // Kept where they are: a copy would cost as much again.
            bytes: Arc::new(bytes.into()),
            entry: PhantomData,
        }
    }

    /// The table that these bytes are, which others may have too.
    pub(crate) const fn of_bytes(bytes: Arc<Vec<u8>>) -> Self {
        Self {
            bytes,
            entry: PhantomData,
        }
    }

    pub(crate) fn into_bytes(self) -> Arc<Vec<u8>> {
        self.bytes
    }

    /// `count` entries from `storage`. The caller has asked the limits.
    pub fn read(storage: &dyn Storage, offset: u64, count: usize) -> Result<Self> {
        Ok(Self::new(
            storage.read_vec(count.saturating_mul(size_of::<E>()), offset)?,
        ))
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / size_of::<E>()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry at `index`, if there is one.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<E> {
        self.entries().get(index).copied()
    }

    /// All entries.
    #[must_use]
    pub fn entries(&self) -> &[E] {
        let whole = self.len() * size_of::<E>();
        // The length is a multiple of an entry's and entries need no alignment: this cannot fail.
        <[E]>::ref_from_bytes(&self.bytes[..whole]).unwrap_or_default()
    }

    /// Bytes that it occupies.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }
}

impl<E> Debug for Table<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Table({} bytes)", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::big_endian::U32;

    #[test]
    fn entries_are_decoded_where_they_lie() {
        let table = Table::<U32>::new(vec![0, 0, 0, 1, 0xff, 0, 0, 2, 9, 9]);
        assert_eq!(table.len(), 2);
        assert_eq!(table.get(1).map(U32::get), Some(0xff00_0002));
        assert_eq!(table.get(2).map(U32::get), None);
    }
}
