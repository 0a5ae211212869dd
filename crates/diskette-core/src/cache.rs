//! Tables that are read when they are needed, and kept while there is room.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::{Limits, Result, Table};

/// Tables by their host offset, within a budget of bytes. Any number of threads may ask; each table is read once.
pub struct TableCache<E> {
    shelf: Arc<Shelf>,
    /// Tells its tables from those of others on the shelf.
    number: u64,
    entry: PhantomData<fn() -> E>,
}

impl<E: FromBytes + Immutable + KnownLayout + Unaligned + Copy> TableCache<E> {
    /// A cache of at most `budget` bytes for tables of about `table_len` bytes each. At least a few tables are kept.
    #[must_use]
    pub fn new(budget: u64, table_len: u64) -> Self {
        Self::on(Arc::new(Shelf::new(budget, table_len)), table_len)
    }

    /// The same, of the limits' `cache_bytes`: they are for all images together of a chain that is opened with these limits.
    #[must_use]
    pub fn within(limits: &Limits, table_len: u64) -> Self {
        match limits.chain() {
            Some(chain) => Self::on(Arc::clone(&chain.shelf), table_len),
            None => Self::new(limits.cache_bytes, table_len),
        }
    }

    fn on(shelf: Arc<Shelf>, table_len: u64) -> Self {
        Self {
            number: shelf.taken_by(table_len),
            shelf,
            entry: PhantomData,
        }
    }

    /// The table at host offset `offset`; `read` gets it where it is not at hand.
    pub fn get_or_read(
        &self,
        offset: u64,
        read: impl FnOnce() -> Result<Table<E>>,
    ) -> Result<Table<E>> {
        let key = (self.number, offset);
        let read = || read().map(Table::into_bytes);
        let bytes = self.shelf.tables.get_or_insert_with(&key, read)?;
        Ok(Table::of_bytes(bytes))
    }

    /// Forgets the table at `offset`: it has been changed.
    pub fn forget(&self, offset: u64) {
        self.shelf.tables.remove(&(self.number, offset));
    }
}

impl<E> fmt::Debug for TableCache<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TableCache")
    }
}

/// Tables of one cache, or of several that share a budget.
pub(crate) struct Shelf {
    tables: Cache<(u64, u64), Arc<Vec<u8>>, ByBytes>,
    /// Caches that have taken it.
    takers: AtomicU64,
}

impl Shelf {
    pub(crate) fn new(budget: u64, table_len: u64) -> Self {
        let each = weight_of(table_len);
        let budget = budget.max(each.saturating_mul(FEW));
        let expected = usize::try_from(budget / each)
            .unwrap_or(usize::MAX)
            .min(1 << 16);
        Self {
            tables: Cache::with_weighter(expected, budget, ByBytes),
            takers: AtomicU64::new(0),
        }
    }

    /// One more cache takes it, for tables of about `table_len` bytes: it gets a number of its own.
    fn taken_by(&self, table_len: u64) -> u64 {
        let few = weight_of(table_len).saturating_mul(FEW);
        if self.tables.capacity() < few {
            self.tables.set_capacity(few);
        }
        self.takers.fetch_add(1, Ordering::Relaxed)
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shelf")
    }
}

/// So many tables are kept, however small the budget is.
const FEW: u64 = 8;

fn weight_of(table_len: u64) -> u64 {
    table_len.max(1).saturating_add(64)
}

#[derive(Clone, Copy)]
struct ByBytes;

impl Weighter<(u64, u64), Arc<Vec<u8>>> for ByBytes {
    fn weight(&self, _key: &(u64, u64), bytes: &Arc<Vec<u8>>) -> u64 {
        weight_of(bytes.len() as u64)
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

    #[test]
    fn caches_of_one_chain_share_its_budget_and_not_their_tables() {
        const LEN: usize = 4096;
        let mut limits = Limits::default();
        limits.cache_bytes = 1 << 20;
        let limits = limits.for_chain();
        let caches: Vec<_> = (0..256)
            .map(|_| TableCache::<u8>::within(&limits, LEN as u64))
            .collect();
        for (byte, cache) in (0..=255).zip(&caches) {
            for offset in 0..16 {
                let read = || Ok(Table::new(vec![byte; LEN]));
                let found = cache.get_or_read(offset, read).unwrap();
                assert_eq!(found.get(7), Some(byte));
            }
        }
        let kept = caches[0].shelf.tables.weight();
        assert!(kept <= limits.cache_bytes, "{kept} bytes");
        let last = caches[255].get_or_read(15, || Ok(Table::new(vec![0; LEN])));
        assert_eq!(last.unwrap().get(0), Some(255));
    }
}
