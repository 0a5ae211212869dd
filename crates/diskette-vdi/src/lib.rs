//! VDI, VirtualBox's own disk images.
//!
//! | what | read | made | changed |
//! | --- | --- | --- | --- |
//! | dynamic | yes | yes | yes |
//! | static | yes | yes | yes |
//! | differencing, undo | yes, over a parent that is found by its UUID | differencing, over another VDI | yes |
//! | header versions 1.1 and 0.2 (before VirtualBox 1.0) | yes | 1.1 | yes |
//! | block sizes from 512 bytes to 256 MiB, extra bytes before each block | yes | 1 MiB, none | yes |
//!
//! One file: a header, a map of 32-bit block numbers, and blocks of equal size in any order. No checksums, no
//! compression. Read [`spec`](self) for the bytes, `map` for the way from a guest offset to a host offset.

#![forbid(unsafe_code)]

mod check;
mod edit;
mod header;
mod map;
mod reader;
mod spec;
mod write;

use std::sync::Arc;

use diskette_core::{
    AmendableFormat, BitmapFormat, CheckableFormat, Ends, Format, Match, OpenContext, Opened,
    OverlayFormat, RepairableFormat, Result, SnapshotFormat, Storage, WritableFormat,
};

/// The name by which this format is known.
pub(crate) const FORMAT: &str = "vdi";

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Vdi;

impl Format for Vdi {
    fn name(&self) -> &'static str {
        FORMAT
    }

    fn probe(&self, ends: &Ends<'_>) -> Match {
        let signature = ends.head.get(spec::SIGNATURE_OFFSET..).unwrap_or_default();
        if ends.size >= 512 && signature.starts_with(&spec::SIGNATURE) {
            Match::Sure
        } else {
            Match::No
        }
    }

    fn open(&self, storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<Opened> {
        reader::open(storage, cx)
    }

    fn writable(&self) -> Option<&dyn WritableFormat> {
        Some(self)
    }

    fn checkable(&self) -> Option<&dyn CheckableFormat> {
        Some(self)
    }

    fn repairable(&self) -> Option<&dyn RepairableFormat> {
        Some(self)
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
