//! A disk-image format, as the rest of the house sees it.

use std::fmt::Debug;
use std::sync::Arc;

use crate::{
    AmendableFormat, BitmapFormat, BlockReader, CheckableFormat, ImageInfo, Limits, Options,
    OverlayFormat, Reference, RepairableFormat, Resolver, Result, Secrets, Storage, WritableFormat,
};

/// A disk-image format. One value of it stands in a [`Registry`](crate::Registry).
pub trait Format: Debug + Send + Sync {
    /// The name by which images and commands refer to it: "qcow2", "vpc", "raw".
    fn name(&self) -> &'static str;

    /// Whether a file with these ends is of this format.
    fn probe(&self, ends: &Ends<'_>) -> Match;

    /// One image, opened. Its backing image is only named.
    fn open(&self, storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<Opened>;

    /// How to write it, if we can.
    fn writable(&self) -> Option<&dyn WritableFormat>;

    /// How to check it, if there is anything to check.
    fn checkable(&self) -> Option<&dyn CheckableFormat>;

    /// How to repair it, if we can.
    fn repairable(&self) -> Option<&dyn RepairableFormat>;

    /// How to read its internal snapshots, if it has any.
    fn snapshots(&self) -> Option<&dyn SnapshotFormat>;

    /// How to put its images over others, if we can.
    fn overlays(&self) -> Option<&dyn OverlayFormat>;

    /// How to change options of its images, if we can.
    fn amendable(&self) -> Option<&dyn AmendableFormat>;

    /// How to read and change its persistent bitmaps, if it has any.
    fn bitmaps(&self) -> Option<&dyn BitmapFormat>;
}

/// What only formats with internal snapshots can do.
pub trait SnapshotFormat: Send + Sync {
    /// The disk as it was when a snapshot was taken: the one with this id, or else with this name.
    fn open_snapshot(
        &self,
        storage: Arc<dyn Storage>,
        snapshot: &str,
        cx: &OpenContext<'_>,
    ) -> Result<Opened>;
}

/// The first and the last bytes of a file, enough to tell its format.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// Up to [`Ends::HEAD`] bytes from the beginning.
    pub head: &'a [u8],
    /// Up to [`Ends::TAIL`] bytes up to the end. In a small file they overlap the head.
    pub tail: &'a [u8],
    /// The file's size in bytes.
    pub size: u64,
}

impl Ends<'_> {
    /// Bytes of a head: enough for the text of a VMDK descriptor that begins with comments.
    pub const HEAD: usize = 16 << 10;
    /// Bytes of a tail: enough for the footer of a fixed VHD.
    pub const TAIL: usize = 1 << 10;
}

/// How sure a format is that a file is its own. `raw` is never more than `Fallback`. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Match {
    /// It is not.
    No,
    /// It could be anything.
    Fallback,
    /// It looks like it, without a real signature.
    Likely,
    /// It bears the format's signature.
    Sure,
}

/// One image, opened. It has not touched its backing image: that is the chain's affair.
#[derive(Debug)]
pub struct Opened {
    /// The disk, without what lies behind its holes.
    pub reader: Box<dyn BlockReader>,
    /// What the image says of itself.
    pub info: ImageInfo,
    /// The image below, if it names one.
    pub backing: Option<Reference>,
}

/// What opening may use and may cost. Formats ask it; they decide nothing themselves.
#[derive(Clone, Copy, Debug)]
pub struct OpenContext<'a> {
    /// Opens the files that the image names, or refuses.
    pub files: &'a dyn Resolver,
    /// Budgets.
    pub limits: &'a Limits,
    /// The format's own options for opening, as qemu-img names them. A format takes what it knows.
    pub options: &'a Options,
    /// What opens encrypted images; options name them by their ids.
    pub secrets: &'a Secrets,
    /// Whether damage that loses data (a table or a run past the file's end) is read as zeros instead of refused.
    pub salvage: bool,
    /// Whether only the metadata will be looked at: files of the image's own that `info` does not need stay closed.
    /// Reading guest data from an image opened so may fail.
    pub metadata_only: bool,
}
