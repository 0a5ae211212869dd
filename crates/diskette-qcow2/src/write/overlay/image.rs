//! The tables of an image that is being changed, and the order in which they are written.

use std::sync::Arc;

use diskette_codec::Codec;
use diskette_core::{BlockReader, Error, Limits, OpenContext, Result, StorageExt, StorageMut};
use zerocopy::big_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

use super::allocator::Allocator;
use super::cache::{ClusterCache, sync, write};
use crate::FORMAT;
use crate::entry::{L1Entry, L2Entry, Subclusters};
use crate::geometry::Geometry;
use crate::header::{Encryption, Header, field};

/// An image that is being changed.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) storage: Arc<dyn StorageMut>,
    /// What holes show. `None` where they read as zeros.
    pub(super) below: Option<Arc<dyn BlockReader>>,
    pub(super) geometry: Geometry,
    pub(super) codec: Codec,
    /// Whether there are zero clusters.
    pub(super) version_3: bool,
    size: u64,
    /// Autoclear features that are still set.
    autoclear: u64,
    l1: Vec<U64>,
    l1_offset: u64,
    /// Entries of L1 that are to be written: the first, and the one behind the last.
    l1_dirty: Option<(usize, usize)>,
    l2: ClusterCache,
    pub(super) allocator: Allocator,
}

/// An L2 entry, shown to be sound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// Guest offset of the cluster.
    pub(super) start: u64,
    pub(super) entry: L2Entry,
    /// All of one kind in an image without extended entries.
    pub(super) subclusters: Subclusters,
    /// Whether the cluster has a place of its own, that may be overwritten.
    pub(super) writable: bool,
}

impl Found {
    /// The host offset of a cluster that is not compressed and has a place.
    pub(super) fn place(&self) -> Option<u64> {
        (!self.entry.is_compressed())
            .then(|| self.entry.place(false))
            .flatten()
    }
}

impl Image {
    pub(super) fn open(
        storage: Arc<dyn StorageMut>,
        below: Option<Arc<dyn BlockReader>>,
        cx: &OpenContext<'_>,
    ) -> Result<Self> {
        let header = Header::read(&*storage, cx.limits)?;
        refuse_unfit(&header, below.is_some())?;
        let geometry = header.geometry;
        let mut allocator = Allocator::open(&*storage, &header, cx.limits)?;
        let l1 = read_l1(&*storage, &header, allocator.end(), cx.limits)?;
        allocator.protect(header.l1.offset, header.l1.entries * 8);
        for entry in &l1 {
            let offset = L1Entry(entry.get()).table_offset();
            if offset != 0 {
                allocator.protect(offset, geometry.cluster_size());
            }
        }
        Ok(Self {
            below: below.filter(|_| header.backing_name.is_some()),
            geometry,
            codec: header.codec,
            version_3: header.version >= 3,
            size: header.size,
            autoclear: header.features.autoclear,
            l1,
            l1_offset: header.l1.offset,
            l1_dirty: None,
            l2: ClusterCache::new(geometry.cluster_len(), cx.limits.cache_bytes),
            allocator,
            storage,
        })
    }

    /// The disk's size in bytes.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Whether a guest offset has an L2 table.
    pub(super) fn has_table(&self, guest: u64) -> bool {
        self.l1_entry(guest).table_offset() != 0
    }

    /// The entry of the cluster that holds a guest offset.
    pub(super) fn find(&mut self, guest: u64) -> Result<Found> {
        let position = self.geometry.split(guest);
        let start = guest - position.within;
        let l1_entry = self.l1_entry(guest);
        let Some(table) = self.table_offset(guest)? else {
            return Ok(Found {
                start,
                entry: L2Entry::HOLE,
                subclusters: Subclusters::HOLES,
                writable: false,
            });
        };
        let words = self.geometry.l2_entry_size() / 8;
        let bytes = self.l2.get(&*self.storage, table)?;
        let entry = L2Entry(word(bytes, position.l2_index * words));
        let bitmap = match words {
            1 => 0,
            _ => word(bytes, position.l2_index * words + 1),
        };
        let subclusters = self.check_entry(entry, bitmap, table, position.l2_index)?;
        Ok(Found {
            start,
            entry,
            subclusters,
            writable: !entry.is_compressed()
                && entry.place(false).is_some()
                && entry.is_copied()
                && l1_entry.is_copied(),
        })
    }

    /// Sets the entry of a cluster. The bitmap counts only where there are extended entries.
    pub(super) fn set(&mut self, guest: u64, entry: L2Entry, bitmap: Subclusters) -> Result<()> {
        let table = self.writable_table(guest)?;
        let index = self.geometry.split(guest).l2_index * self.geometry.l2_entry_size();
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let bytes = self.l2.get_mut(&*self.storage, table)?;
        put_word(bytes, index, entry.0);
        if self.geometry.extended_l2() {
            put_word(bytes, index + 8, bitmap.0);
        }
        Ok(())
    }

    /// What an entry referred to is used once less.
    pub(super) fn release(&mut self, entry: L2Entry) {
        if entry.is_compressed() {
            let stream = self.geometry.stream(entry);
            let (first, last) = stream.host_clusters(self.geometry);
            let mut offset = first;
            while offset <= last {
                self.allocator.release(offset);
                offset += self.geometry.cluster_size();
            }
        } else if let Some(offset) = entry.place(false) {
            self.allocator.release(offset);
        }
    }

    /// What has to be done before a cluster is changed.
    pub(super) fn prepare(&mut self) -> Result<()> {
        if self.autoclear != 0 {
            // What we do not keep up is no longer true.
            write(&*self.storage, AUTOCLEAR_FEATURES, &[0; 8])?;
            sync(&*self.storage)?;
            self.autoclear = 0;
        }
        if self.l2.is_full() || self.allocator.is_full() {
            self.commit()?;
        }
        Ok(())
    }

    /// A free cluster, counted from now on.
    pub(super) fn allocate(&mut self) -> Result<u64> {
        if self.allocator.must_grow(&*self.storage)? {
            self.commit()?;
        }
        if self.allocator.must_grow(&*self.storage)? {
            self.allocator.grow(&*self.storage)?;
        }
        self.allocator.allocate(&*self.storage)
    }

    /// Writes the tables, so that the file holds all that was done so far.
    pub(super) fn commit(&mut self) -> Result<()> {
        if self.l2.is_clean() && self.l1_dirty.is_none() && self.allocator.is_clean() {
            return Ok(());
        }
        let storage = Arc::clone(&self.storage);
        sync(&*storage)?;
        self.allocator.write(&*storage)?;
        if !self.l2.is_clean() {
            self.l2.write(&*storage)?;
            sync(&*storage)?;
        }
        if let Some((first, end)) = self.l1_dirty {
            let entries = self.l1.get(first..end).unwrap_or_default();
            write(
                &*storage,
                self.l1_offset + 8 * first as u64,
                entries.as_bytes(),
            )?;
            sync(&*storage)?;
            self.l1_dirty = None;
        }
        self.allocator.write_releases(&*storage)
    }

    /// Returns when all is on stable storage.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.commit()?;
        // Some readers want whole clusters.
        let size = self.storage.total_size()?;
        let whole = self.geometry.clusters(size) << self.geometry.cluster_bits();
        if size != whole {
            self.storage
                .set_size(whole)
                .map_err(|source| self.storage.failed("resize", whole, 0, source))?;
        }
        sync(&*self.storage)
    }

    fn l1_entry(&self, guest: u64) -> L1Entry {
        let index = usize::try_from(self.geometry.split(guest).l1_index).unwrap_or(usize::MAX);
        L1Entry(self.l1.get(index).map_or(0, |entry| entry.get()))
    }

    /// Where the L2 table of a guest offset lies, if there is one.
    fn table_offset(&self, guest: u64) -> Result<Option<u64>> {
        let offset = self.l1_entry(guest).table_offset();
        if offset == 0 {
            return Ok(None);
        }
        if !self.geometry.is_aligned(offset) || offset >= self.allocator.end() {
            let index = self.geometry.split(guest).l1_index;
            let at = self.l1_offset.saturating_add(8 * index);
            let claim = field(format!("l1_entry[{index}]"), at, self.l1_entry(guest).0);
            return Err(claim.malformed(format!("no L2 table can lie at {offset:#x}")));
        }
        Ok(Some(offset))
    }

    /// The L2 table of a guest offset, with no other user: a new one where there was none, a copy of one that is shared.
    fn writable_table(&mut self, guest: u64) -> Result<u64> {
        let old = self.table_offset(guest)?;
        if let Some(offset) = old.filter(|_| self.l1_entry(guest).is_copied()) {
            return Ok(offset);
        }
        let bytes = match old {
            Some(offset) => self.l2.get(&*self.storage, offset)?.to_vec(),
            None => vec![0; self.geometry.cluster_len()],
        };
        let offset = self.allocate()?;
        self.l2.put(offset, bytes);
        self.allocator.protect(offset, self.geometry.cluster_size());
        // Below the number of entries: a header with a shorter table is refused.
        let index = usize::try_from(self.geometry.split(guest).l1_index).unwrap_or(usize::MAX);
        if let Some(entry) = self.l1.get_mut(index) {
            *entry = L1Entry::to_table(offset, true).0.into();
        }
        let (first, end) = self.l1_dirty.unwrap_or((index, index + 1));
        self.l1_dirty = Some((first.min(index), end.max(index + 1)));
        if let Some(old) = old {
            self.allocator.release(old);
        }
        Ok(offset)
    }

    /// What the subclusters of an entry are. The entry must be one that can be.
    fn check_entry(
        &self,
        entry: L2Entry,
        bitmap: u64,
        table: u64,
        index: u64,
    ) -> Result<Subclusters> {
        let at = table + index * self.geometry.l2_entry_size();
        let claim = || field(format!("l2_entry[{index}]"), at, entry.0);
        let end = self.allocator.end();
        if entry.is_compressed() {
            let stream = self.geometry.stream(entry);
            let (first, last) = stream.host_clusters(self.geometry);
            if stream.offset >= end {
                return Err(claim().malformed("its compressed cluster lies beyond the file's end"));
            }
            if self.allocator.is_table(first) || self.allocator.is_table(last) {
                return Err(claim().malformed("its compressed cluster lies in a table"));
            }
            return Ok(Subclusters::DATA);
        }
        let place = entry.place(false);
        if let Some(offset) = place
            && (!self.geometry.is_aligned(offset) || offset >= end)
        {
            return Err(claim().malformed(format!("no cluster can lie at {offset:#x}")));
        }
        if let Some(offset) = place
            && self.allocator.is_table(offset)
        {
            return Err(claim().malformed(format!("a table lies at {offset:#x}")));
        }
        if self.geometry.extended_l2() {
            let bitmap = Subclusters(bitmap);
            return match bitmap.is_valid(place.is_some()) {
                true => Ok(bitmap),
                false => Err(claim().malformed("its bitmap is not valid")),
            };
        }
        match (entry.is_zero(), place) {
            (true, _) if !self.version_3 => {
                Err(claim().malformed("a zero cluster, in an image of version 2"))
            }
            (true, _) => Ok(Subclusters::ZEROS),
            (false, Some(_)) => Ok(Subclusters::DATA),
            (false, None) => Ok(Subclusters::HOLES),
        }
    }
}

/// Where the header has the autoclear features.
const AUTOCLEAR_FEATURES: u64 = 88;

fn refuse_unfit(header: &Header, has_below: bool) -> Result<()> {
    let why = if header.features.corrupt() {
        "writing into an image that is marked as corrupt (check and repair it first)"
    } else if header.features.dirty() {
        "writing into an image that was not closed (check and repair it first)"
    } else if header.features.data_file() {
        "writing into an image with an external data file"
    } else if header.encryption != Encryption::None {
        "writing into an encrypted image"
    } else if header.backing_name.is_some() && !has_below {
        "writing into an overlay without the image below it"
    } else {
        return Ok(());
    };
    Err(Error::unsupported(FORMAT, why))
}

fn read_l1(
    storage: &dyn StorageMut,
    header: &Header,
    end: u64,
    limits: &Limits,
) -> Result<Vec<U64>> {
    let len = header.l1.entries * 8; // at most 32 MiB
    limits.allow_table("qcow2: L1 table's bytes", len)?;
    if len == 0 {
        return Ok(Vec::new());
    }
    if header.l1.offset == 0 {
        return Err(header.l1.claim.clone().malformed("no place of an L1 table"));
    }
    header.l1.claim.clone().followed_by(len, end)?;
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    storage.read_padded(&mut bytes, header.l1.offset)?;
    Ok(<[U64]>::ref_from_bytes(&bytes).unwrap_or_default().to_vec())
}

/// A word of a table; its index is below the table's length.
fn word(bytes: &[u8], index: u64) -> u64 {
    let words = <[U64]>::ref_from_bytes(bytes).unwrap_or_default();
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    words.get(index).map_or(0, |word| word.get())
}

fn put_word(bytes: &mut [u8], at: usize, word: u64) {
    if let Some(place) = bytes.get_mut(at..at.saturating_add(8)) {
        place.copy_from_slice(U64::new(word).as_bytes());
    }
}
