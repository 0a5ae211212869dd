//! An image that exists, written anywhere and in any order.
//!
//! Guest data are written at once. Tables are changed in memory, and written together, in an order that loses nothing
//! where it is cut off: data, refcounts of what was allocated, L2 tables, L1 table, refcounts of what was released. A
//! crash may leave clusters counted that nobody uses, but never one in use that is not counted.
//!
//! ```text
//!  Editor     one lock for the tables; guest data is read, and overwritten in place, without it
//!    Image    the tables: view (read), cluster, zeros (write), tables (L1, L2), allocator (refcounts)
//!    Files    the storages: shared without a lock
//! ```
//!
//! A cluster that was given up is free, and punched out of the file, once no pointer on the disk leads to it and nobody who
//! looked it up before is still at it.

mod allocator;
mod bitmaps;
mod cache;
mod cluster;
mod files;
mod growth;
mod image;
mod lazy;
mod preallocated;
mod resize;
mod snapshots;
mod streams;
mod tables;
mod tree;
mod view;
mod zeros;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use diskette_core::{
    BlockReader, BlockWriter, Extent, NewSnapshot, OpenContext, Preallocation, Result,
    SnapshotInfo, SnapshotWriter, StorageMut, check_range,
};

pub(crate) use self::bitmaps::edit_bitmaps;
pub(crate) use self::cache::{sync, write, write_zeros};
use self::files::Files;
use self::image::Image;

/// Opens an image to be changed. `below` is what its holes show.
pub(crate) fn open(
    storage: Arc<dyn StorageMut>,
    below: Option<Arc<dyn BlockReader>>,
    cx: &OpenContext<'_>,
) -> Result<Box<dyn BlockWriter>> {
    let io = Arc::new(RwLock::new(()));
    let image = Image::open(storage, below, Arc::clone(&io), cx)?;
    Ok(Box::new(Editor::new(image, io)))
}

/// The same of an image that will lie over another one: zeros hide what is below, whether anything is by now or not.
pub(crate) fn open_overlay(
    storage: Arc<dyn StorageMut>,
    below: Option<Arc<dyn BlockReader>>,
    compress: bool,
    cx: &OpenContext<'_>,
) -> Result<Box<dyn BlockWriter>> {
    let io = Arc::new(RwLock::new(()));
    let mut image = Image::open(storage, below, Arc::clone(&io), cx)?;
    image.files.below.get_or_insert_with(|| Arc::new(Nothing));
    if compress {
        image.compress()?;
    }
    Ok(Box::new(Editor::new(image, io)))
}

/// Gives up all that an overlay holds.
pub(crate) fn empty(storage: Arc<dyn StorageMut>, cx: &OpenContext<'_>) -> Result<()> {
    // What lies below is not looked at.
    let below = Arc::new(Nothing);
    let mut image = Image::open(storage, Some(below), Arc::default(), cx)?;
    image.empty_all()?;
    image.flush()?;
    image.close()
}

/// The disk of an image that is being changed. What is behind it shows through its holes.
///
/// [`BlockWriter::flush`] is what makes the changes last. Dropping it writes the tables, too, but tells of no error.
#[derive(Debug)]
struct Editor {
    size: AtomicU64,
    /// Whether there are bitmaps that are to learn of what is written.
    tracks_writes: bool,
    files: Files,
    image: Mutex<Image>,
    /// Held by who reads or writes a cluster without the lock. It is taken with the lock held, and nobody who has it waits for
    /// the lock: whoever has both is alone.
    io: Arc<RwLock<()>>,
}

impl Editor {
    fn new(image: Image, io: Arc<RwLock<()>>) -> Self {
        Self {
            size: AtomicU64::new(image.size),
            tracks_writes: image.bitmaps.track_writes(),
            files: image.files.clone(),
            image: Mutex::new(image),
            io,
        }
    }

    // A panic elsewhere while the lock was held leaves a map that can be read: go on.
    fn lock(&self) -> MutexGuard<'_, Image> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the image, and keeps what was found in it from being given to others.
    fn keep_places(&self, image: MutexGuard<'_, Image>) -> RwLockReadGuard<'_, ()> {
        let kept = self.io.read().unwrap_or_else(PoisonError::into_inner);
        drop(image);
        kept
    }

    /// Changes more than data, and returns when it is on stable storage.
    fn change<T>(&self, image: &mut Image, how: impl FnOnce(&mut Image) -> Result<T>) -> Result<T> {
        let done = how(image);
        self.size.store(image.size, Ordering::Release);
        let done = done?;
        image.flush()?;
        Ok(done)
    }

    /// What has to be done before a range is written.
    fn prepare(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self.size(), offset, len)?;
        if !self.tracks_writes {
            return Ok(());
        }
        let mut image = self.lock();
        // The disk may have become smaller.
        check_range(image.size, offset, len)?;
        image.prepare()?;
        image.note_dirty(&(offset..offset + len))
    }

    fn write_some(&self, buf: &[u8], offset: u64) -> Result<usize> {
        let mut image = self.lock();
        // The disk may have become smaller.
        check_range(image.size, offset, buf.len() as u64)?;
        image.prepare()?;
        let Some((place, len)) = image.stored_run(offset, buf.len())? else {
            return image.write_some(buf, offset);
        };
        let _kept = self.keep_places(image);
        cache::write(self.files.payload(), place, &buf[..len])?;
        Ok(len)
    }
}

impl BlockReader for Editor {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        self.lock().extent_at(offset)
    }

    fn read_extent(&self, _extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        // The map may have changed since the extent was asked for.
        check_range(self.size(), offset, buf.len() as u64)?;
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let mut image = self.lock();
            check_range(image.size, at, rest.len() as u64)?;
            let piece = image.piece_at(at, rest.len() as u64)?;
            let _kept = self.keep_places(image);
            let (part, behind) = rest.split_at_mut(usize::try_from(piece.len).unwrap_or(0));
            self.files.read(&piece, part)?;
            at += piece.len;
            rest = behind;
        }
        Ok(())
    }
}

impl BlockWriter for Editor {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.prepare(offset, buf.len() as u64)?;
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let done = self.write_some(rest, at)?;
            rest = &rest[done..];
            at += done as u64;
        }
        Ok(())
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        self.prepare(offset, len)?;
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let mut image = self.lock();
            check_range(image.size, at, end - at)?;
            image.prepare()?;
            at = image.zero_some(at, end)?;
        }
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.prepare(offset, len)?;
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let mut image = self.lock();
            check_range(image.size, at, end - at)?;
            image.prepare()?;
            at = image.discard_some(at, end)?;
        }
        Ok(())
    }

    fn resize(&self, size: u64) -> Result<()> {
        self.change(&mut self.lock(), |image| image.resize(size))
    }

    fn preallocate(&self, offset: u64, len: u64, how: Preallocation) -> Result<()> {
        check_range(self.size(), offset, len)?;
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let mut image = self.lock();
            check_range(image.size, at, end - at)?;
            image.prepare()?;
            at = image.preallocate_some(at, end, how)?;
        }
        Ok(())
    }

    fn snapshots(&self) -> Option<&dyn SnapshotWriter> {
        Some(self)
    }

    fn flush(&self) -> Result<()> {
        self.lock().flush()
    }

    fn close(&self) -> Result<()> {
        let mut image = self.lock();
        image.close()?;
        image.flush()
    }
}

impl SnapshotWriter for Editor {
    fn list(&self) -> Result<Vec<SnapshotInfo>> {
        self.lock().snapshots()
    }

    fn create(&self, what: &NewSnapshot) -> Result<SnapshotInfo> {
        self.change(&mut self.lock(), |image| image.create_snapshot(what))
    }

    fn apply(&self, snapshot: &str) -> Result<()> {
        self.change(&mut self.lock(), |image| image.apply_snapshot(snapshot))
    }

    fn delete(&self, snapshot: &str) -> Result<()> {
        self.change(&mut self.lock(), |image| image.delete_snapshot(snapshot))
    }
}

/// Writes what a writer that was cut off has left undone.
pub(crate) fn settle(storage: Arc<dyn StorageMut>, cx: &OpenContext<'_>) -> Result<()> {
    Image::settle(storage, cx)
}

/// Makes zero clusters, of snapshots too, what version 2 has in their place: holes, or data where something lies below.
pub(crate) fn expand_zeros(storage: Arc<dyn StorageMut>, cx: &OpenContext<'_>) -> Result<()> {
    let mut image = Image::open(storage, Some(Arc::new(Nothing)), Arc::default(), cx)?;
    image.expand_zeros()?;
    image.expand_zeros_of_snapshots()?;
    image.flush()?;
    image.close()
}

/// A disk without a byte.
#[derive(Debug)]
struct Nothing;

impl BlockReader for Nothing {
    fn size(&self) -> u64 {
        0
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(0, offset, 1)?;
        Ok(Extent::hole(0, 0))
    }

    fn read_extent(&self, _extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(0, offset, buf.len() as u64)
    }
}

impl Drop for Editor {
    fn drop(&mut self) {
        // Who wants to know whether it succeeded has flushed before.
        let _ = self.lock().close();
    }
}
