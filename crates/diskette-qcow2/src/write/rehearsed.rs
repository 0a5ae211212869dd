//! A whole new image with compressed clusters whose tables come first, so that it can go into a pipe: the disk is gone
//! through twice, for only who has compressed all of it knows where anything lies.
//!
//! ```text
//!  header │ refcount table │ refcount blocks │ L1 table │ L2 tables │ streams and clusters, in guest order
//! ```
//!
//! Compressing is deterministic, so that the second pass finds the places that the first has noted down; it is held
//! against them all the same.

use std::sync::{Arc, Mutex, PoisonError};

use diskette_core::{
    Error, ImageWriter, Packed, Packer, Rehearsal, Result, StorageExt, StorageMut,
};
use zerocopy::IntoBytes;
use zerocopy::big_endian::U64;

use super::batch::Batch;
use super::header::{self, Places};
use super::host::HostSpace;
use super::in_order::subclusters;
use super::layout::write_refcounts;
use super::options::Settings;
use super::pack::ClusterPacker;
use super::refcounts::refcount_clusters;
use super::tables::NewTables;
use crate::FORMAT;
use crate::entry::{L1Entry, L2Entry, Subclusters};

/// An image between its two passes.
#[derive(Debug)]
pub(super) struct Rehearsed {
    settings: Settings,
    packer: Arc<ClusterPacker>,
    nowhere: Arc<dyn StorageMut>,
    /// What the first pass has found, once it is over.
    found: Arc<Mutex<Option<Map>>>,
}

/// Where things lie, as if there were nothing between them and the header.
#[derive(Debug)]
struct Map {
    host: HostSpace,
    tables: NewTables,
}

impl Rehearsed {
    pub(super) fn new(nowhere: Arc<dyn StorageMut>, settings: Settings) -> Result<Self> {
        header::header(&settings, Places::default())?;
        Ok(Self {
            packer: Arc::new(ClusterPacker::new(&settings)?),
            settings,
            nowhere,
            found: Arc::default(),
        })
    }
}

impl Rehearsal for Rehearsed {
    fn writer(&mut self) -> Box<dyn ImageWriter> {
        let geometry = self.settings.geometry;
        let clusters = geometry.clusters(self.settings.size);
        Box::new(First {
            settings: self.settings.clone(),
            packer: Arc::clone(&self.packer),
            nowhere: Arc::clone(&self.nowhere),
            map: Map {
                host: HostSpace::new(geometry),
                tables: NewTables::new(geometry, clusters, None),
            },
            found: Arc::clone(&self.found),
        })
    }

    fn perform(self: Box<Self>, to: Arc<dyn StorageMut>) -> Result<Box<dyn ImageWriter>> {
        let found = self
            .found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let found = found.ok_or_else(|| Error::unsupported(FORMAT, "a second pass alone"))?;
        let geometry = self.settings.geometry;
        let before = write_before_data(&self.settings, found, &*to)?;
        let mut host = HostSpace::new(geometry);
        host.clusters(before.clusters)?;
        Ok(Box::new(Second {
            settings: self.settings,
            packer: self.packer,
            storage: to,
            host,
            tables: before.tables,
        }))
    }
}

/// Places a chunk: its host offset, and its entry.
fn place(
    host: &mut HostSpace,
    settings: &Settings,
    packed: Packed,
    len: u64,
) -> Result<Option<(u64, L2Entry)>> {
    match packed {
        Packed::Zero => Ok(None),
        Packed::Plain => {
            host.end_streams();
            let offset = host.clusters(1)?;
            Ok(Some((offset, L2Entry::data(offset, true))))
        }
        Packed::Compressed => {
            let offset = host.stream(len)?;
            let entry = settings.geometry.compressed(offset, len);
            let entry = entry.ok_or_else(too_large)?;
            Ok(Some((offset, entry)))
        }
    }
}

fn too_large() -> Error {
    Error::unsupported(FORMAT, "a compressed image of this size")
}

/// What lies between the header and the data, and is written.
struct Before {
    clusters: u64,
    tables: NewTables,
}

/// Writes the header and all tables of a map, which moves behind them.
fn write_before_data(settings: &Settings, map: Map, storage: &dyn StorageMut) -> Result<Before> {
    let geometry = settings.geometry;
    let Map { host, mut tables } = map;
    let indices: Vec<u64> = tables.indices().collect();
    let l1_clusters = geometry.clusters(tables.l1_len() as u64 * 8);
    let l2_clusters = indices.len() as u64;
    let refcounts = refcount_clusters(geometry, host.end() + l1_clusters + l2_clusters);
    let clusters = refcounts.total() + l1_clusters + l2_clusters;
    let host = host.moved_by(clusters)?;
    let bytes = |clusters: u64| clusters << geometry.cluster_bits();
    geometry
        .compressed(bytes(host.end()), 1)
        .ok_or_else(too_large)?;
    tables.move_by(bytes(clusters));

    let blocks_offset = bytes(1 + refcounts.table);
    let l1_table_offset = bytes(1 + refcounts.total());
    let l2_offset = |number: usize| bytes(1 + refcounts.total() + l1_clusters + number as u64);
    let places = Places {
        refcount_table_offset: bytes(1),
        refcount_table_clusters: refcounts.table,
        l1_table_offset,
        luks: None,
    };
    let mut l1_table = vec![U64::ZERO; tables.l1_len()];
    for (number, l1_index) in indices.iter().enumerate() {
        let index = usize::try_from(*l1_index).unwrap_or(usize::MAX);
        if let Some(entry) = l1_table.get_mut(index) {
            *entry = L1Entry::to_table(l2_offset(number), true).0.into();
        }
    }
    storage
        .set_size(0)
        .map_err(|source| storage.failed("truncate", 0, 0, source))?;
    let mut batch = Batch::new(storage);
    batch.add(0, &header::header(settings, places)?)?;
    write_refcounts(
        &host,
        geometry,
        places,
        blocks_offset,
        refcounts,
        &mut batch,
    )?;
    batch.add(l1_table_offset, l1_table.as_bytes())?;
    for (number, l1_index) in indices.iter().enumerate() {
        batch.add(l2_offset(number), &tables.bytes(*l1_index))?;
    }
    batch.write()?;
    Ok(Before { clusters, tables })
}

/// Sees all chunks, and writes none.
#[derive(Debug)]
struct First {
    settings: Settings,
    packer: Arc<ClusterPacker>,
    nowhere: Arc<dyn StorageMut>,
    map: Map,
    found: Arc<Mutex<Option<Map>>>,
}

impl ImageWriter for First {
    fn packer(&self) -> Arc<dyn Packer> {
        Arc::<ClusterPacker>::clone(&self.packer)
    }

    fn storage(&self) -> Arc<dyn StorageMut> {
        Arc::clone(&self.nowhere)
    }

    fn place(&mut self, offset: u64, packed: Packed, len: u64) -> Result<Option<u64>> {
        if let Some((_, entry)) = place(&mut self.map.host, &self.settings, packed, len)? {
            let bitmap = match packed {
                Packed::Plain => subclusters(&self.settings, offset),
                Packed::Compressed | Packed::Zero => Subclusters::HOLES,
            };
            self.map.tables.set(offset, entry, bitmap);
        }
        Ok(None)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.map.host.end_streams();
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        *found = Some(self.map);
        Ok(())
    }
}

/// Writes the chunks, behind the tables.
#[derive(Debug)]
struct Second {
    settings: Settings,
    packer: Arc<ClusterPacker>,
    storage: Arc<dyn StorageMut>,
    host: HostSpace,
    tables: NewTables,
}

impl ImageWriter for Second {
    fn packer(&self) -> Arc<dyn Packer> {
        Arc::<ClusterPacker>::clone(&self.packer)
    }

    fn storage(&self) -> Arc<dyn StorageMut> {
        Arc::clone(&self.storage)
    }

    fn place(&mut self, offset: u64, packed: Packed, len: u64) -> Result<Option<u64>> {
        let placed = place(&mut self.host, &self.settings, packed, len)?;
        let entry = placed.map_or(L2Entry::HOLE, |(_, entry)| entry);
        if entry != self.tables.get(offset) {
            let feature = "a source that changes while it is gone through twice";
            return Err(Error::unsupported(FORMAT, feature));
        }
        Ok(placed.map(|(offset, _)| offset))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.host.end_streams();
        let size = self.host.end() << self.settings.geometry.cluster_bits();
        let storage = &*self.storage;
        storage
            .set_size(size)
            .map_err(|source| storage.failed("resize", size, 0, source))
    }
}
