//! Persistent bitmaps of images on the host's disk.

use std::path::Path;
use std::sync::Arc;

use diskette_core::{BitmapFormat, BitmapReader, BitmapWriter, Error, Format, OpenOptions, Result};
use diskette_storage::FileStorageMut;

use crate::container::{Source, source};
use crate::registry;

/// The persistent bitmaps of the image at `path`, to be changed. No other program may write the image meanwhile; QEMU's
/// keep to that.
///
/// ```
/// use diskette::core::NewBitmap;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.qcow2");
/// # diskette::create(&path, "qcow2", &diskette::core::NewImage::new(1 << 20))?;
/// let bitmaps = diskette::edit_bitmaps(&path, &diskette::safe_options())?;
/// bitmaps.add(&NewBitmap::named("since-monday"))?;
/// # drop(bitmaps);
///
/// diskette::edit(&path, &diskette::safe_options())?.write_at(&[1; 512], 0)?;
///
/// let bitmap = diskette::open_bitmap(&path, "since-monday", &diskette::safe_options())?;
/// assert_eq!(bitmap.next_dirty(0)?, Some(0..64 << 10));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn edit_bitmaps(
    path: impl AsRef<Path>,
    options: &OpenOptions,
) -> Result<Box<dyn BitmapWriter>> {
    let file = FileStorageMut::open(path)?;
    file.lock()?;
    let format = registry().choose(&options.format, &file)?;
    bitmap_format(format)?.edit_bitmaps(Arc::new(file), &options.context())
}

/// A persistent bitmap of the image at `path`, to be read.
pub fn open_bitmap(
    path: impl AsRef<Path>,
    name: &str,
    options: &OpenOptions,
) -> Result<Box<dyn BitmapReader>> {
    let Source {
        storage, options, ..
    } = source(path, options)?;
    let format = registry().choose(&options.format, &*storage)?;
    bitmap_format(format)?.open_bitmap(storage, name, &options.context())
}

/// What a format can do with persistent bitmaps.
pub(crate) fn bitmap_format(format: &'static dyn Format) -> Result<&'static dyn BitmapFormat> {
    let bitmaps = format.bitmaps();
    bitmaps.ok_or_else(|| Error::unsupported(format.name(), "persistent bitmaps"))
}
