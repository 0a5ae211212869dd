//! Bits set and cleared.

use std::ops::Range;

use diskette_core::{Error, Result, StorageExt};
use zerocopy::big_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

use super::{Tracked, Which};
use crate::bitmaps::{Page, all_set, clear_from, set_bits, table_entries};
use crate::edit::image::Image;

impl Image {
    /// Sets the bits of a range of the disk, which is not empty, in one bitmap.
    pub(super) fn set_dirty(&mut self, index: usize, range: &Range<u64>) -> Result<()> {
        let granularity_bits = self.bitmaps.list[index].bitmap.granularity_bits;
        let end = ((range.end - 1) >> granularity_bits) + 1;
        let per_page = Self::bits_per_page(self.geometry);
        let mut at = range.start >> granularity_bits;
        while at < end {
            let page = at / per_page;
            let first = page * per_page;
            let behind = end.min(first + per_page);
            self.set_in_page(index, page, at - first..behind - first)?;
            at = behind;
        }
        Ok(())
    }

    fn set_in_page(&mut self, index: usize, page: u64, bits: Range<u64>) -> Result<()> {
        let old = self.page(index, page)?;
        let storage = self.storage();
        let mut bytes = match old {
            Page::Ones => return Ok(()),
            Page::Zeros => vec![0; self.geometry.cluster_len()],
            Page::Stored(place) => {
                let bytes = self.bitmaps.pages.get(&*storage, place)?;
                if all_set(bytes, bits.clone()) {
                    return Ok(());
                }
                if self.bitmaps.list[index].pages.contains_key(&page) {
                    // Within a cluster.
                    let byte = |bit: u64| usize::try_from(bit / 8).unwrap_or(usize::MAX);
                    let changed = byte(bits.start)..byte(bits.end.next_multiple_of(8));
                    let bytes = self.bitmaps.pages.get_mut(&*storage, place, changed)?;
                    set_bits(bytes, bits);
                    return self.write_full_pages();
                }
                bytes.to_vec()
            }
        };
        set_bits(&mut bytes, bits);
        self.put_page(index, page, old, bytes)
    }

    /// Gives a cluster of bits that has changed its new place.
    fn put_page(&mut self, index: usize, page: u64, old: Page, bytes: Vec<u8>) -> Result<()> {
        let place = self.allocate(1)?;
        let bitmaps = &mut self.bitmaps;
        bitmaps.pages.put(place, bytes);
        bitmaps.list[index].pages.insert(page, Page::Stored(place));
        bitmaps.changed = true;
        if let Page::Stored(old) = old {
            bitmaps.replaced.push((old, self.geometry.cluster_size()));
        }
        self.write_full_pages()
    }

    /// Writes clusters of bits where there are too many to be kept: nothing leads there yet.
    fn write_full_pages(&mut self) -> Result<()> {
        match self.bitmaps.pages.is_full() {
            true => self.bitmaps.pages.write(&*self.files.storage),
            false => Ok(()),
        }
    }

    /// What a bitmap says of one cluster of bits.
    fn page(&self, index: usize, page: u64) -> Result<Page> {
        let tracked = &self.bitmaps.list[index];
        if let Some(changed) = tracked.pages.get(&page) {
            return Ok(*changed);
        }
        if tracked.stored.is_none_or(|entries| page >= entries) {
            return Ok(Page::Zeros);
        }
        let mut entry = U64::ZERO;
        let table = tracked.bitmap.table_offset;
        let storage = &*self.files.storage;
        storage.read_padded(entry.as_mut_bytes(), table + 8 * page)?;
        Page::parse(
            table,
            page,
            entry.get(),
            self.allocator.end(),
            self.geometry,
        )
    }

    /// A bitmap's whole table as it is to be. It is at most 8 MiB.
    pub(super) fn bitmap_table(&self, tracked: &Tracked) -> Result<Vec<U64>> {
        let bitmap = &tracked.bitmap;
        let index = |number: u64| usize::try_from(number).unwrap_or(0);
        let mut bytes = vec![0; index(bitmap.table_len())];
        let there = index(tracked.stored.unwrap_or(0) * 8).min(bytes.len());
        let storage = &*self.files.storage;
        storage.read_padded(&mut bytes[..there], bitmap.table_offset)?;
        let entries = <[U64]>::ref_from_bytes(&bytes).unwrap_or_default();
        let mut entries = entries.to_vec();
        let end = self.allocator.end();
        for (page, entry) in (0..).zip(&mut entries) {
            let known = Page::parse(bitmap.table_offset, page, entry.get(), end, self.geometry)?;
            let now = tracked.pages.get(&page).unwrap_or(&known);
            *entry = now.entry().into();
        }
        Ok(entries)
    }

    /// Marks all bitmaps as in use, before the disk gets another size; unless they could not follow.
    pub(in crate::edit) fn mark_for_resize(&mut self, new: u64) -> Result<()> {
        let broken = self
            .bitmaps
            .list
            .iter()
            .find(|tracked| !tracked.is_usable());
        if let Some(broken) = broken {
            return Err(broken.bitmap.inconsistent());
        }
        for tracked in &self.bitmaps.list {
            let bitmap = &tracked.bitmap;
            let entries = table_entries(new, bitmap.granularity_bits, self.geometry);
            let most = crate::spec::BITMAP_LEN_MAX >> self.geometry.cluster_bits();
            if !(1..=most).contains(&entries) {
                let why = "cannot be of a disk of this size; it can be removed";
                return Err(Error::bitmap(bitmap.info().name, why));
            }
        }
        self.mark_bitmaps(Which::All)
    }

    /// Gives all bitmaps the size that the disk has now, of which it had another one before.
    pub(in crate::edit) fn resize_bitmaps(&mut self, old: u64) -> Result<()> {
        (0..self.bitmaps.list.len()).try_for_each(|index| self.resize_bitmap(index, old))
    }

    /// Bits beyond the lesser of two sizes are not set.
    fn resize_bitmap(&mut self, index: usize, old: u64) -> Result<()> {
        let granularity_bits = self.bitmaps.list[index].bitmap.granularity_bits;
        let bits = old.min(self.size).div_ceil(1 << granularity_bits);
        let per_page = Self::bits_per_page(self.geometry);
        self.clear_rest_of_page(index, bits / per_page, bits % per_page)?;
        let entries = table_entries(self.size, granularity_bits, self.geometry);
        let cluster_size = self.geometry.cluster_size();
        let table = self.bitmap_table(&self.bitmaps.list[index])?;
        let tracked = &mut self.bitmaps.list[index];
        if table.len() as u64 == entries {
            return Ok(());
        }
        let end = self.allocator.end();
        for (page, entry) in (0..)
            .zip(&table)
            .skip(usize::try_from(entries).unwrap_or(0))
        {
            if let Page::Stored(place) = Page::parse(0, page, entry.get(), end, self.geometry)? {
                self.bitmaps.replaced.push((place, cluster_size));
            }
        }
        tracked.pages.retain(|page, _| *page < entries);
        // It has been shown to be one that a table can have.
        tracked.bitmap.table_size = u32::try_from(entries).unwrap_or(0);
        self.bitmaps.changed = true;
        Ok(())
    }

    /// Clears a cluster's bits from one on, unless all are kept.
    fn clear_rest_of_page(&mut self, index: usize, page: u64, first: u64) -> Result<()> {
        let old = self.page(index, page)?;
        if first == 0 || old == Page::Zeros {
            return Ok(());
        }
        let storage = self.storage();
        let old_bytes = match old {
            Page::Stored(place) => self.bitmaps.pages.get(&*storage, place)?.to_vec(),
            Page::Zeros | Page::Ones => vec![0xff; self.geometry.cluster_len()],
        };
        let mut bytes = old_bytes.clone();
        clear_from(&mut bytes, first);
        match bytes == old_bytes {
            true => Ok(()),
            false => self.put_page(index, page, old, bytes),
        }
    }
}
