//! An image that is being changed, and the order in which its tables are written.

use std::sync::{Arc, PoisonError, RwLock};

use diskette_core::{
    BlockReader, Error, Limits, OpenContext, Reference, Repair, RepairableFormat, Result, Role,
    Storage, StorageExt, StorageMut,
};
use diskette_crypto::EncryptedStorage;
use zerocopy::big_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

use super::allocator::Allocator;
use super::bitmaps::Bitmaps;
use super::cache::{ClusterCache, sync, write, write_zeros};
use super::files::{DataFile, Files};
use super::lazy::LazyRefcounts;
use super::streams::Streams;
use crate::encryption::ClusterCipher;
use crate::entry::L1Entry;
use crate::geometry::Geometry;
use crate::header::{Encryption, Header, field};
use crate::{FORMAT, Qcow2, spec};

/// An image that is being changed.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) files: Files,
    pub(super) geometry: Geometry,
    /// Whether there are zero clusters.
    pub(super) version_3: bool,
    pub(super) size: u64,
    lazy: Option<LazyRefcounts>,
    /// Autoclear features that are still set.
    pub(super) autoclear: u64,
    pub(super) l1: Vec<U64>,
    pub(super) l1_offset: u64,
    /// Entries of L1 that are to be written: the first, and the one behind the last.
    pub(super) l1_dirty: Option<(usize, usize)>,
    pub(super) l2: ClusterCache,
    pub(super) allocator: Allocator,
    pub(super) bitmaps: Bitmaps,
    /// How clusters are compressed that get a new place, if they are.
    pub(super) streams: Option<Streams>,
    /// Held for reading while clusters are read or written without a lock on the image. Who takes it whole knows that nobody
    /// reads or writes a cluster that was given up.
    io: Arc<RwLock<()>>,
    pub(super) limits: Limits,
}

impl Image {
    pub(super) fn open(
        storage: Arc<dyn StorageMut>,
        below: Option<Arc<dyn BlockReader>>,
        io: Arc<RwLock<()>>,
        cx: &OpenContext<'_>,
    ) -> Result<Self> {
        Self::settle(Arc::clone(&storage), cx)?;
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
        let bitmaps = Bitmaps::open(&*storage, &header, cx.limits)?;
        for (offset, len) in bitmaps.tables() {
            allocator.protect(offset, len);
        }
        let data_file = data_file(&*storage, &header, cx)?;
        let sealed = sealed(&storage, data_file.as_ref(), &header, cx)?;
        Ok(Self {
            files: Files {
                sealed,
                below: below.filter(|_| header.backing_name.is_some()),
                data_file,
                storage,
                geometry,
                codec: header.codec,
            },
            geometry,
            version_3: header.version >= 3,
            size: header.size,
            lazy: LazyRefcounts::of(&header),
            autoclear: header.features.autoclear,
            l1,
            l1_offset: header.l1.offset,
            l1_dirty: None,
            l2: ClusterCache::new(geometry.cluster_len(), cx.limits.cache_bytes),
            allocator,
            bitmaps,
            streams: None,
            io,
            limits: cx.limits.clone(),
        })
    }

    /// Counts anew where refcounts were put off, or lost, if they can be had again, as QEMU does it.
    pub(super) fn settle(storage: Arc<dyn StorageMut>, cx: &OpenContext<'_>) -> Result<()> {
        let features = Header::read(&*storage, cx.limits)?.features;
        if features.dirty() && !features.corrupt() {
            Qcow2.repair(storage, Repair::All, cx)?;
        }
        Ok(())
    }

    /// The image's own file.
    pub(super) fn storage(&self) -> Arc<dyn StorageMut> {
        Arc::clone(&self.files.storage)
    }

    /// What has to be done before anything is changed.
    pub(super) fn prepare(&mut self) -> Result<()> {
        let mut kept = match &self.files.data_file {
            Some(data_file) if data_file.is_raw => spec::AUTOCLEAR_DATA_FILE_RAW,
            _ => 0,
        };
        if self.bitmaps.are_there() {
            kept |= spec::AUTOCLEAR_BITMAPS;
        }
        if self.autoclear & !kept != 0 {
            // What we do not keep up is no longer true.
            self.write_autoclear(self.autoclear & kept)?;
        }
        if self.l2.is_full() || self.allocator.is_full() {
            self.commit()?;
        }
        Ok(())
    }

    /// Sets the autoclear features, on stable storage.
    pub(super) fn write_autoclear(&mut self, word: u64) -> Result<()> {
        let bytes = U64::new(word);
        write(&*self.files.storage, AUTOCLEAR_FEATURES, bytes.as_bytes())?;
        sync(&*self.files.storage)?;
        self.autoclear = word;
        Ok(())
    }

    /// Free clusters in a row, counted from now on.
    pub(super) fn allocate(&mut self, count: u64) -> Result<u64> {
        let storage = self.storage();
        if let Some(offset) = self.allocator.allocate(&*storage, count)? {
            return Ok(offset);
        }
        self.commit()?;
        if let Some(offset) = self.allocator.allocate(&*storage, count)? {
            return Ok(offset);
        }
        self.commit()?;
        self.allocator.write(&*storage)?;
        self.allocator.grow(&*storage, count)?;
        let found = self.allocator.allocate(&*storage, count)?;
        found.ok_or_else(|| Error::unsupported(FORMAT, "a refcount table that is full"))
    }

    /// Free clusters for a table of `len` bytes, counted from now on. An empty table has no place.
    pub(super) fn allocate_table(&mut self, len: u64) -> Result<u64> {
        if len == 0 {
            return Ok(0);
        }
        let offset = self.allocate(self.geometry.clusters(len))?;
        self.allocator.protect(offset, len);
        Ok(offset)
    }

    /// Gives up a table's clusters. Nothing on stable storage may lead to it.
    pub(super) fn release_table(&mut self, offset: u64, len: u64) {
        for cluster in 0..self.geometry.clusters(len) {
            let into = cluster << self.geometry.cluster_bits();
            self.allocator.release(offset.saturating_add(into));
        }
    }

    /// Returns when nobody reads or writes clusters without the lock. As long as the caller has it, nobody will.
    pub(super) fn wait_for_others(&self) {
        drop(self.io.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Writes the tables, so that the file holds all that was done so far: each after what it leads to.
    pub(super) fn commit(&mut self) -> Result<()> {
        if self.l2.is_clean() && self.l1_dirty.is_none() && self.allocator.is_clean() {
            return Ok(());
        }
        let storage = self.storage();
        if let Some(data_file) = &self.files.data_file {
            sync(&*data_file.storage)?;
        }
        match &mut self.lazy {
            Some(lazy) if !self.allocator.is_full() => lazy.begin(&*storage)?,
            _ => self.allocator.write(&*storage)?,
        }
        if !self.l2.is_clean() {
            self.l2.write(&*storage)?;
            sync(&*storage)?;
        }
        if let Some((first, end)) = self.l1_dirty {
            let entries = self.l1.get(first..end).unwrap_or_default();
            let at = self.l1_offset + 8 * first as u64;
            write(&*storage, at, entries.as_bytes())?;
            sync(&*storage)?;
            self.l1_dirty = None;
        }
        self.free()
    }

    /// Gives back what nothing on stable storage leads to any more.
    fn free(&mut self) -> Result<()> {
        let storage = self.storage();
        let io = Arc::clone(&self.io);
        let _alone = io.write().unwrap_or_else(PoisonError::into_inner);
        let freed = self.allocator.count_releases(&*storage)?;
        if self.lazy.is_none() {
            self.allocator.write_blocks(&*storage)?;
        }
        let file_size = storage.total_size()?;
        let cluster_size = self.geometry.cluster_size();
        for run in freed {
            if let Some(streams) = &mut self.streams {
                streams.forget(&run);
            }
            for offset in run.clone().step_by(self.geometry.cluster_len()) {
                self.l2.forget(offset);
                self.bitmaps.forget(offset);
            }
            // The last cluster may be short.
            let end = run.end.min(file_size / cluster_size * cluster_size);
            if run.start < end {
                write_zeros(&*storage, run.start, end - run.start)?;
            }
        }
        Ok(())
    }

    /// Writes all that is still to be written, refcounts that were put off and bitmaps among it.
    pub(super) fn close(&mut self) -> Result<()> {
        self.commit()?;
        self.store_bitmaps()?;
        let storage = self.storage();
        match &mut self.lazy {
            Some(lazy) if lazy.is_marked => {
                self.allocator.write(&*storage)?;
                lazy.end(&*storage)
            }
            _ => Ok(()),
        }
    }

    /// Returns when all is on stable storage.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.commit()?;
        // Some readers want whole clusters.
        let storage = self.storage();
        let size = storage.total_size()?;
        let whole = self.geometry.clusters(size) << self.geometry.cluster_bits();
        if size != whole {
            storage
                .set_size(whole)
                .map_err(|source| storage.failed("resize", whole, 0, source))?;
        }
        if let Some(data_file) = &self.files.data_file {
            sync(&*data_file.storage)?;
        }
        sync(&*storage)
    }
}

/// Where the header has the autoclear features.
const AUTOCLEAR_FEATURES: u64 = 88;

fn refuse_unfit(header: &Header, has_below: bool) -> Result<()> {
    let why = if header.features.corrupt() {
        "writing into an image that is marked as corrupt (check and repair it first)"
    } else if header.features.dirty() {
        "writing into an image that was not closed (check and repair it first)"
    } else if header.encryption != Encryption::None && header.features.data_file_raw() {
        "writing into an encrypted image whose data file is the disk by itself"
    } else if header.backing_name.is_some() && !has_below {
        "writing into an overlay without the image below it"
    } else {
        return Ok(());
    };
    Err(Error::unsupported(FORMAT, why))
}

/// The file that holds the clusters, behind the image's cipher; `None` where nothing is enciphered.
fn sealed(
    storage: &Arc<dyn StorageMut>,
    data_file: Option<&DataFile>,
    header: &Header,
    cx: &OpenContext<'_>,
) -> Result<Option<Arc<EncryptedStorage>>> {
    let Some(cipher) = ClusterCipher::open(&**storage, header.encryption, cx)? else {
        return Ok(None);
    };
    let payload = data_file.map_or(storage, |data_file| &data_file.storage);
    let sealed = cipher.before(Arc::clone(payload))?;
    Ok(Some(Arc::new(sealed)))
}

/// The file that holds the guest's data, opened to be changed.
fn data_file(
    storage: &dyn Storage,
    header: &Header,
    cx: &OpenContext<'_>,
) -> Result<Option<DataFile>> {
    let features = header.features;
    let claim = field("header.autoclear_features", 88, features.autoclear);
    match (features.data_file(), features.data_file_raw()) {
        (false, false) => return Ok(None),
        (false, true) => return Err(claim.malformed("a raw data file, but no data file")),
        (true, true) if header.backing_name.is_some() => {
            return Err(claim.malformed("a raw data file, over a backing file"));
        }
        (true, _) => {}
    }
    let Some(name) = header.extensions.data_file_name.clone() else {
        let claim = field("header.incompatible_features", 72, features.incompatible);
        return Err(claim.malformed("a data file, but its name is missing"));
    };
    let reference = Reference::new(Role::DataFile, name).with_format("raw");
    Ok(Some(DataFile {
        storage: cx.files.open_mut(&reference, storage)?,
        is_raw: features.data_file_raw(),
    }))
}

fn read_l1(storage: &dyn Storage, header: &Header, end: u64, limits: &Limits) -> Result<Vec<U64>> {
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
