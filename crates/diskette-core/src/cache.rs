//! Tables that are read when they are needed, and kept while there is room.

use std::fmt;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::{Result, Table};

/// Tables by their host offset, within a budget of bytes. Any number of threads may ask; each table is read once.
pub struct TableCache<E> {
    tables: Cache<u64, Table<E>, ByBytes>,
}

#[derive(Clone, Copy)]
struct ByBytes;

impl<E: FromBytes + Immutable + KnownLayout + Unaligned + Copy> Weighter<u64, Table<E>>
    for ByBytes
{
    fn weight(&self, _offset: &u64, table: &Table<E>) -> u64 {
        table.byte_len() as u64 + 64
    }
}

impl<E: FromBytes + Immutable + KnownLayout + Unaligned + Copy> TableCache<E> {
    /// A cache of at most `budget` bytes for tables of about `table_len` bytes each. At least a few tables are kept.
    #[must_use]
    pub fn new(budget: u64, table_len: u64) -> Self {
        const FEW: u64 = 8;
        let each = table_len.max(1).saturating_add(64);
        let budget = budget.max(each.saturating_mul(FEW));
        let expected = usize::try_from(budget / each)
            .unwrap_or(usize::MAX)
            .min(1 << 16);
        Self {
            tables: Cache::with_weighter(expected, budget, ByBytes),
        }
    }

    /// The table at host offset `offset`; `read` gets it where it is not at hand.
    pub fn get_or_read(
        &self,
        offset: u64,
        read: impl FnOnce() -> Result<Table<E>>,
    ) -> Result<Table<E>> {
        self.tables.get_or_insert_with(&offset, read)
    }

    /// Forgets the table at `offset`: it has been changed.
    pub fn forget(&self, offset: u64) {
        self.tables.remove(&offset);
    }
}

impl<E> fmt::Debug for TableCache<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TableCache")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use zerocopy::big_endian::U64;

    #[test]
    fn a_table_is_read_once_while_there_is_room() {
        let cache = TableCache::<U64>::new(1 << 20, 512);
        let reads = Cell::new(0);
        let read = || {
            reads.set(reads.get() + 1);
            Ok(Table::new(vec![0; 512]))
        };
        for _ in 0..3 {
            assert_eq!(cache.get_or_read(4096, read).unwrap().len(), 64);
        }
        assert_eq!(reads.get(), 1);
        cache.forget(4096);
        cache.get_or_read(4096, read).unwrap();
        assert_eq!(reads.get(), 2);
    }
}
