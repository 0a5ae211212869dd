//! What a bitmap says: runs of the disk that have changed.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use diskette_core::{
    BitmapInfo, BitmapReader, Error, OpenContext, Result, Storage, StorageExt, Table,
};
use zerocopy::big_endian::U64;

use super::{Bitmap, Page, bits, directory, list, table_entries};
use crate::geometry::Geometry;
use crate::header::{Header, field};

/// The bitmap of this name.
pub(super) fn open(
    storage: Arc<dyn Storage>,
    name: &str,
    cx: &OpenContext<'_>,
) -> Result<Box<dyn BitmapReader>> {
    let header = Header::read(&*storage, cx.limits)?;
    let found = match directory(&header, cx.limits)? {
        Some(directory) => list(&*storage, directory, header.geometry)?,
        None => Vec::new(),
    };
    let found = found.into_iter().find(|one| one.name == name.as_bytes());
    let bitmap = found.ok_or_else(|| Error::NotFound {
        what: "bitmap",
        name: name.to_owned(),
    })?;
    let stored = StoredBitmap::open(storage, &bitmap, &header, cx)?;
    Ok(Box::new(stored))
}

#[derive(Debug)]
struct StoredBitmap {
    storage: Arc<dyn Storage>,
    info: BitmapInfo,
    geometry: Geometry,
    disk_size: u64,
    granularity_bits: u8,
    table_offset: u64,
    table: Table<U64>,
    /// The file's end, in whole clusters.
    end: u64,
    /// The cluster that was looked at last, by its host offset.
    last: Mutex<Option<(u64, Arc<[u8]>)>>,
}

impl StoredBitmap {
    fn open(
        storage: Arc<dyn Storage>,
        bitmap: &Bitmap,
        header: &Header,
        cx: &OpenContext<'_>,
    ) -> Result<Self> {
        if !bitmap.is_consistent() {
            return Err(bitmap.inconsistent());
        }
        let geometry = header.geometry;
        let needed = table_entries(header.size, bitmap.granularity_bits, geometry);
        let claim = field("bitmap_table_size", bitmap.table_offset, bitmap.table_size);
        claim.equal_to(needed)?;
        let len = bitmap.table_len();
        cx.limits.allow_table("qcow2: bitmap table's bytes", len)?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        storage.read_padded(&mut bytes, bitmap.table_offset)?;
        let end = geometry.clusters(storage.total_size()?) << geometry.cluster_bits();
        Ok(Self {
            storage,
            info: bitmap.info(),
            geometry,
            disk_size: header.size,
            granularity_bits: bitmap.granularity_bits,
            table_offset: bitmap.table_offset,
            table: Table::new(bytes),
            end,
            last: Mutex::new(None),
        })
    }

    /// The first bit from `start` on that is set, or that is not.
    fn find(&self, start: u64, set: bool) -> Result<Option<u64>> {
        let per_page = self.geometry.cluster_size() * 8;
        let mut at = start;
        loop {
            let index = at / per_page;
            let position = usize::try_from(index).unwrap_or(usize::MAX);
            let Some(entry) = self.table.get(position) else {
                return Ok((!set).then_some(at));
            };
            let entry = entry.get();
            let page = Page::parse(self.table_offset, index, entry, self.end, self.geometry)?;
            let found = match page {
                Page::Zeros => (!set).then_some(at),
                Page::Ones => set.then_some(at),
                Page::Stored(offset) => bits::find(&self.page(offset)?, at % per_page, set)
                    .map(|bit| index * per_page + bit),
            };
            if found.is_some() {
                return Ok(found);
            }
            at = (index + 1) * per_page;
        }
    }

    /// The cluster of bits at a host offset.
    fn page(&self, offset: u64) -> Result<Arc<[u8]>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, bytes)) = &*last
            && *known == offset
        {
            return Ok(Arc::clone(bytes));
        }
        let mut bytes = vec![0; self.geometry.cluster_len()];
        self.storage.read_padded(&mut bytes, offset)?;
        let bytes: Arc<[u8]> = bytes.into();
        *last = Some((offset, Arc::clone(&bytes)));
        Ok(bytes)
    }
}

impl BitmapReader for StoredBitmap {
    fn info(&self) -> &BitmapInfo {
        &self.info
    }

    fn disk_size(&self) -> u64 {
        self.disk_size
    }

    fn next_dirty(&self, offset: u64) -> Result<Option<Range<u64>>> {
        if offset >= self.disk_size {
            return Ok(None);
        }
        let Some(first) = self.find(offset >> self.granularity_bits, true)? else {
            return Ok(None);
        };
        let behind = self.find(first + 1, false)?.unwrap_or(u64::MAX);
        // Bits behind the disk's end tell nothing, and might be beyond all numbers.
        let bytes = |bit: u64| bit.saturating_mul(1 << self.granularity_bits);
        let run = bytes(first).max(offset)..bytes(behind).min(self.disk_size);
        Ok((run.start < run.end).then_some(run))
    }
}
