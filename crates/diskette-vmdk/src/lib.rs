//! VMDK, VMware's disk images.
//!
//! | what | read | made anew | changed |
//! | --- | --- | --- | --- |
//! | monolithicSparse, twoGbMaxExtentSparse | yes | yes | yes |
//! | streamOptimized | yes: VMware's, open-vmdk's and qemu-img's layouts; without a footer by a scan | yes, in VMware's | no |
//! | monolithicFlat, twoGbMaxExtentFlat | yes | yes | yes |
//! | vmfs and its aliases | yes | no | yes |
//! | vmfsSparse (COWD), seSparse | yes, if the seSparse journal is empty | no | no |
//! | delta links | yes, over a parent with the right CID | yes, but for flat ones and streams | sparse ones |
//! | raw devices (fullDevice, vmfsRDM ...), vSAN and vVol objects, encryption | refused by name | no | |
//!
//! A descriptor, which is a text, names the extents that make up the disk, each of its own kind and mostly in a file of
//! its own; here they are called *parts*. In a hosted sparse extent the descriptor may be embedded: that is an image in
//! one file. `descriptor` reads the text, `image` opens the parts, `map` finds the part, and `grains` the grain in it.

#![forbid(unsafe_code)]

mod check;
mod cowd;
mod descriptor;
mod edit;
mod flat;
mod grains;
mod header;
mod image;
mod map;
mod one_pass;
mod probe;
mod reader;
mod redundant;
mod remarks;
mod sesparse;
mod sparse;
mod spec;
mod stream;
mod uses;
mod write;

use std::sync::Arc;

use diskette_core::{
    AmendableFormat, BitmapFormat, CheckableFormat, Ends, Format, Match, OpenContext, Opened,
    OverlayFormat, RepairableFormat, Result, SnapshotFormat, Storage, WritableFormat,
};

/// The name by which this format is known.
pub(crate) const FORMAT: &str = "vmdk";

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Vmdk;

impl Format for Vmdk {
    fn name(&self) -> &'static str {
        FORMAT
    }

    fn probe(&self, ends: &Ends<'_>) -> Match {
        probe::probe(ends)
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
