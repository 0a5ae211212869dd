//! Persistent bitmaps: what of a disk has changed since some time.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use crate::{BitmapInfo, OpenContext, Result, Storage, StorageMut};

/// What only formats with persistent bitmaps can do.
///
/// A bitmap that is enabled learns of all that is written by a [`BlockWriter`](crate::BlockWriter). It is inconsistent
/// while that goes on, and stays so where it does not come to an orderly end.
pub trait BitmapFormat: Send + Sync {
    /// The bitmap of this name, to be read. One that is inconsistent is refused.
    fn open_bitmap(
        &self,
        storage: Arc<dyn Storage>,
        name: &str,
        cx: &OpenContext<'_>,
    ) -> Result<Box<dyn BitmapReader>>;

    /// The bitmaps of an image that exists, to be changed. Nobody else may write the image meanwhile; its disk is not
    /// looked at.
    fn edit_bitmaps(
        &self,
        image: Arc<dyn StorageMut>,
        cx: &OpenContext<'_>,
    ) -> Result<Box<dyn BitmapWriter>>;
}

/// A persistent bitmap.
pub trait BitmapReader: Debug + Send + Sync {
    /// What is known of it.
    fn info(&self) -> &BitmapInfo;

    /// Bytes of the disk that it tells of.
    fn disk_size(&self) -> u64;

    /// The first run of the disk that has changed, of those that end behind a guest offset; from that offset on, if it
    /// begins before.
    fn next_dirty(&self, offset: u64) -> Result<Option<Range<u64>>>;
}

/// The persistent bitmaps of one image.
///
/// What an act did is on stable storage when it returns; where it is cut off the bitmaps are as they were, or as they are
/// to be. One that is inconsistent can only be removed.
pub trait BitmapWriter: Debug + Send + Sync {
    /// Those that there are.
    fn list(&self) -> Result<Vec<BitmapInfo>>;

    /// Adds one in which nothing has changed.
    fn add(&self, what: &NewBitmap) -> Result<()>;

    /// Removes one, whatever its state.
    fn remove(&self, name: &str) -> Result<()>;

    /// Makes one say that nothing has changed.
    fn clear(&self, name: &str) -> Result<()>;

    /// Lets one learn of what is written from now on, or not.
    fn set_enabled(&self, name: &str, enabled: bool) -> Result<()>;

    /// Makes one say that all has changed of which `from` says so, too. Both are of disks of one size.
    fn merge(&self, name: &str, from: &dyn BitmapReader) -> Result<()>;
}

/// What a new bitmap is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewBitmap {
    /// Unique within the image.
    pub name: String,
    /// Bytes of the disk that one bit stands for; the format's own choice where it is not given.
    pub granularity: Option<u64>,
    /// Whether it learns of what is written.
    pub enabled: bool,
}

impl NewBitmap {
    /// A bitmap of this name that is enabled.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            granularity: None,
            enabled: true,
        }
    }
}
