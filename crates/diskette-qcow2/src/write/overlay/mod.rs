//! An image that exists, written anywhere and in any order.
//!
//! Guest data are written at once. Tables are changed in memory, and written together, in an order that loses nothing
//! where it is cut off: data, refcounts of what was allocated, L2 tables, L1 table, refcounts of what was released. A
//! crash may leave clusters counted that nobody uses, but never one in use that is not counted.

mod allocator;
mod cache;
mod cluster;
mod image;
mod view;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diskette_core::{BlockReader, BlockWriter, Error, Extent, OpenContext, Result, StorageMut};

use self::image::Image;

/// Opens an image to be changed. `below` is what its holes show.
pub(super) fn edit(
    storage: Arc<dyn StorageMut>,
    below: Option<Arc<dyn BlockReader>>,
    cx: &OpenContext<'_>,
) -> Result<Box<dyn BlockWriter>> {
    let image = Image::open(storage, below, cx)?;
    Ok(Box::new(Overlay {
        size: image.size(),
        image: Mutex::new(image),
    }))
}

/// The disk of an image that is being changed. What is behind it shows through its holes.
///
/// [`BlockWriter::flush`] is what makes the changes last. Dropping it writes the tables, too, but tells of no error.
#[derive(Debug)]
struct Overlay {
    size: u64,
    image: Mutex<Image>,
}

impl Overlay {
    // A panic elsewhere while the lock was held leaves a map that can be read: go on.
    fn lock(&self) -> MutexGuard<'_, Image> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        let size = self.size;
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            _ => Err(Error::OutOfRange { offset, len, size }),
        }
    }
}

impl BlockReader for Overlay {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        self.check_range(offset, 1)?;
        self.lock().extent_at(offset)
    }

    fn read_extent(&self, _extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        // The map may have changed since the extent was asked for.
        self.check_range(offset, buf.len() as u64)?;
        self.lock().read(buf, offset)
    }
}

impl BlockWriter for Overlay {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        self.lock().write(buf, offset)
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        self.check_range(offset, len)?;
        self.lock().write_zeros(offset, len)
    }

    fn flush(&self) -> Result<()> {
        self.lock().flush()
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // Who wants to know whether it succeeded has flushed before.
        let _ = self.lock().commit();
    }
}
