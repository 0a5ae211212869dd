//! One new hosted sparse extent: where its tables and its grains lie.
//!
//! ```text
//!  header │ descriptor │ redundant directory │ its tables │ directory │ tables │ grains
//! ```
//!
//! Both copies have tables for the whole disk, as VMware's own products expect it. In a table where no grain has an entry
//! the file has a hole.

use std::collections::BTreeMap;
use std::sync::Arc;

use diskette_core::{Error, Result, SECTOR, StorageExt, StorageMut};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::header::{GRAIN, New, TABLE_COVERS, TABLE_LEN, header};
use super::options::Settings;
use super::table::Table;
use crate::{FORMAT, spec};

/// A part of the disk, and the extent that holds it.
#[derive(Debug)]
pub(super) struct Extent {
    file: Arc<dyn StorageMut>,
    /// Bytes of the disk.
    size: u64,
    places: Places,
    /// Grain tables with entries, by their number.
    tables: BTreeMap<u64, Table>,
    /// The sector of the next grain.
    next: u64,
}

/// Where the metadata lie, in sectors.
#[derive(Clone, Copy, Debug)]
struct Places {
    table_count: u64,
    redundant_directory: u64,
    directory: u64,
    overhead: u64,
}

impl Extent {
    /// An extent for `size` bytes of the disk in an empty file.
    pub(super) fn new(file: Arc<dyn StorageMut>, size: u64) -> Self {
        let places = Places::new(size);
        Self {
            file,
            size,
            places,
            tables: BTreeMap::new(),
            next: places.overhead,
        }
    }

    /// Bytes of the disk.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of the file when `grains` of them are stored.
    pub(super) fn file_len(size: u64, grains: u64) -> u64 {
        Places::new(size).overhead * SECTOR + grains * GRAIN
    }

    /// Gives the grain at an offset within the extent its place: an offset in the file.
    pub(super) fn place(&mut self, within: u64) -> Result<u64> {
        let sector = u32::try_from(self.next)
            .map_err(|_| Error::unsupported(FORMAT, "a sparse extent of more than 2 TiB"))?;
        self.next += GRAIN / SECTOR;
        self.set(within, sector);
        Ok(u64::from(sector) * SECTOR)
    }

    /// Notes that the grain at an offset within the extent is zero, whatever the parent has.
    pub(super) fn place_zeros(&mut self, within: u64) {
        self.set(within, spec::GTE_ZERO);
    }

    fn set(&mut self, within: u64, entry: u32) {
        let table = self.tables.entry(within / TABLE_COVERS).or_default();
        table.set(within, entry);
    }

    /// Writes the tables, and at last the header, with the descriptor that is embedded behind it.
    pub(super) fn finish(&self, settings: &Settings, descriptor: Option<&[u8]>) -> Result<()> {
        let Places {
            redundant_directory,
            directory,
            overhead,
            ..
        } = self.places;
        // The last grain is whole, too. What nothing was written to reads as zeros.
        let end = self.next * SECTOR;
        self.file
            .set_size(end)
            .map_err(|source| self.file.failed("resize", end, 0, source))?;
        self.write_tables(redundant_directory)?;
        self.write_tables(directory)?;
        let new = New {
            size: self.size,
            descriptor: descriptor.is_some(),
            redundant_directory: Some(redundant_directory),
            directory,
            overhead,
            zeroed_grain: settings.zeroed_grain,
            compressed: false,
        };
        let mut head = header(new).to_vec();
        head.extend(descriptor.unwrap_or_default());
        self.write(0, &head)
    }

    /// Writes a directory, and the tables behind it.
    fn write_tables(&self, directory: u64) -> Result<()> {
        let first = directory + self.places.directory_sectors();
        let place = |table: u64| first + table * TABLE_LEN / SECTOR;
        let count = self.places.table_count;
        // Below 2^32, by the check of the disk's size.
        let entry = |table| U32::new(u32::try_from(place(table)).unwrap_or(u32::MAX));
        let entries: Vec<U32> = (0..count).map(entry).collect();
        self.write(directory * SECTOR, entries.as_bytes())?;
        let mut run = Run::default();
        for (number, table) in &self.tables {
            let at = place(*number) * SECTOR;
            if run.end() != at || run.bytes.len() >= LARGE {
                self.write(run.at, &run.bytes)?;
                run = Run {
                    at,
                    bytes: Vec::new(),
                };
            }
            run.bytes.extend_from_slice(table.bytes());
        }
        self.write(run.at, &run.bytes)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.file
            .write_at(bytes, at)
            .map_err(|source| self.file.failed("write", at, bytes.len() as u64, source))
    }
}

/// Tables that follow one another.
#[derive(Debug, Default)]
struct Run {
    at: u64,
    bytes: Vec<u8>,
}

impl Run {
    const fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }
}

/// What has become as large as this is written.
const LARGE: usize = 1 << 20;

impl Places {
    /// As QEMU lays them out. The disk has at most 2^48 bytes: all of it is far below 2^32 sectors.
    fn new(size: u64) -> Self {
        let table_count = size.div_ceil(TABLE_COVERS);
        let mut places = Self {
            table_count,
            redundant_directory: 1 + spec::DESCRIPTOR_SECTORS,
            directory: 0,
            overhead: 0,
        };
        let copy = places.directory_sectors() + table_count * TABLE_LEN / SECTOR;
        places.directory = places.redundant_directory + copy;
        places.overhead = (places.directory + copy).next_multiple_of(GRAIN / SECTOR);
        places
    }

    const fn directory_sectors(&self) -> u64 {
        (self.table_count * 4).div_ceil(SECTOR)
    }
}
