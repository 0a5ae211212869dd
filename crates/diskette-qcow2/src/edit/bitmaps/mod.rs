//! Persistent bitmaps of an image that is being changed.
//!
//! Those that are enabled learn of what is written: in memory, and in clusters that nothing leads to yet. On the disk they
//! are marked as in use meanwhile, and stay so, which is to say inconsistent, where the image is not closed.
//!
//! Nothing that is stored of a bitmap is overwritten but that mark. What has changed is written to new places: clusters of
//! bits, then tables, then the directory; one write into the header switches to it. Then what it replaces is given up.
//!
//! ```text
//!  mod     what there is, and the marks
//!  pages   bits set and cleared
//!  store   the order on the disk
//!  header  the switch
//!  acts    bitmaps added, removed, cleared, merged
//! ```

mod acts;
mod header;
mod pages;
mod store;

use std::collections::BTreeMap;
use std::ops::Range;

use diskette_core::{Limits, Result, Storage};

pub(crate) use self::acts::edit_bitmaps;
use super::cache::{ClusterCache, sync, write};
use super::image::Image;
use crate::bitmaps::{Bitmap, Directory, Page, directory, list};
use crate::geometry::Geometry;
use crate::header::Header;
use crate::spec;

/// All bitmaps of an image.
#[derive(Debug)]
pub(super) struct Bitmaps {
    directory: Option<Directory>,
    list: Vec<Tracked>,
    /// Clusters of bits.
    pages: ClusterCache,
    /// What nothing will lead to once all is stored: host offsets and bytes.
    replaced: Vec<(u64, u64)>,
    /// Whether there is more to be stored than marks.
    changed: bool,
}

/// One bitmap, and what has changed since it was stored.
#[derive(Debug)]
struct Tracked {
    /// As it is to be. Its table lies where it is stored.
    bitmap: Bitmap,
    /// Entries of the table that is stored. `None` where there is none, or it does not count.
    stored: Option<u64>,
    /// What has changed, by the index in the table. What is stored here has its place already, and no other user.
    pages: BTreeMap<u64, Page>,
    /// Whether it is we who have marked it as in use.
    marked: bool,
}

/// Whom a mark concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Enabled,
    All,
}

impl Bitmaps {
    pub(super) fn open(storage: &dyn Storage, header: &Header, limits: &Limits) -> Result<Self> {
        let geometry = header.geometry;
        let directory = directory(header, limits)?;
        let found = match directory {
            Some(directory) => list(storage, directory, geometry)?,
            None => Vec::new(),
        };
        let tables = found.iter().map(Bitmap::table_len);
        limits.allow_table("qcow2: bitmap tables' bytes", tables.sum())?;
        Ok(Self {
            directory,
            list: found.into_iter().map(Tracked::stored).collect(),
            pages: ClusterCache::new(geometry.cluster_len(), limits.cache_bytes / 4),
            replaced: Vec::new(),
            changed: false,
        })
    }

    /// Whether the image has any.
    pub(super) const fn are_there(&self) -> bool {
        self.directory.is_some()
    }

    /// Whether any learns of what is written.
    pub(super) fn track_writes(&self) -> bool {
        self.list.iter().any(Tracked::tracks)
    }

    /// Where the tables lie: host offsets and bytes. They have been bounded.
    pub(super) fn tables(&self) -> Vec<(u64, u64)> {
        let directory = self
            .directory
            .map(|directory| (directory.offset, directory.len));
        let tables = self.list.iter().map(|tracked| {
            let bitmap = &tracked.bitmap;
            (bitmap.table_offset, bitmap.table_len())
        });
        directory.into_iter().chain(tables).collect()
    }

    /// Leaves them as they are stored: those that are in use stay so.
    pub(super) fn abandon(&mut self) {
        for tracked in &mut self.list {
            tracked.marked = false;
            tracked.pages.clear();
            let entries = tracked
                .stored
                .and_then(|entries| u32::try_from(entries).ok());
            tracked.bitmap.table_size = entries.unwrap_or(tracked.bitmap.table_size);
        }
        self.replaced.clear();
        self.changed = false;
    }

    /// Forgets a cluster that was given up.
    pub(super) fn forget(&mut self, offset: u64) {
        self.pages.forget(offset);
    }

    /// The directory, with these flags for each bitmap.
    fn directory_bytes(&self, flags: impl Fn(&Tracked) -> u32) -> Vec<u8> {
        let entries = self.list.iter().flat_map(|tracked| {
            let flags = flags(tracked);
            Bitmap {
                flags,
                ..tracked.bitmap.clone()
            }
            .entry()
        });
        entries.collect()
    }
}

impl Tracked {
    fn stored(bitmap: Bitmap) -> Self {
        Self {
            stored: Some(bitmap.table_size.into()),
            bitmap,
            pages: BTreeMap::new(),
            marked: false,
        }
    }

    /// Whether it is in step with the data, but for the mark.
    const fn is_usable(&self) -> bool {
        self.marked || self.bitmap.is_consistent()
    }

    /// Whether it learns of what is written.
    const fn tracks(&self) -> bool {
        self.is_usable() && self.bitmap.is_enabled()
    }

    /// Whether the table that is stored no longer tells what it is.
    fn has_changed(&self) -> bool {
        self.stored != Some(self.bitmap.table_size.into()) || !self.pages.is_empty()
    }
}

impl Image {
    /// Tells the bitmaps that a range of the disk is about to be written. Where the writing fails they say so all the same.
    pub(super) fn note_dirty(&mut self, range: &Range<u64>) -> Result<()> {
        if range.is_empty() || !self.bitmaps.track_writes() {
            return Ok(());
        }
        self.mark_bitmaps(Which::Enabled)?;
        for index in 0..self.bitmaps.list.len() {
            if self.bitmaps.list[index].tracks() {
                self.set_dirty(index, range)?;
            }
        }
        Ok(())
    }

    /// Marks bitmaps as in use, before anything is done that they have not heard of.
    fn mark_bitmaps(&mut self, which: Which) -> Result<()> {
        let concerned = |tracked: &Tracked| {
            tracked.is_usable() && (which == Which::All || tracked.bitmap.is_enabled())
        };
        if !self
            .bitmaps
            .list
            .iter()
            .any(|tracked| concerned(tracked) && !tracked.marked)
        {
            return Ok(());
        }
        self.write_marks(|tracked| tracked.marked || concerned(tracked))
    }

    /// Takes the marks off again, where nothing else has changed.
    fn unmark_bitmaps(&mut self) -> Result<()> {
        match self.bitmaps.list.iter().any(|tracked| tracked.marked) {
            true => self.write_marks(|_| false),
            false => Ok(()),
        }
    }

    /// Sets our marks, and no others: entries are of whole words, so that no crash tears one.
    fn write_marks(&mut self, marked: impl Fn(&Tracked) -> bool) -> Result<()> {
        let Some(directory) = self.bitmaps.directory else {
            return Ok(());
        };
        let flags = |tracked: &Tracked| match (tracked.is_usable(), marked(tracked)) {
            (false, _) | (true, true) => tracked.bitmap.flags | spec::BITMAP_IN_USE,
            (true, false) => tracked.bitmap.flags & !spec::BITMAP_IN_USE,
        };
        let bytes = self.bitmaps.directory_bytes(flags);
        write(&*self.files.storage, directory.offset, &bytes)?;
        sync(&*self.files.storage)?;
        for tracked in &mut self.bitmaps.list {
            let is_marked = tracked.is_usable() && marked(tracked);
            tracked.bitmap.flags = flags(tracked);
            tracked.marked = is_marked;
        }
        Ok(())
    }

    const fn bits_per_page(geometry: Geometry) -> u64 {
        geometry.cluster_size() * 8
    }
}
