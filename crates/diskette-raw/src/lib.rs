//! Raw disk images: the disk's bytes, and nothing else. ISO files are raw images too.
//!
//! | what | |
//! | --- | --- |
//! | read | files of any size, rounded up to 512 bytes with zeros; holes of sparse files are known; block devices |
//! | written | sparse files, or with `preallocation` `falloc` or `full`; block devices |
//!
//! A raw image has no signature: any file may be one, so that its probe never says more than [`Match::Fallback`]. It is
//! the smallest format of the house; who has read it knows the rooms of all others.

#![forbid(unsafe_code)]

mod reader;
mod stream;
mod writer;

use std::sync::Arc;

use diskette_core::{
    AmendableFormat, BitmapFormat, CheckableFormat, Ends, Format, Match, OpenContext, Opened,
    OverlayFormat, RepairableFormat, Result, SnapshotFormat, Storage, WritableFormat,
};

/// The name by which this format is known.
pub(crate) const FORMAT: &str = "raw";

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Raw;

impl Format for Raw {
    fn name(&self) -> &'static str {
        FORMAT
    }

    fn probe(&self, _ends: &Ends<'_>) -> Match {
        Match::Fallback
    }

    fn open(&self, storage: Arc<dyn Storage>, _cx: &OpenContext<'_>) -> Result<Opened> {
        reader::open(storage)
    }

    fn writable(&self) -> Option<&dyn WritableFormat> {
        Some(self)
    }

    fn checkable(&self) -> Option<&dyn CheckableFormat> {
        None
    }

    fn repairable(&self) -> Option<&dyn RepairableFormat> {
        None
    }

    fn snapshots(&self) -> Option<&dyn SnapshotFormat> {
        None
    }

    fn overlays(&self) -> Option<&dyn OverlayFormat> {
        None
    }

    fn amendable(&self) -> Option<&dyn AmendableFormat> {
        None
    }

    fn bitmaps(&self) -> Option<&dyn BitmapFormat> {
        None
    }
}
