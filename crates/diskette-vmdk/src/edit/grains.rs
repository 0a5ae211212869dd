//! The grains of a hosted sparse extent that is being changed.
//!
//! ```text
//!  new grains, new tables ─► sync ─► redundant tables, tables, directories' entries for new tables ─► sync
//! ```
//!
//! An entry leads to what is on stable storage already. Both copies of a table are written at once; what reads goes by the
//! first one.

use std::collections::HashSet;
use std::sync::Arc;

use diskette_core::{
    Block, BlockTable, EditedTable, Error, Limits, NewPlace, Result, SECTOR, Space, StorageExt,
    StorageMut, Table,
};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use crate::check::sound_usage;
use crate::grains::{Grains, Tables};
use crate::header::Header;
use crate::sparse::SectorEntries;
use crate::{FORMAT, spec};

/// Both copies of a directory, and the tables.
#[derive(Debug)]
pub(super) struct GrainBlocks {
    storage: Arc<dyn StorageMut>,
    size: u64,
    grain_size: u64,
    table_entries: u64,
    lowest: u64,
    tables: EditedTable<U32>,
    /// The directory, and the redundant one if there is one.
    directories: Vec<Directory>,
    space: Space,
    /// Whether readers know an entry for grains of zeros.
    zeroed_grain: bool,
}

/// Where tables lie.
#[derive(Debug)]
struct Directory {
    /// Where it lies itself.
    at: u64,
    entries: Vec<U32>,
}

impl GrainBlocks {
    /// The grains of the extent in `storage`, whose tables are sound.
    pub(super) fn open(
        storage: Arc<dyn StorageMut>,
        grains: &Grains<SectorEntries>,
        header: &Header,
        limits: &Limits,
    ) -> Result<Self> {
        let Tables::Stored {
            directory,
            directory_at,
            ..
        } = &grains.tables
        else {
            return Err(Error::unsupported(FORMAT, "writing into a stream"));
        };
        let usage = sound_usage(grains, header, limits)?;
        let mut directories = vec![Directory {
            at: *directory_at,
            entries: directory.entries().to_vec(),
        }];
        if let Some(at) = header.redundant_directory {
            let entries = Table::<U32>::read(&*storage, at, directory.len())?;
            let entries = entries.entries().to_vec();
            directories.insert(0, Directory { at, entries });
        }
        let file_size = storage.total_size()?;
        if let [copy, directory] = directories.as_slice() {
            expect_own_places(copy, directory, file_size, grains.table_len())?;
        }
        let grain_size = grains.grain_size;
        // The disk's last grain is whole, too.
        let end = usage.end.max(header.overhead).next_multiple_of(grain_size);
        let mut space = Space::new(end, file_size, grain_size)
            .aligned_to(grain_size)
            .up_to(u64::from(u32::MAX) * SECTOR);
        for gap in &usage.gaps {
            space.add_gap(&(gap.start.max(header.overhead)..gap.end.max(header.overhead)));
        }
        Ok(Self {
            storage,
            size: grains.size,
            grain_size,
            table_entries: grains.table_entries,
            lowest: header.overhead,
            tables: EditedTable::new(grains.table_entries, limits.cache_bytes),
            directories,
            space,
            zeroed_grain: header.zeroed_grain,
        })
    }

    /// Writes the redundant copies that differ from their tables. Gives their number.
    pub(super) fn mend_copies(&mut self) -> Result<u64> {
        let [copy, tables] = self.directories.as_slice() else {
            return Ok(0);
        };
        let len = usize::try_from(4 * self.table_entries).unwrap_or(usize::MAX);
        let mut mended = 0;
        for (copy, table) in copy.entries.iter().zip(&tables.entries) {
            if copy.get() == 0 || table.get() == 0 {
                continue;
            }
            let at = |entry: &U32| u64::from(entry.get()) * SECTOR;
            let bytes = self.storage.read_vec(len, at(table))?;
            if bytes != self.storage.read_vec(len, at(copy))? {
                write(&*self.storage, &bytes, at(copy))?;
                mended += 1;
            }
        }
        self.sync()?;
        Ok(mended)
    }

    /// Cuts off what lies behind the last grain.
    pub(super) fn cut(&mut self) -> Result<()> {
        let end = self.space.end();
        if self.storage.total_size()? > end {
            self.storage
                .set_size(end)
                .map_err(|source| self.storage.failed("cut", end, 0, source))?;
        }
        self.sync()
    }

    /// The directory that readers go by.
    fn directory(&self) -> &[U32] {
        self.directories
            .last()
            .map_or(&[], |directory| directory.entries.as_slice())
    }

    fn entry(&self, index: u64) -> Result<u32> {
        let read = |page| self.read(page);
        Ok(self.tables.get(index, read)?.map_or(0, U32::get))
    }

    fn read(&self, page: u64) -> Result<Table<U32>> {
        read_table(&*self.storage, self.directory(), self.table_entries, page)
    }

    /// Gives the changed tables that have none a place in each copy, and writes them there. Gives their numbers.
    fn place_tables(&mut self) -> Result<Vec<usize>> {
        let mut placed = Vec::new();
        let changed = self.tables.changed();
        for (number, bytes) in changed {
            let number = usize::try_from(number).unwrap_or(usize::MAX);
            for directory in &mut self.directories {
                let Some(entry) = directory.entries.get_mut(number) else {
                    continue;
                };
                if entry.get() != 0 {
                    continue;
                }
                let at = self.space.append(bytes.len() as u64, SECTOR);
                let sector = at.and_then(|at| u32::try_from(at / SECTOR).ok());
                let Some(sector) = sector else {
                    return Err(too_large());
                };
                *entry = U32::new(sector);
                write(&*self.storage, bytes, u64::from(sector) * SECTOR)?;
                placed.push(number);
            }
        }
        Ok(placed)
    }

    fn sync(&self) -> Result<()> {
        self.storage
            .sync()
            .map_err(|source| self.storage.failed("sync", 0, 0, source))
    }
}

/// That each redundant table lies within the file, and where no other table does: nobody reads by them, but they are written.
fn expect_own_places(
    copy: &Directory,
    directory: &Directory,
    file_size: u64,
    table_len: u64,
) -> Result<()> {
    let tables = directory.entries.iter().map(|entry| entry.get());
    let mut taken: HashSet<u32> = tables.filter(|entry| *entry != 0).collect();
    for (index, (entry, table)) in copy.entries.iter().zip(&directory.entries).enumerate() {
        let sector = entry.get();
        if sector == 0 || sector == table.get() {
            continue;
        }
        let end = (u64::from(sector) * SECTOR).saturating_add(table_len);
        let why = match end > file_size {
            true => "the table lies past the end of the file",
            false if !taken.insert(sector) => "the table of another entry",
            false => continue,
        };
        return Err(Error::malformed(
            FORMAT,
            format!("redundant grain directory[{index}]"),
            copy.at.saturating_add(4 * index as u64),
            u64::from(sector),
            why,
        ));
    }
    Ok(())
}

fn write(storage: &dyn StorageMut, bytes: &[u8], at: u64) -> Result<()> {
    storage
        .write_at(bytes, at)
        .map_err(|source| storage.failed("write", at, bytes.len() as u64, source))
}

/// A table; one without a place holds nothing.
fn read_table(
    storage: &dyn StorageMut,
    directory: &[U32],
    table_entries: u64,
    number: u64,
) -> Result<Table<U32>> {
    let count = usize::try_from(table_entries).unwrap_or(usize::MAX); // at most 512
    let entry = usize::try_from(number)
        .ok()
        .and_then(|number| directory.get(number));
    match entry.map_or(0, |entry| entry.get()) {
        0 => Ok(Table::new(vec![0; 4 * count])),
        sector => Table::read(storage, u64::from(sector) * SECTOR, count),
    }
}

fn too_large() -> Error {
    Error::unsupported(FORMAT, "a sparse extent of more than 2 TiB")
}

impl BlockTable for GrainBlocks {
    fn format(&self) -> &'static str {
        FORMAT
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u64 {
        self.grain_size
    }

    fn block(&self, index: u64) -> Result<Block> {
        Ok(match self.entry(index)? {
            0 => Block::Hole,
            spec::GTE_ZERO => Block::Zero,
            sector => Block::Stored(u64::from(sector) * SECTOR),
        })
    }

    fn part(&self, _index: u64, within: u64) -> Result<(u64, bool)> {
        Ok((self.grain_size - within, true))
    }

    /// A grain that has its place keeps it: nobody would find it again, once the image is closed.
    fn zero(&self, block: Block) -> Option<Block> {
        (self.zeroed_grain && block == Block::Hole).then_some(Block::Zero)
    }

    fn gives_back(&self) -> bool {
        true
    }

    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    fn allocate(&mut self) -> Result<NewPlace> {
        let place = self.space.take(&*self.storage)?;
        debug_assert!(place.is_none_or(|place| place.at >= self.lowest));
        place.ok_or_else(too_large)
    }

    fn release(&mut self, at: u64) {
        self.space.release(at);
    }

    fn set(&mut self, index: u64, block: Block) -> Result<()> {
        if let Block::Stored(before) = self.block(index)? {
            self.space.give_up(before);
        }
        let entry = match block {
            Block::Hole => 0,
            Block::Zero => spec::GTE_ZERO,
            Block::Stored(at) | Block::Partial(at) => {
                u32::try_from(at / SECTOR).map_err(|_| too_large())?
            }
        };
        let directory = self.directories.last();
        let directory = directory.map_or(&[][..], |directory| &directory.entries);
        let (storage, count) = (&*self.storage, self.table_entries);
        self.tables.set(index, U32::new(entry), |page| {
            read_table(storage, directory, count, page)
        })
    }

    fn resize(&mut self, _size: u64) -> Result<()> {
        Err(Error::unsupported(FORMAT, "another size for a disk"))
    }

    fn waiting(&self) -> usize {
        self.tables.changed_count() + usize::from(self.space.waits())
    }

    fn store(&mut self) -> Result<()> {
        let placed = self.place_tables()?;
        self.sync()?;
        for directory in &self.directories {
            for (number, bytes) in self.tables.changed() {
                let number = usize::try_from(number).unwrap_or(usize::MAX);
                if let Some(sector) = directory.entries.get(number) {
                    write(&*self.storage, bytes, u64::from(sector.get()) * SECTOR)?;
                }
            }
            for number in &placed {
                let at = directory.at + 4 * *number as u64; // a table of 32-bit entries in memory
                if let Some(entry) = directory.entries.get(*number) {
                    write(&*self.storage, entry.as_bytes(), at)?;
                }
            }
        }
        self.sync()?;
        self.tables.stored();
        self.space.stored(&*self.storage)
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}
