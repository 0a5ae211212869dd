//! VPC, the disk images of Virtual PC, Hyper-V, Azure and XenServer that are also known as VHD.
//!
//! | what | read | made | changed |
//! | --- | --- | --- | --- |
//! | fixed | yes, also with the 511-byte footer of Virtual PC before 2004 | yes, also by Azure's rule | yes |
//! | dynamic | yes, with either copy of the footer lost by the other | yes | yes |
//! | differencing | yes, over the parent that its locators name, held against its UUID | over another VPC | yes |
//! | sector bitmaps | obeyed, also XenServer's first ones with reversed bits | all bits set | all bits of what is written to |
//! | XenServer's batmap | skipped: the bitmaps say it all; encrypted ones are refused | no | |
//!
//! All numbers are big-endian. A disk's size is said twice, as a number and as a geometry; which one counts depends on
//! the program that made the image (`footer`), or on the open option `force_size_calc` (`chs` or `current_size`).

#![forbid(unsafe_code)]

mod check;
mod dynamic;
mod edit;
mod footer;
mod locator;
mod map;
mod reader;
mod spec;
mod write;

use std::sync::Arc;

use diskette_core::{
    AmendableFormat, BitmapFormat, CheckableFormat, Ends, Format, Match, OpenContext, Opened,
    OptionSpec, OverlayFormat, RepairableFormat, Result, SnapshotFormat, Storage, WritableFormat,
};

/// The name by which this format is known.
pub(crate) const FORMAT: &str = "vpc";

/// What can be said of an image when it is opened, as qemu-img has it: `force_size_calc` settles how the disk's size is
/// found where the program that made the image cannot be trusted to tell.
pub const OPEN_OPTIONS: &[OptionSpec] = &[OptionSpec {
    name: footer::FORCE_SIZE_CALC,
    takes: "chs|current_size",
    default: "",
    help: "the disk's size by its geometry, or by the number; else by the program that made the image",
}];

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Vpc;

impl Format for Vpc {
    fn name(&self) -> &'static str {
        FORMAT
    }

    fn probe(&self, ends: &Ends<'_>) -> Match {
        footer::probe(ends)
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
