//! Making images, and changing them.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use crate::{
    BitmapInfo, BlockReader, Error, Identity, OpenContext, OptionSpec, Options, Result, Secrets,
    SnapshotWriter, StorageMut,
};

/// How a format is written.
pub trait WritableFormat: Send + Sync {
    /// The options that a new image can have.
    fn options(&self) -> &'static [OptionSpec];

    /// The options that `what` will have, with the defaults filled in: names and values in qemu-img's order, for people.
    fn settled_options(&self, what: &NewImage) -> Result<Vec<(&'static str, String)>>;

    /// How large an image will be at least and at most, if `data` bytes of whole granules are not zero.
    fn measure(&self, what: &NewImage, data: u64) -> Result<Measure>;

    /// The unit in which [`measure`](Self::measure) wants its data counted, in bytes.
    fn granule_size(&self, what: &NewImage) -> Result<u64>;

    /// A new image, to be filled in guest order. What `to` held before is lost. An image that takes several files makes
    /// the others by `parts`.
    fn create(
        &self,
        to: Arc<dyn StorageMut>,
        parts: &dyn NewParts,
        what: &NewImage,
    ) -> Result<Box<dyn ImageWriter>>;

    /// An image that exists, to be written anywhere. `below` is what its holes show.
    fn edit(
        &self,
        image: Arc<dyn StorageMut>,
        below: Option<Arc<dyn BlockReader>>,
        cx: &OpenContext<'_>,
    ) -> Result<Box<dyn BlockWriter>>;
}

/// Makes the other files of a new image: the parts beside the file by whose name it is known.
pub trait NewParts: Debug + Send + Sync {
    /// A file without bytes yet, that is to have this name, in the folder of the image's own.
    fn create(&self, name: &str) -> Result<Arc<dyn StorageMut>>;
}

/// Makes no other files: the image has to be one.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoParts;

impl NewParts for NoParts {
    fn create(&self, name: &str) -> Result<Arc<dyn StorageMut>> {
        Err(Error::File {
            op: "create",
            path: name.to_owned(),
            source: io::Error::other("the image can have one file only here"),
        })
    }
}

/// What a new image is to be.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct NewImage {
    /// The disk's size in bytes. Formats that count in sectors round it up.
    pub size: u64,
    /// The image below.
    pub backing: Option<BackingImage>,
    /// The source's persistent bitmaps, for which [`measure`](WritableFormat::measure) sees room; they are not written.
    /// `None` where it cannot have any.
    pub bitmaps: Option<Vec<BitmapInfo>>,
    /// Whether guest data is to be compressed.
    pub compress: bool,
    /// The format's own options; [`WritableFormat::options`] lists them.
    pub options: Options,
    /// What an encrypted image is to be opened by; options name them by their ids.
    pub secrets: Secrets,
}

impl NewImage {
    /// A disk of `size` bytes, with the format's defaults.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self {
            size,
            ..Self::default()
        }
    }

    /// The same, with one of the format's options.
    #[must_use]
    pub fn with_option(mut self, name: &str, value: &str) -> Self {
        self.options.set(name, value);
        self
    }

    /// The same, over a backing image.
    #[must_use]
    pub fn with_backing(mut self, backing: BackingImage) -> Self {
        self.backing = Some(backing);
        self
    }

    /// The same, with guest data compressed.
    #[must_use]
    pub const fn compressed(mut self) -> Self {
        self.compress = true;
        self
    }
}

/// A backing image, as a new overlay is to name it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackingImage {
    /// The name that the overlay will bear.
    pub target: String,
    /// The format that the overlay will name.
    pub format: String,
    /// What the backing image says of itself ([`ImageInfo::identity`](crate::ImageInfo::identity)), for overlays that
    /// note it down. Empty if it was not opened.
    pub identity: Vec<Identity>,
}

impl BackingImage {
    /// The image of this name and format, of which no more is known.
    pub fn new(target: impl Into<String>, format: impl Into<String>) -> Self {
        Self {
            target: target.into(),
            format: format.into(),
            identity: Vec::new(),
        }
    }

    /// What the image says of itself in this regard, if it was opened.
    #[must_use]
    pub fn identity(&self, kind: &str) -> Option<&str> {
        let mut known = self.identity.iter();
        let found = known.find(|identity| identity.kind == kind);
        found.map(|identity| identity.value.as_str())
    }

    /// The name as Windows writes relative paths; `None` where it is none, or could not be told from another.
    #[must_use]
    pub fn windows_path(&self) -> Option<String> {
        let target = self.target.strip_prefix("./").unwrap_or(&self.target);
        if target.is_empty() || target.starts_with('/') || target.contains(['\\', ':']) {
            return None;
        }
        let path = target.replace('/', "\\");
        Some(match path.starts_with("..\\") {
            true => path,
            false => format!(".\\{path}"),
        })
    }
}

/// How large an image will be, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// With the data that was counted.
    pub required: u64,
    /// With all of the disk allocated.
    pub fully_allocated: u64,
    /// For persistent bitmaps, in formats that have them.
    pub bitmaps: Option<u64>,
}

/// Lays out a whole new image. Told of chunks in guest order, by one thread.
pub trait ImageWriter: Debug + Send {
    /// What turns chunks into bytes to store.
    fn packer(&self) -> Arc<dyn Packer>;

    /// Where packed chunks are to be written.
    fn storage(&self) -> Arc<dyn StorageMut>;

    /// Gives a packed chunk its place: the host offset where the caller writes it, or `None` where nothing is to be
    /// written. `offset` is the chunk's guest offset, a multiple of the chunk size; `len` the number of bytes to be
    /// stored. Keeps the map in memory; writes nothing.
    ///
    /// Chunks come in ascending order. One that never comes is a hole.
    fn place(&mut self, offset: u64, packed: Packed, len: u64) -> Result<Option<u64>>;

    /// Writes the tables, and the header last: until then the file is no image.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Turns a chunk into the bytes to store. Called by many threads.
pub trait Packer: Debug + Send + Sync {
    /// Bytes of a chunk; only the disk's last may be shorter. A power of two. Chunks of more than 2 MiB are not packed,
    /// but stored as they are, piece by piece.
    fn chunk_size(&self) -> u32;

    /// Which zeros need not be stored.
    fn skipped(&self) -> Skipped;

    /// Packs the chunk at guest `offset`. Compressed bytes go into `out`, which is empty; plain ones stay in `data`.
    fn pack(&self, offset: u64, data: &[u8], out: &mut Vec<u8>) -> Result<Packed>;
}

/// Which zeros a new image need not store, since they are read all the same. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// Any: where nothing is written, zeros are read.
    AllZeros,
    /// Chunks of zeros; of any other chunk every byte is written.
    WholeChunks,
    /// None: every chunk of the disk is placed and written, also what the source has no data for.
    Nothing,
}

/// How a chunk is to be stored. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packed {
    /// It is all zeros: not stored, but it hides a backing image.
    Zero,
    /// As it is.
    Plain,
    /// Compressed.
    Compressed,
}

/// What is done ahead of what will be written. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preallocation {
    /// The image's tables say where everything lies.
    Metadata,
    /// The host keeps space for it, too.
    Reserved,
    /// And zeros are written there.
    Full,
}

/// A disk that can be written anywhere, in any order: a raw image, a QCOW2 overlay. All offsets are guest offsets.
pub trait BlockWriter: BlockReader {
    /// Writes `buf` whole, or fails.
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()>;

    /// Makes a range read as zeros.
    fn write_zeros(&self, offset: u64, len: u64) -> Result<()>;

    /// Tells that a range's bytes are no longer needed. Whole granules in it are given back where the image can do
    /// without them, and read as zeros; all else stays as it was.
    fn discard(&self, offset: u64, len: u64) -> Result<()>;

    /// Gives the disk another size. What is new reads as zeros, whatever lies below; what is cut off is lost. On stable storage
    /// when it returns, with all that was written before.
    fn resize(&self, size: u64) -> Result<()>;

    /// Gives a range its place in the file ahead of what will be written there. What reads as zeros goes on doing so, and
    /// what is stored stays.
    fn preallocate(&self, offset: u64, len: u64, how: Preallocation) -> Result<()>;

    /// The image's internal snapshots, in formats that have some.
    fn snapshots(&self) -> Option<&dyn SnapshotWriter>;

    /// Returns when all that was written is on stable storage.
    ///
    /// Until then a writer may keep tables in memory.
    fn flush(&self) -> Result<()>;

    /// The same, and leaves the image as one that is put away: with all that a writer may put off until then. It can be
    /// written again, though.
    ///
    /// A writer that is dropped does this, too, but can tell of no error: what counts is closed.
    fn close(&self) -> Result<()>;
}
