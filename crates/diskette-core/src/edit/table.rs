//! A table of an image that is being changed: what was read of it, and what has changed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Result, StorageExt, StorageMut, Table, TableCache};

/// The pages of a table, of which the changed ones are kept, and others while there is room.
pub struct EditedTable<E> {
    page_entries: u64,
    read: TableCache<E>,
    changed: BTreeMap<u64, Vec<u8>>,
}

impl<E> EditedTable<E>
where
    E: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy,
{
    /// A table whose pages have so many entries each; those that are merely read take about `budget` bytes.
    #[must_use]
    pub fn new(page_entries: u64, budget: u64) -> Self {
        let page_len = page_entries.saturating_mul(size_of::<E>() as u64);
        Self {
            page_entries,
            read: TableCache::new(budget, page_len),
            changed: BTreeMap::new(),
        }
    }

    /// An entry; `None` where its page does not have it. `read` gets the page of a number.
    pub fn get(&self, index: u64, read: impl FnOnce(u64) -> Result<Table<E>>) -> Result<Option<E>> {
        let (page, within) = self.split(index);
        if let Some(bytes) = self.changed.get(&page) {
            let entries = <[E]>::ref_from_bytes(bytes).unwrap_or_default();
            return Ok(entries.get(within).copied());
        }
        Ok(self.read.get_or_read(page, || read(page))?.get(within))
    }

    /// Changes an entry, if its page has it.
    pub fn set(
        &mut self,
        index: u64,
        entry: E,
        read: impl FnOnce(u64) -> Result<Table<E>>,
    ) -> Result<()> {
        let (page, within) = self.split(index);
        if !self.changed.contains_key(&page) {
            let found = self.read.get_or_read(page, || read(page))?;
            self.put(page, found.entries().as_bytes().to_vec());
        }
        let bytes = self.changed.get_mut(&page);
        let entries = bytes.and_then(|bytes| <[E]>::mut_from_bytes(bytes).ok());
        if let Some(place) = entries.and_then(|entries| entries.get_mut(within)) {
            *place = entry;
        }
        Ok(())
    }

    /// Gives a page, whole.
    pub fn put(&mut self, page: u64, bytes: Vec<u8>) {
        self.changed.insert(page, bytes);
    }

    /// The pages that have changed, by their numbers.
    pub fn changed(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.changed
            .iter()
            .map(|(page, bytes)| (*page, bytes.as_slice()))
    }

    /// How many pages have changed.
    #[must_use]
    pub fn changed_count(&self) -> usize {
        self.changed.len()
    }

    /// Notes that the changed pages have been written.
    pub fn stored(&mut self) {
        for page in std::mem::take(&mut self.changed).into_keys() {
            self.read.forget(page);
        }
    }

    fn split(&self, index: u64) -> (u64, usize) {
        let within = usize::try_from(index % self.page_entries).unwrap_or(usize::MAX);
        (index / self.page_entries, within)
    }
}

impl<E> fmt::Debug for EditedTable<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EditedTable({} changed pages)", self.changed.len())
    }
}

/// A table that lies in one piece.
#[derive(Debug)]
pub struct LinearTable<E> {
    storage: Arc<dyn StorageMut>,
    offset: u64,
    count: u64,
    pages: EditedTable<E>,
}

impl<E> LinearTable<E>
where
    E: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy,
{
    /// Bytes of a page.
    pub const PAGE_LEN: u64 = 4096;
    const PAGE_ENTRIES: u64 = Self::PAGE_LEN / size_of::<E>() as u64;

    /// The table of `count` entries at `offset`, all of which lie in the file. `budget` is for what is merely read.
    pub fn new(storage: Arc<dyn StorageMut>, offset: u64, count: u64, budget: u64) -> Self {
        Self {
            storage,
            offset,
            count,
            pages: EditedTable::new(Self::PAGE_ENTRIES, budget),
        }
    }

    /// Number of entries.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// An entry, if there is one.
    pub fn get(&self, index: u64) -> Result<Option<E>> {
        self.pages.get(index, |page| {
            read_page(&*self.storage, self.offset, self.count, page)
        })
    }

    /// Changes an entry, if there is one.
    pub fn set(&mut self, index: u64, entry: E) -> Result<()> {
        let (storage, offset, count) = (&*self.storage, self.offset, self.count);
        self.pages
            .set(index, entry, |page| read_page(storage, offset, count, page))
    }

    /// Gives the table more entries. What lies behind it is to be theirs.
    pub fn grow(&mut self, count: u64) {
        let last = self.count / Self::PAGE_ENTRIES;
        self.count = count;
        self.pages.read.forget(last);
        if let Some(bytes) = self.pages.changed.get_mut(&last) {
            let entries = count - last * Self::PAGE_ENTRIES;
            let len = entries.min(Self::PAGE_ENTRIES) * size_of::<E>() as u64;
            bytes.resize(usize::try_from(len).unwrap_or(usize::MAX), 0); // at most a page
        }
    }

    /// How many pages have changed.
    #[must_use]
    pub fn changed_count(&self) -> usize {
        self.pages.changed_count()
    }

    /// The pages that have changed, by their host offsets.
    pub fn changed(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let offset = self.offset;
        self.pages
            .changed()
            .map(move |(page, bytes)| (offset + page * Self::PAGE_LEN, bytes))
    }

    /// Writes the changed pages where they lie.
    pub fn write(&mut self) -> Result<()> {
        for (at, bytes) in self.changed() {
            self.storage
                .write_at(bytes, at)
                .map_err(|source| self.storage.failed("write", at, bytes.len() as u64, source))?;
        }
        self.pages.stored();
        Ok(())
    }

    /// Notes that the changed pages have been written by somebody else.
    pub fn stored(&mut self) {
        self.pages.stored();
    }
}

/// The page of this number of a table of `count` entries at `offset`.
fn read_page<E>(storage: &dyn StorageMut, offset: u64, count: u64, page: u64) -> Result<Table<E>>
where
    E: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy,
{
    let entries = LinearTable::<E>::PAGE_ENTRIES;
    let count = count.saturating_sub(page * entries).min(entries);
    let at = offset + page * LinearTable::<E>::PAGE_LEN;
    Table::read(storage, at, usize::try_from(count).unwrap_or(0))
}
