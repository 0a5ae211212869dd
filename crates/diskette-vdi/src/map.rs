//! Guest offset to extent: the map of 32-bit block numbers, read page by page.

use diskette_core::{
    Extent, ExtentKind, Field, HostOffset, Limits, Result, Storage, StorageExt, Table, TableCache,
};
use zerocopy::little_endian::U32;

use crate::header::{Header, Kind};
use crate::{FORMAT, spec};

/// Entries of a page.
const PAGE: u64 = 4096;

/// The map.
#[derive(Debug)]
pub(crate) struct Map {
    header: Header,
    pages: TableCache<U32>,
    salvage: bool,
}

impl Map {
    pub(crate) fn new(header: Header, limits: &Limits, salvage: bool) -> Self {
        Self {
            header,
            pages: TableCache::within(limits, 4 * PAGE),
            salvage,
        }
    }

    pub(crate) const fn header(&self) -> &Header {
        &self.header
    }

    /// The extent that holds `offset`, which lies within the disk: as many blocks of a page as go on alike.
    pub(crate) fn extent_at(&self, storage: &dyn Storage, offset: u64) -> Result<Extent> {
        let Header {
            block_size,
            disk_size,
            ..
        } = self.header;
        let index = offset / block_size;
        let file_size = storage.total_size()?;
        let page = self.page(storage, index / PAGE)?;

        let extent = |index: u64, entry: u32| -> Result<Extent> {
            let start = index * block_size; // within the disk
            let len = block_size.min(disk_size - start);
            Ok(Extent::new(
                start,
                len,
                self.kind(index, entry, len, file_size)?,
            ))
        };
        let mut entries = (index..).zip(
            page.entries()
                .iter()
                .skip(within_page(index))
                .map(|entry| entry.get()),
        );
        let Some((index, entry)) = entries.next() else {
            return Ok(Extent::hole(offset, disk_size - offset));
        };
        let mut found = extent(index, entry)?;
        for (index, entry) in entries {
            if found.end() >= disk_size {
                break;
            }
            // What is wrong with a later block is told when it is asked for.
            match extent(index, entry) {
                Ok(next) if found.continues_into(&next) => found.len += next.len,
                _ => break,
            }
        }
        Ok(found)
    }

    /// All entries, page by page, with the index of each page's first.
    pub(crate) fn all_pages<'a>(
        &'a self,
        storage: &'a dyn Storage,
    ) -> impl Iterator<Item = Result<(u64, Table<U32>)>> + 'a {
        let pages = self.header.block_count.div_ceil(PAGE);
        (0..pages).map(move |number| Ok((number * PAGE, self.read_page(storage, number)?)))
    }

    fn kind(&self, index: u64, entry: u32, len: u64, file_size: u64) -> Result<ExtentKind> {
        match entry {
            spec::BLOCK_FREE if self.header.kind == Kind::Differencing => {
                Ok(ExtentKind::Hole(None))
            }
            spec::BLOCK_FREE | spec::BLOCK_ZERO => Ok(ExtentKind::Zero(None)),
            _ => {
                // Both factors have 32 bits or less: no overflow.
                let at = self.header.data_offset
                    + u64::from(entry) * self.header.stride()
                    + self.header.block_extra;
                if at.saturating_add(len) > file_size {
                    if self.salvage {
                        return Ok(ExtentKind::Zero(None));
                    }
                    let field = Field::new(
                        FORMAT,
                        format!("map[{index}]"),
                        self.entry_offset(index),
                        entry,
                    );
                    let why = format!(
                        "its block at {at:#x} reaches beyond the file's end at {file_size:#x}"
                    );
                    return Err(field.malformed(why).truncated());
                }
                Ok(ExtentKind::Data(HostOffset::new(at)))
            }
        }
    }

    /// Where an entry lies: a host offset.
    pub(crate) const fn entry_offset(&self, index: u64) -> u64 {
        self.header.map_offset + 4 * index
    }

    fn page(&self, storage: &dyn Storage, number: u64) -> Result<Table<U32>> {
        self.pages
            .get_or_read(number, || self.read_page(storage, number))
    }

    fn read_page(&self, storage: &dyn Storage, number: u64) -> Result<Table<U32>> {
        let first = number * PAGE;
        let count = self.header.block_count.saturating_sub(first).min(PAGE);
        Table::read(
            storage,
            self.entry_offset(first),
            usize::try_from(count).unwrap_or(0),
        )
    }
}

fn within_page(index: u64) -> usize {
    usize::try_from(index % PAGE).unwrap_or(usize::MAX)
}
