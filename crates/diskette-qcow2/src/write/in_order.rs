//! A whole new image whose tables come first: for this its data must be known ahead, as far as where they are.
//!
//! ```text
//!  header │ refcount table │ refcount blocks │ L1 table │ L2 tables │ data, in guest order
//! ```
//!
//! All bytes are written in ascending order, and none twice, so that it can go into a pipe. What is said to be data and
//! is found to be zeros keeps its place: it is passed over, and the storage has zeros there.

use std::ops::Range;
use std::sync::Arc;

use diskette_core::{
    Error, ImageWriter, Packed, Packer, Result, StorageExt, StorageMut, round_down, round_up,
};
use zerocopy::IntoBytes;
use zerocopy::big_endian::U64;

use super::batch::Batch;
use super::header::{self, Places};
use super::host::HostSpace;
use super::layout::write_refcounts;
use super::options::{Preallocation, Settings};
use super::pack::ClusterPacker;
use super::refcounts::refcount_clusters;
use crate::FORMAT;
use crate::entry::{L1Entry, L2Entry, Subclusters};

/// Takes the data of an image whose tables are written.
#[derive(Debug)]
pub(super) struct InOrder {
    settings: Settings,
    storage: Arc<dyn StorageMut>,
    packer: Arc<ClusterPacker>,
    runs: Vec<Run>,
    /// The run in which a chunk was placed last.
    current: usize,
    /// Bytes of the file.
    size: u64,
}

/// Data that follow one another, in the disk and in the file. All in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    guest: Range<u64>,
    host: u64,
}

impl InOrder {
    /// Writes all but the data.
    pub(super) fn new(
        storage: Arc<dyn StorageMut>,
        settings: Settings,
        data: Option<&[Range<u64>]>,
    ) -> Result<Self> {
        refuse(&settings)?;
        let Some(data) = data else {
            let feature =
                "a stream of a disk that can be read only once: its tables come before its data";
            return Err(Error::unsupported(FORMAT, feature));
        };
        let packer = Arc::new(ClusterPacker::new(&settings)?);
        let mut layout = Self {
            runs: whole_chunks(data, packer.chunk_size().into(), &settings),
            settings,
            storage,
            packer,
            current: 0,
            size: 0,
        };
        let storage = &*layout.storage;
        storage
            .set_size(0)
            .map_err(|source| storage.failed("truncate", 0, 0, source))?;
        layout.write_tables()?;
        Ok(layout)
    }

    fn write_tables(&mut self) -> Result<()> {
        let geometry = self.settings.geometry;
        let tables = self.tables();
        let l1_len = geometry.l1_entries(self.settings.size);
        let l1_clusters = geometry.clusters(l1_len * 8);
        let data = self.runs.iter();
        let data: u64 = data.map(|run| run.guest.end - run.guest.start).sum();
        let data = geometry.clusters(data);
        // The header is one more.
        let others = 1 + l1_clusters + tables.len() as u64 + data;
        let refcounts = refcount_clusters(geometry, others);
        let mut host = HostSpace::new(geometry);
        let refcount_table_offset = host.clusters(refcounts.table)?;
        let blocks_offset = host.clusters(refcounts.blocks)?;
        let places = Places {
            refcount_table_offset,
            refcount_table_clusters: refcounts.table,
            l1_table_offset: host.clusters(l1_clusters)?,
            luks: None,
        };
        let tables_offset = host.clusters(tables.len() as u64)?;
        let mut next = host.clusters(data)?;
        for run in &mut self.runs {
            run.host = next;
            next += run.guest.end - run.guest.start;
        }
        self.size = host.end() << geometry.cluster_bits();

        let mut batch = Batch::new(&*self.storage);
        batch.add(0, &header::header(&self.settings, places)?)?;
        write_refcounts(
            &host,
            geometry,
            places,
            blocks_offset,
            refcounts,
            &mut batch,
        )?;
        let table_offset =
            |number: usize| tables_offset + ((number as u64) << geometry.cluster_bits());
        // At most 32 MiB, by the check of the disk's size.
        let mut l1_table = vec![U64::ZERO; usize::try_from(l1_len).unwrap_or(usize::MAX)];
        for (number, l1_index) in tables.iter().enumerate() {
            let index = usize::try_from(*l1_index).unwrap_or(usize::MAX);
            if let Some(entry) = l1_table.get_mut(index) {
                *entry = L1Entry::to_table(table_offset(number), true).0.into();
            }
        }
        batch.add(places.l1_table_offset, l1_table.as_bytes())?;
        for (number, l1_index) in tables.iter().enumerate() {
            batch.add(table_offset(number), self.table(*l1_index).as_bytes())?;
        }
        batch.write()
    }

    /// The indices of the L2 tables that are needed, in ascending order.
    fn tables(&self) -> Vec<u64> {
        let geometry = self.settings.geometry;
        let mut tables = Vec::new();
        for run in &self.runs {
            let first = geometry.split(run.guest.start).l1_index;
            let last = geometry.split(run.guest.end - 1).l1_index;
            let passed = tables.last().map_or(0, |last| last + 1);
            tables.extend(first.max(passed)..=last);
        }
        tables
    }

    /// The L2 table of this index.
    fn table(&self, l1_index: u64) -> Vec<U64> {
        let geometry = self.settings.geometry;
        let cluster_size = geometry.cluster_size();
        let words = if geometry.extended_l2() { 2 } else { 1 };
        let mut table = vec![U64::ZERO; geometry.cluster_len() / 8];
        let start = geometry.cluster_start(l1_index, 0);
        let end = start.saturating_add(geometry.l2_coverage());
        let first = self.runs.partition_point(|run| run.guest.end <= start);
        let runs = self.runs[first..].iter();
        for run in runs.take_while(|run| run.guest.start < end) {
            let mut guest = run.guest.start.max(start);
            while guest < run.guest.end.min(end) {
                let host = run.host + (guest - run.guest.start);
                // Below the number of entries of a table, which is in memory.
                let index = usize::try_from((guest - start) / cluster_size).unwrap_or(usize::MAX);
                table[index * words] = L2Entry::data(host, true).0.into();
                if words > 1 {
                    table[index * words + 1] = subclusters(&self.settings, guest).0.into();
                }
                guest += cluster_size;
            }
        }
        table
    }

    /// The host offset of the chunk at `offset`, which comes behind all those before.
    fn host_offset(&mut self, offset: u64) -> Option<u64> {
        let runs = self.runs[self.current..].iter();
        self.current += runs.take_while(|run| run.guest.end <= offset).count();
        let run = self.runs.get(self.current)?;
        run.guest
            .contains(&offset)
            .then(|| run.host + (offset - run.guest.start))
    }
}

/// The bitmap of the cluster at `guest`: those of its subclusters that belong to the disk hold data.
pub(super) fn subclusters(settings: &Settings, guest: u64) -> Subclusters {
    let geometry = settings.geometry;
    let len = (settings.size - guest).min(geometry.cluster_size());
    let missing = 32_u64.saturating_sub(len.div_ceil(geometry.subcluster_size()));
    Subclusters(Subclusters::DATA.0 >> missing)
}

/// What cannot be known ahead.
fn refuse(settings: &Settings) -> Result<()> {
    if settings.compress {
        let feature = "a stream with compressed clusters in one pass: its tables need their sizes";
        return Err(Error::unsupported(FORMAT, feature));
    }
    refuse_all_but_compression(settings)
}

/// The same, but for what a first pass finds out.
pub(super) fn refuse_all_but_compression(settings: &Settings) -> Result<()> {
    let feature = match settings.preallocation {
        _ if settings.luks.is_some() => "an encrypted image in a stream",
        _ if settings.backing.is_some() => "a stream over a backing file",
        _ if settings.data_file.is_some() => "a data file beside a stream",
        Preallocation::Off => return Ok(()),
        _ => "preallocation in a stream",
    };
    Err(Error::unsupported(FORMAT, feature))
}

/// The chunks in which there are data, with no place yet. Whole clusters, also at the disk's end.
fn whole_chunks(data: &[Range<u64>], chunk_size: u64, settings: &Settings) -> Vec<Run> {
    let cluster_size = settings.geometry.cluster_size();
    // Below 2^63 by the check of the disk's size.
    let disk_end = round_up(settings.size, cluster_size).unwrap_or(settings.size);
    let mut runs: Vec<Run> = Vec::new();
    for range in data.iter().filter(|range| !range.is_empty()) {
        let start = round_down(range.start, chunk_size);
        let end = round_up(range.end, chunk_size).map_or(disk_end, |end| end.min(disk_end));
        match runs.last_mut() {
            Some(last) if start <= last.guest.end => last.guest.end = last.guest.end.max(end),
            _ if start < end => runs.push(Run {
                guest: start..end,
                host: 0,
            }),
            _ => {}
        }
    }
    runs
}

impl ImageWriter for InOrder {
    fn packer(&self) -> Arc<dyn Packer> {
        Arc::<ClusterPacker>::clone(&self.packer)
    }

    fn storage(&self) -> Arc<dyn StorageMut> {
        Arc::clone(&self.storage)
    }

    fn place(&mut self, offset: u64, packed: Packed, _len: u64) -> Result<Option<u64>> {
        if packed == Packed::Zero {
            return Ok(None);
        }
        let placed = self.host_offset(offset);
        let unforeseen =
            || Error::unsupported(FORMAT, "data in a stream where zeros were foreseen");
        placed.map(Some).ok_or_else(unforeseen)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let storage = &*self.storage;
        storage
            .set_size(self.size)
            .map_err(|source| storage.failed("resize", self.size, 0, source))
    }
}
