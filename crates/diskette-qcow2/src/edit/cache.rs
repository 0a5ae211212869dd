//! Clusters of tables that are being changed, kept in memory until they are written together.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use diskette_core::{Result, Storage, StorageExt, StorageMut};

/// Tables of one cluster each, by their host offset.
#[derive(Debug)]
pub(crate) struct ClusterCache {
    cluster_len: usize,
    most: usize,
    clusters: HashMap<u64, Cached>,
    dirty: usize,
}

#[derive(Debug)]
struct Cached {
    bytes: Vec<u8>,
    /// What is to be written of it; empty where nothing is.
    dirty: Range<usize>,
}

impl ClusterCache {
    /// A cache for about `budget` bytes.
    pub(crate) fn new(cluster_len: usize, budget: u64) -> Self {
        const LEAST: usize = 8;
        let budget = usize::try_from(budget).unwrap_or(usize::MAX);
        Self {
            cluster_len,
            most: (budget / cluster_len).max(LEAST),
            clusters: HashMap::new(),
            dirty: 0,
        }
    }

    /// The bytes of the table at a host offset. What the file does not have of it counts as zeros.
    pub(crate) fn get(&mut self, storage: &dyn Storage, offset: u64) -> Result<&[u8]> {
        self.load(storage, offset).map(|cached| &cached.bytes[..])
    }

    /// The same, to be changed within `range`.
    pub(crate) fn get_mut(
        &mut self,
        storage: &dyn Storage,
        offset: u64,
        range: Range<usize>,
    ) -> Result<&mut [u8]> {
        let was_clean = self.load(storage, offset)?.dirty.is_empty();
        self.dirty += usize::from(was_clean);
        let cached = self.load(storage, offset)?;
        cached.dirty = match was_clean {
            true => range,
            false => cached.dirty.start.min(range.start)..cached.dirty.end.max(range.end),
        };
        Ok(&mut cached.bytes)
    }

    /// Puts a new table in, to be written.
    pub(crate) fn put(&mut self, offset: u64, bytes: Vec<u8>) {
        let dirty = 0..bytes.len();
        let before = self.clusters.insert(offset, Cached { bytes, dirty });
        self.dirty += usize::from(before.is_none_or(|before| before.dirty.is_empty()));
    }

    /// Forgets a cluster that holds no table any more.
    pub(crate) fn forget(&mut self, offset: u64) {
        if let Some(cached) = self.clusters.remove(&offset) {
            self.dirty -= usize::from(!cached.dirty.is_empty());
        }
    }

    /// Whether so many tables are to be written that it should be done.
    pub(crate) const fn is_full(&self) -> bool {
        self.dirty * 2 > self.most
    }

    /// Whether no table is to be written.
    pub(crate) const fn is_clean(&self) -> bool {
        self.dirty == 0
    }

    /// Writes what has been changed, in the order of the tables' places, by whole sectors.
    pub(crate) fn write(&mut self, storage: &dyn StorageMut) -> Result<()> {
        let changed = self.clusters.iter_mut();
        let mut changed: Vec<_> = changed
            .filter(|(_, cached)| !cached.dirty.is_empty())
            .collect();
        changed.sort_unstable_by_key(|(offset, _)| **offset);
        for (offset, cached) in changed {
            let start = cached.dirty.start / SECTOR * SECTOR;
            let end = cached.dirty.end.next_multiple_of(SECTOR);
            let end = end.min(cached.bytes.len());
            write(storage, offset + start as u64, &cached.bytes[start..end])?;
            cached.dirty = 0..0;
            self.dirty -= 1;
        }
        Ok(())
    }

    fn load(&mut self, storage: &dyn Storage, offset: u64) -> Result<&mut Cached> {
        if !self.clusters.contains_key(&offset) && self.clusters.len() >= self.most {
            self.clusters.retain(|_, cached| !cached.dirty.is_empty());
        }
        match self.clusters.entry(offset) {
            Entry::Occupied(found) => Ok(found.into_mut()),
            Entry::Vacant(place) => {
                let mut bytes = vec![0; self.cluster_len];
                storage.read_padded(&mut bytes, offset)?;
                Ok(place.insert(Cached { bytes, dirty: 0..0 }))
            }
        }
    }
}

/// Hosts write these whole, or not at all.
const SECTOR: usize = 512;

/// Writes bytes, with an error that names the storage.
pub(crate) fn write(storage: &dyn StorageMut, offset: u64, bytes: &[u8]) -> Result<()> {
    storage
        .write_at(bytes, offset)
        .map_err(|source| storage.failed("write", offset, bytes.len() as u64, source))
}

/// Writes zeros that need no space, with an error that names the storage.
pub(crate) fn write_zeros(storage: &dyn StorageMut, offset: u64, len: u64) -> Result<()> {
    storage
        .write_zeros(offset, len)
        .map_err(|source| storage.failed("zero", offset, len, source))
}

/// Syncs, with an error that names the storage.
pub(crate) fn sync(storage: &dyn StorageMut) -> Result<()> {
    storage
        .sync()
        .map_err(|source| storage.failed("sync", 0, 0, source))
}
