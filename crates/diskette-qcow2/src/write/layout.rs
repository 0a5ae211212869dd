//! A whole new image, written once and in guest order.
//!
//! ```text
//!  header │ data, as they come │ L2 tables │ refcount table │ refcount blocks │ L1 table
//! ```
//!
//! The tables follow the data, so that these can be stored while nothing is known of what comes behind them. An image
//! without data is laid out as qemu-img does it.

use std::ops::Range;
use std::sync::Arc;

use diskette_core::{Error, ImageWriter, Packed, Packer, Result, StorageExt, StorageMut};
use zerocopy::IntoBytes;
use zerocopy::big_endian::U64;

use super::batch::Batch;
use super::encrypt::{LuksPlace, NewEncryption};
use super::header::{self, Places};
use super::host::HostSpace;
use super::options::{Preallocation, Settings, Version};
use super::pack::ClusterPacker;
use super::refcounts::{RefcountClusters, refcount_clusters};
use super::tables::NewTables;
use crate::FORMAT;
use crate::entry::{L1Entry, L2Entry, Subclusters};
use crate::geometry::Geometry;
use crate::refcount::set_refcount;

/// Lays out a new image.
#[derive(Debug)]
pub(super) struct Layout {
    settings: Settings,
    storage: Arc<dyn StorageMut>,
    /// The file for guest data alone, in which each cluster lies at its guest offset.
    data_file: Option<Arc<dyn StorageMut>>,
    /// Where packed chunks are written: one of these, perhaps behind a cipher.
    data: Arc<dyn StorageMut>,
    luks: Option<LuksPlace>,
    /// What the last cluster has behind the disk's end, if it is enciphered: host offset and bytes.
    tail: Option<(u64, u64)>,
    packer: Arc<ClusterPacker>,
    host: HostSpace,
    tables: NewTables,
}

impl Layout {
    pub(super) fn new(
        storage: Arc<dyn StorageMut>,
        data_file: Option<Arc<dyn StorageMut>>,
        settings: Settings,
        encryption: Option<NewEncryption>,
    ) -> Result<Self> {
        let luks = settings.luks.map(|_| LuksPlace { offset: 0, len: 0 });
        let places = Places {
            luks,
            ..Places::default()
        };
        header::header(&settings, places)?;
        let packer = Arc::new(ClusterPacker::new(&settings)?);
        let geometry = settings.geometry;
        storage
            .set_size(0)
            .map_err(|source| storage.failed("truncate", 0, 0, source))?;
        let clusters = geometry.clusters(settings.size);
        let mut host = HostSpace::new(geometry);
        let payload = data_file.as_ref().unwrap_or(&storage);
        let (luks, data) = match encryption {
            None => (None, Arc::clone(payload)),
            Some(encryption) => {
                let (place, data) = encryption.write(&storage, payload, &mut host, &settings)?;
                (Some(place), data)
            }
        };
        let preallocated = match settings.preallocation {
            Preallocation::Off => None,
            _ if data_file.is_some() => Some(0),
            _ => Some(host.clusters(clusters)?),
        };
        let layout = Self {
            tables: NewTables::new(geometry, clusters, preallocated),
            settings,
            storage,
            data_file,
            data,
            luks,
            tail: None,
            packer,
            host,
        };
        layout.preallocate()?;
        Ok(layout)
    }

    fn preallocate(&self) -> Result<()> {
        if let Some(data_file) = &self.data_file {
            set_size(&**data_file, self.settings.size)?;
        }
        let Some(first) = self.tables.preallocated() else {
            return Ok(());
        };
        let (storage, len) = match &self.data_file {
            Some(data_file) => (data_file, self.settings.size),
            None => {
                let end = self.host.end() << self.geometry().cluster_bits();
                (&self.storage, end - first)
            }
        };
        match self.settings.preallocation {
            Preallocation::Off | Preallocation::Metadata => Ok(()),
            Preallocation::Reserved => storage
                .allocate(first, len)
                .map_err(|source| storage.failed("allocate", first, len, source)),
            Preallocation::Full => {
                let mut batch = Batch::new(&**storage);
                batch.zeros(first, len)?;
                batch.write()
            }
        }
    }

    const fn geometry(&self) -> Geometry {
        self.settings.geometry
    }

    /// The guest offsets of the clusters of a chunk, and each cluster's bytes within the disk.
    fn clusters_of(&self, chunk: u64) -> impl Iterator<Item = (u64, u64)> + use<> {
        let cluster_size = self.geometry().cluster_size();
        let chunk_size = u64::from(self.packer.chunk_size());
        let size = self.settings.size;
        let end = chunk.saturating_add(chunk_size).min(size);
        (chunk / cluster_size..self.geometry().clusters(end)).map(move |cluster| {
            let guest = cluster * cluster_size;
            (guest, cluster_size.min(size - guest))
        })
    }

    fn place_zeros(&mut self, chunk: u64) -> Result<()> {
        if self.settings.backing.is_none() {
            return Ok(());
        }
        if self.settings.version == Version::V2 {
            if self.luks.is_some() {
                let feature = "zeros that are not written, in an encrypted overlay of version 2";
                return Err(Error::unsupported(FORMAT, feature));
            }
            // There are no zero clusters: what is stored nowhere in a cluster of a new file reads as zeros.
            return self.place_plain(chunk).map(|_| ());
        }
        for (guest, _) in self.clusters_of(chunk) {
            let entry = match self.tables.preallocated() {
                Some(first) => L2Entry::data(first + guest, true),
                None if self.geometry().extended_l2() => L2Entry::HOLE,
                None => L2Entry::ZERO,
            };
            self.tables.set(guest, entry, Subclusters::ZEROS);
        }
        Ok(())
    }

    fn place_plain(&mut self, chunk: u64) -> Result<u64> {
        let count = self.clusters_of(chunk).count() as u64;
        let host = match self.tables.preallocated() {
            Some(first) => first + chunk,
            None if self.data_file.is_some() => chunk,
            None => self.host.clusters(count)?,
        };
        if self.tables.preallocated().is_some() && !self.geometry().extended_l2() {
            return Ok(host);
        }
        let missing =
            (count << self.geometry().cluster_bits()).saturating_sub(self.settings.size - chunk);
        if self.luks.is_some() && self.data_file.is_none() && missing > 0 {
            self.tail = Some((host + (self.settings.size - chunk), missing));
        }
        for (guest, len) in self.clusters_of(chunk) {
            let entry = L2Entry::data(host + (guest - chunk), true);
            self.tables.set(guest, entry, self.subclusters(len));
        }
        Ok(host)
    }

    /// The bitmap of a cluster of which `len` bytes belong to the disk.
    fn subclusters(&self, len: u64) -> Subclusters {
        let missing = 32_u64.saturating_sub(len.div_ceil(self.geometry().subcluster_size()));
        Subclusters(Subclusters::DATA.0 >> missing)
    }

    fn place_stream(&mut self, chunk: u64, len: u64) -> Result<u64> {
        let host = self.host.stream(len)?;
        let entry = self
            .geometry()
            .compressed(host, len)
            .ok_or_else(|| Error::unsupported(FORMAT, "a compressed image of this size"))?;
        self.tables.set(chunk, entry, Subclusters::HOLES);
        Ok(host)
    }

    /// Makes zeros of what the last cluster has behind the disk's end: who lets the disk grow shows them.
    fn write_tail(&self) -> Result<()> {
        let Some((host, len)) = self.tail else {
            return Ok(());
        };
        self.data
            .write_zeros(host, len)
            .map_err(|source| self.data.failed("write", host, len, source))
    }

    /// Settles where the tables lie, and writes them.
    fn write_tables(&mut self) -> Result<Places> {
        let mut batch = Batch::new(&*self.storage);
        let free = self.host.end_streams();
        let l1_table = write_l2_tables(&self.tables, &mut self.host, free, &mut batch)?;
        let geometry = self.settings.geometry;
        let l1_clusters = geometry.clusters(l1_table.len() as u64 * 8);
        let refcounts = refcount_clusters(geometry, self.host.end() + l1_clusters);
        let places = Places {
            refcount_table_offset: self.host.clusters(refcounts.table)?,
            refcount_table_clusters: refcounts.table,
            l1_table_offset: 0,
            luks: self.luks,
        };
        let blocks_offset = self.host.clusters(refcounts.blocks)?;
        let places = Places {
            l1_table_offset: self.host.clusters(l1_clusters)?,
            ..places
        };
        write_refcounts(
            &self.host,
            geometry,
            places,
            blocks_offset,
            refcounts,
            &mut batch,
        )?;
        batch.add(places.l1_table_offset, l1_table.as_bytes())?;
        batch.write()?;
        Ok(places)
    }
}

fn set_size(storage: &dyn StorageMut, size: u64) -> Result<()> {
    storage
        .set_size(size)
        .map_err(|source| storage.failed("resize", size, 0, source))
}

/// Writes the L2 tables, and gives the L1 table that leads to them.
fn write_l2_tables(
    tables: &NewTables,
    host: &mut HostSpace,
    mut free: Range<u64>,
    batch: &mut Batch<'_>,
) -> Result<Vec<U64>> {
    let mut l1_table = vec![U64::ZERO; tables.l1_len()];
    for l1_index in tables.indices() {
        let offset = match free.next() {
            Some(cluster) => host.take_free(cluster),
            None => host.clusters(1)?,
        };
        batch.add(offset, &tables.bytes(l1_index))?;
        let index = usize::try_from(l1_index).unwrap_or(usize::MAX);
        if let Some(entry) = l1_table.get_mut(index) {
            *entry = L1Entry::to_table(offset, true).0.into();
        }
    }
    Ok(l1_table)
}

/// Writes the refcount table, and its blocks behind it.
pub(super) fn write_refcounts(
    host: &HostSpace,
    geometry: Geometry,
    places: Places,
    blocks_offset: u64,
    clusters: RefcountClusters,
    batch: &mut Batch<'_>,
) -> Result<()> {
    let block_offset = |block: u64| blocks_offset + (block << geometry.cluster_bits());
    let table: Vec<U64> = (0..clusters.blocks)
        .map(|block| block_offset(block).into())
        .collect();
    batch.add(places.refcount_table_offset, table.as_bytes())?;
    let per_block = geometry.refcounts_per_block();
    let mut bytes = vec![0; geometry.cluster_len()];
    for block in 0..clusters.blocks {
        bytes.fill(0);
        let first = block * per_block;
        for (index, cluster) in (first..host.end().min(first + per_block)).enumerate() {
            let count = host.counts().get(cluster);
            set_refcount(&mut bytes, index, geometry.refcount_order(), count);
        }
        batch.add(block_offset(block), &bytes)?;
    }
    Ok(())
}

impl ImageWriter for Layout {
    fn packer(&self) -> Arc<dyn Packer> {
        Arc::clone(&self.packer) as Arc<dyn Packer>
    }

    fn storage(&self) -> Arc<dyn StorageMut> {
        Arc::clone(&self.data)
    }

    fn place(&mut self, offset: u64, packed: Packed, len: u64) -> Result<Option<u64>> {
        let chunk_size = u64::from(self.packer.chunk_size());
        let size = self.settings.size;
        let fits = len > 0 && len <= chunk_size && offset < size;
        if !fits || !offset.is_multiple_of(chunk_size) {
            return Err(Error::OutOfRange { offset, len, size });
        }
        match packed {
            Packed::Zero => self.place_zeros(offset).map(|()| None),
            Packed::Plain => self.place_plain(offset).map(Some),
            Packed::Compressed => self.place_stream(offset, len).map(Some),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.write_tail()?;
        let places = self.write_tables()?;
        if let Some(data_file) = &self.data_file {
            // Some chunks may have been written whole, behind the disk's end.
            set_size(&**data_file, self.settings.size)?;
        }
        let size = self.host.end() << self.geometry().cluster_bits();
        let storage = &*self.storage;
        set_size(storage, size)?;
        let mut batch = Batch::new(storage);
        batch.add(0, &header::header(&self.settings, places)?)?;
        batch.write()
    }
}
