//! Disks that come once, from the first byte to the last: out of a pipe, or of a decompressor; and images that go so.
//!
//! An image that is laid out in guest order needs no other look at what has passed. Whoever has such an image as a
//! [`ByteStream`] asks its format, a [`StreamFormat`], for the disk as a [`DiskStream`].

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use crate::{Format, ImageWriter, NewImage, OpenContext, Result, StorageMut, WritableFormat};

/// Bytes that come once, in order.
pub trait ByteStream: Debug + Send {
    /// For messages: a path, "standard input".
    fn name(&self) -> &str;

    /// Fills `buf` from its beginning, and gives how many bytes came: fewer than there is room for at the end alone.
    fn read(&mut self, buf: &mut [u8]) -> Result<usize>;
}

/// How often an image must be gone through. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passes {
    /// Once.
    One,
    /// Once, if its length is known before.
    OneOfKnownLen,
    /// More than once: it is to be kept somewhere, and read as a file.
    More,
}

/// A format that has images which can be read in one pass.
pub trait StreamFormat: Format {
    /// How often an image that begins with `head` must be gone through.
    fn passes(&self, head: &[u8], cx: &OpenContext<'_>) -> Passes;

    /// The disk in a stream of `len` bytes, if these are known. It begins with `head`, of which [`passes`](Self::passes) has
    /// said that once is enough.
    fn open_stream(
        &self,
        head: &[u8],
        bytes: Box<dyn ByteStream>,
        len: Option<u64>,
        cx: &OpenContext<'_>,
    ) -> Result<Box<dyn DiskStream>>;
}

/// A disk that comes once, in guest order.
pub trait DiskStream: Debug + Send {
    /// The disk's size in bytes.
    fn size(&self) -> u64;

    /// The next run that is stored; what lies between runs reads as zeros. `None` when the stream has ended, where it
    /// should have. Its bytes may be put into `buffer`, which is empty.
    fn next_run(&mut self, buffer: Vec<u8>) -> Result<Option<StoredRun>>;

    /// What turns stored bytes into those of the disk.
    fn decoder(&self) -> Arc<dyn RunDecoder>;
}

/// A run of the disk, as it is stored. Complete by nature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRun {
    /// Guest offset of its first byte.
    pub offset: u64,
    /// Its bytes on the disk; never 0.
    pub len: u64,
    /// What is stored.
    pub bytes: Vec<u8>,
    /// Whether it is to be had only whole, through a codec.
    pub compressed: bool,
}

/// Turns stored bytes into those of the disk. Called by many threads.
pub trait RunDecoder: Debug + Send + Sync {
    /// Fills `buf` with the bytes of `run` from `within` on.
    fn decode(&self, run: &StoredRun, buf: &mut [u8], within: u64) -> Result<()>;
}

/// A format of which images can be written from their first byte to their last: into a pipe, or into a file of an archive.
pub trait SequentialFormat: WritableFormat {
    /// A new image, to be filled in guest order. All that is written lies behind what was written before; what is passed
    /// over reads as zeros. [`Error::Unsupported`](crate::Error::Unsupported) where `what` asks for an image that cannot
    /// be written so.
    ///
    /// `data` are the ranges of the disk, in ascending order, outside of which it holds zeros, if these are known ahead: a
    /// format whose tables come first needs them.
    fn create_in_order(
        &self,
        to: Arc<dyn StorageMut>,
        what: &NewImage,
        data: Option<&[Range<u64>]>,
    ) -> Result<Box<dyn ImageWriter>>;

    /// The same for an image of which the tables, that come first, tell how long the packed chunks are: only who has packed
    /// them knows. `None` where one pass is enough, or two do not help. `nowhere` is handed back as the first pass's storage.
    fn rehearse(
        &self,
        what: &NewImage,
        nowhere: Arc<dyn StorageMut>,
    ) -> Result<Option<Box<dyn Rehearsal>>>;
}

/// An image that is written after all of its chunks have been seen: the disk is gone through twice.
pub trait Rehearsal: Debug + Send {
    /// Takes the disk's chunks for the first time, and writes none of them.
    fn writer(&mut self) -> Box<dyn ImageWriter>;

    /// Takes them for the second time, after that writer has been finished. All that is written `to` there lies behind what
    /// was written before.
    fn perform(self: Box<Self>, to: Arc<dyn StorageMut>) -> Result<Box<dyn ImageWriter>>;
}
