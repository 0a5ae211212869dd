//! Bitmaps added, removed, cleared, merged: each by one change of the directory.

use std::sync::{Arc, Mutex, PoisonError};

use diskette_core::{
    BitmapInfo, BitmapReader, BitmapWriter, Error, KIB, NewBitmap, OpenContext, Result, StorageMut,
};

use super::{Bitmaps, Tracked};
use crate::bitmaps::{Bitmap, Page, table_entries};
use crate::edit::Nothing;
use crate::edit::image::Image;
use crate::header::Header;
use crate::{FORMAT, spec};

/// The bitmaps of an image, to be changed.
pub(crate) fn edit_bitmaps(
    storage: Arc<dyn StorageMut>,
    cx: &OpenContext<'_>,
) -> Result<Box<dyn BitmapWriter>> {
    // What lies below is not looked at.
    let image = Image::open(storage, Some(Arc::new(Nothing)), Arc::default(), cx)?;
    Ok(Box::new(BitmapEditor {
        image: Mutex::new(image),
    }))
}

#[derive(Debug)]
struct BitmapEditor {
    image: Mutex<Image>,
}

impl BitmapEditor {
    fn with<T>(&self, act: impl FnOnce(&mut Image) -> Result<T>) -> Result<T> {
        // What a panic elsewhere has left half done is read anew.
        let mut image = self.image.lock().unwrap_or_else(PoisonError::into_inner);
        image.reload_bitmaps()?;
        act(&mut image)
    }

    /// Changes the bitmaps, and returns when it is on stable storage.
    fn change(&self, act: impl FnOnce(&mut Image) -> Result<()>) -> Result<()> {
        self.with(|image| {
            image.prepare()?;
            act(image)?;
            image.store_bitmaps()?;
            image.flush()
        })
    }
}

impl BitmapWriter for BitmapEditor {
    fn list(&self) -> Result<Vec<BitmapInfo>> {
        self.with(|image| {
            let list = image.bitmaps.list.iter();
            Ok(list.map(|tracked| tracked.bitmap.info()).collect())
        })
    }

    fn add(&self, what: &NewBitmap) -> Result<()> {
        self.change(|image| image.add_bitmap(what))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.change(|image| image.remove_bitmap(name))
    }

    fn clear(&self, name: &str) -> Result<()> {
        self.change(|image| {
            let index = image.usable_bitmap(name)?;
            image.clear_bitmap(index)
        })
    }

    fn set_enabled(&self, name: &str, enabled: bool) -> Result<()> {
        self.change(|image| {
            let index = image.usable_bitmap(name)?;
            let bitmap = &mut image.bitmaps.list[index].bitmap;
            if bitmap.is_enabled() != enabled {
                bitmap.flags ^= spec::BITMAP_AUTO;
                image.bitmaps.changed = true;
            }
            Ok(())
        })
    }

    fn merge(&self, name: &str, from: &dyn BitmapReader) -> Result<()> {
        self.change(|image| {
            let index = image.usable_bitmap(name)?;
            image.merge_bitmap(index, from)
        })
    }
}

impl Drop for BitmapEditor {
    fn drop(&mut self) {
        let mut image = self.image.lock().unwrap_or_else(PoisonError::into_inner);
        // All acts are on stable storage: what is left is refcounts that were put off.
        let _ = image.close();
    }
}

impl Image {
    /// Reads the bitmaps as they are stored.
    fn reload_bitmaps(&mut self) -> Result<()> {
        let header = Header::read(&*self.files.storage, &self.limits)?;
        self.bitmaps = Bitmaps::open(&*self.files.storage, &header, &self.limits)?;
        Ok(())
    }

    fn bitmap_of_name(&self, name: &str) -> Option<usize> {
        let mut list = self.bitmaps.list.iter();
        list.position(|tracked| tracked.bitmap.name == name.as_bytes())
    }

    /// The bitmap of this name, if it can be used.
    fn usable_bitmap(&self, name: &str) -> Result<usize> {
        let index = self.existing_bitmap(name)?;
        let tracked = &self.bitmaps.list[index];
        match tracked.is_usable() {
            true => Ok(index),
            false => Err(tracked.bitmap.inconsistent()),
        }
    }

    fn existing_bitmap(&self, name: &str) -> Result<usize> {
        self.bitmap_of_name(name).ok_or_else(|| Error::NotFound {
            what: "bitmap",
            name: name.to_owned(),
        })
    }

    fn add_bitmap(&mut self, what: &NewBitmap) -> Result<()> {
        let refuse = |why: &'static str| Err(Error::bitmap(what.name.clone(), why));
        let cluster_size = self.geometry.cluster_size();
        let usual = cluster_size.clamp(4 * KIB, 64 * KIB);
        let granularity = what.granularity.unwrap_or(usual);
        if what.name.is_empty() {
            return refuse("needs a name that is not empty");
        }
        if what.name.len() as u64 > spec::BITMAP_NAME_LEN_MAX {
            return refuse("has a name of more than 1023 bytes");
        }
        if self.bitmap_of_name(&what.name).is_some() {
            return refuse("already exists");
        }
        if !granularity.is_power_of_two() || !(512..=1 << 31).contains(&granularity) {
            return refuse("needs a granularity that is a power of two, from 512 to 2G");
        }
        if !self.version_3 {
            return Err(Error::unsupported(
                FORMAT,
                "a bitmap in an image of version 2",
            ));
        }
        // Within 9 to 31.
        let granularity_bits = u8::try_from(granularity.trailing_zeros()).unwrap_or(0);
        let entries = table_entries(self.size, granularity_bits, self.geometry);
        if entries == 0 {
            return refuse("needs a disk that is not empty");
        }
        if entries > spec::BITMAP_LEN_MAX / cluster_size {
            return refuse("would take more than 512 MiB; a larger granularity helps");
        }
        let bitmap = Bitmap {
            table_offset: 0,
            table_size: u32::try_from(entries).unwrap_or(0),
            granularity_bits,
            flags: if what.enabled { spec::BITMAP_AUTO } else { 0 },
            name: what.name.clone().into_bytes(),
        };
        let mut tracked = Tracked::stored(bitmap);
        tracked.stored = None;
        self.bitmaps.list.push(tracked);
        self.bitmaps.changed = true;
        Ok(())
    }

    fn remove_bitmap(&mut self, name: &str) -> Result<()> {
        let index = self.existing_bitmap(name)?;
        self.clear_bitmap(index)?;
        let bitmap = self.bitmaps.list.remove(index).bitmap;
        let table = (bitmap.table_offset, bitmap.table_len());
        self.bitmaps.replaced.push(table);
        Ok(())
    }

    /// Clears a bitmap that is as it is stored.
    fn clear_bitmap(&mut self, index: usize) -> Result<()> {
        let table = self.bitmap_table(&self.bitmaps.list[index])?;
        let tracked = &mut self.bitmaps.list[index];
        for (page, entry) in (0..).zip(&table) {
            let end = self.allocator.end();
            let known = Page::parse(0, page, entry.get(), end, self.geometry)?;
            if let Page::Stored(place) = known {
                let replaced = (place, self.geometry.cluster_size());
                self.bitmaps.replaced.push(replaced);
            }
            if known != Page::Zeros {
                tracked.pages.insert(page, Page::Zeros);
            }
        }
        self.bitmaps.changed = true;
        Ok(())
    }

    fn merge_bitmap(&mut self, index: usize, from: &dyn BitmapReader) -> Result<()> {
        if from.disk_size() != self.size {
            let (from, to) = (from.disk_size(), self.size);
            let name = self.bitmaps.list[index].bitmap.info().name;
            let why = format!("is of a disk of {to} bytes, what it is merged with of {from}");
            return Err(Error::bitmap(name, why));
        }
        let mut at = 0;
        while let Some(run) = from.next_dirty(at)? {
            self.set_dirty(index, &run)?;
            at = run.end;
        }
        Ok(())
    }
}
