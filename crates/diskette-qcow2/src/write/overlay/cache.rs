//! Clusters of tables that are being changed, kept in memory until they are written together.

use std::collections::HashMap;

use diskette_core::{Result, StorageExt, StorageMut};

/// Tables of one cluster each, by their host offset.
#[derive(Debug)]
pub(super) struct ClusterCache {
    cluster_len: usize,
    most: usize,
    clusters: HashMap<u64, Cached>,
    dirty: usize,
}

#[derive(Debug)]
struct Cached {
    bytes: Vec<u8>,
    dirty: bool,
}

impl ClusterCache {
    /// A cache for about `budget` bytes.
    pub(super) fn new(cluster_len: usize, budget: u64) -> Self {
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
    pub(super) fn get(&mut self, storage: &dyn StorageMut, offset: u64) -> Result<&[u8]> {
        self.load(storage, offset).map(|cached| &cached.bytes[..])
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, storage: &dyn StorageMut, offset: u64) -> Result<&mut [u8]> {
        let was_dirty = self.load(storage, offset)?.dirty;
        self.dirty += usize::from(!was_dirty);
        let cached = self.load(storage, offset)?;
        cached.dirty = true;
        Ok(&mut cached.bytes)
    }

    /// Puts a new table in, to be written.
    pub(super) fn put(&mut self, offset: u64, bytes: Vec<u8>) {
        let cached = Cached { bytes, dirty: true };
        let before = self.clusters.insert(offset, cached);
        self.dirty += usize::from(!before.is_some_and(|before| before.dirty));
    }

    /// Whether so many tables are to be written that it should be done.
    pub(super) const fn is_full(&self) -> bool {
        self.dirty * 2 > self.most
    }

    /// Whether no table is to be written.
    pub(super) const fn is_clean(&self) -> bool {
        self.dirty == 0
    }

    /// Writes the tables that have been changed, in the order of their places.
    pub(super) fn write(&mut self, storage: &dyn StorageMut) -> Result<()> {
        let mut dirty: Vec<_> = self
            .clusters
            .iter_mut()
            .filter(|(_, cached)| cached.dirty)
            .collect();
        dirty.sort_unstable_by_key(|(offset, _)| **offset);
        for (offset, cached) in dirty {
            write(storage, *offset, &cached.bytes)?;
            cached.dirty = false;
            self.dirty -= 1;
        }
        Ok(())
    }

    fn load(&mut self, storage: &dyn StorageMut, offset: u64) -> Result<&mut Cached> {
        if !self.clusters.contains_key(&offset) && self.clusters.len() >= self.most {
            self.clusters.retain(|_, cached| cached.dirty);
        }
        match self.clusters.entry(offset) {
            std::collections::hash_map::Entry::Occupied(found) => Ok(found.into_mut()),
            std::collections::hash_map::Entry::Vacant(place) => {
                let mut bytes = vec![0; self.cluster_len];
                storage.read_padded(&mut bytes, offset)?;
                Ok(place.insert(Cached {
                    bytes,
                    dirty: false,
                }))
            }
        }
    }
}

/// Writes bytes, with an error that names the storage.
pub(super) fn write(storage: &dyn StorageMut, offset: u64, bytes: &[u8]) -> Result<()> {
    storage
        .write_at(bytes, offset)
        .map_err(|source| storage.failed("write", offset, bytes.len() as u64, source))
}

/// Syncs, with an error that names the storage.
pub(super) fn sync(storage: &dyn StorageMut) -> Result<()> {
    storage
        .sync()
        .map_err(|source| storage.failed("sync", 0, 0, source))
}
