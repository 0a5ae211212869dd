//! The order in which bitmaps are written.

use diskette_core::{Error, Result};
use zerocopy::IntoBytes;

use super::Tracked;
use crate::bitmaps::{Bitmap, Directory};
use crate::edit::cache::{sync, write};
use crate::edit::image::Image;
use crate::{FORMAT, spec};

impl Image {
    /// Stores what has changed of the bitmaps, all at once; none is in use any more.
    pub(in crate::edit) fn store_bitmaps(&mut self) -> Result<()> {
        if !self.bitmaps.changed {
            return self.unmark_bitmaps();
        }
        let new = self.write_new_bitmaps()?;
        let directory = self.write_directory(&new)?;
        sync(&*self.files.storage)?;
        self.switch_directory(directory)?;
        self.release_replaced(new, directory);
        self.commit()
    }

    /// Writes clusters of bits and tables to where nothing leads yet. Gives the entries of the new directory.
    fn write_new_bitmaps(&mut self) -> Result<Vec<Bitmap>> {
        let mut new = Vec::new();
        for index in 0..self.bitmaps.list.len() {
            let mut bitmap = self.bitmaps.list[index].bitmap.clone();
            if self.bitmaps.list[index].marked {
                bitmap.flags &= !spec::BITMAP_IN_USE;
            }
            if self.bitmaps.list[index].has_changed() {
                bitmap.table_offset = self.allocate_table(bitmap.table_len())?;
                let table = self.bitmap_table(&self.bitmaps.list[index])?;
                write(&*self.files.storage, bitmap.table_offset, table.as_bytes())?;
            }
            new.push(bitmap);
        }
        self.bitmaps.pages.write(&*self.files.storage)?;
        Ok(new)
    }

    /// Writes a directory to where nothing leads yet, once all that it leads to is counted.
    fn write_directory(&mut self, new: &[Bitmap]) -> Result<Option<Directory>> {
        let bytes: Vec<u8> = new.iter().flat_map(Bitmap::entry).collect();
        let len = bytes.len() as u64;
        let count = u32::try_from(new.len()).unwrap_or(u32::MAX);
        if count > spec::BITMAPS_MAX {
            return Err(Error::unsupported(FORMAT, "more than 65535 bitmaps"));
        }
        self.limits
            .allow_table("qcow2: bitmap directory's bytes", len)?;
        let offset = self.allocate_table(len)?;
        self.commit()?;
        if bytes.is_empty() {
            return Ok(None);
        }
        write(&*self.files.storage, offset, &bytes)?;
        Ok(Some(Directory { offset, len, count }))
    }

    /// Gives up what the new directory does not lead to, now that it counts.
    fn release_replaced(&mut self, new: Vec<Bitmap>, directory: Option<Directory>) {
        let old_directory = std::mem::replace(&mut self.bitmaps.directory, directory);
        let mut replaced = std::mem::take(&mut self.bitmaps.replaced);
        replaced.extend(old_directory.map(|old| (old.offset, old.len)));
        let old = std::mem::take(&mut self.bitmaps.list);
        for (old, new) in old.iter().zip(&new) {
            if let Some(entries) = old.stored.filter(|_| old.has_changed()) {
                debug_assert_ne!(old.bitmap.table_offset, new.table_offset);
                replaced.push((old.bitmap.table_offset, entries * 8));
            }
        }
        self.bitmaps.list = new.into_iter().map(Tracked::stored).collect();
        self.bitmaps.changed = false;
        for (offset, len) in replaced {
            self.release_table(offset, len);
        }
    }
}
