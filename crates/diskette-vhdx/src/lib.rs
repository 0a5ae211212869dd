//! VHDX disk images, as Hyper-V, Windows, disk2vhd and QEMU write them.
//!
//! | what | read | made | changed |
//! | --- | --- | --- | --- |
//! | fixed | yes | yes | yes |
//! | dynamic | yes; every block state, every block size from 1 to 256 MiB | yes, with blocks of each size | yes |
//! | differencing | yes; partially present blocks by their sector bitmaps, the parent by its locator | over another VHDX | yes |
//! | logical sectors of 512 and 4096 bytes | yes | yes | yes |
//! | a log that was not replayed | replayed in memory; the file is not touched, but by `repair` | | replayed into the file |
//! | damaged first header or region table | the second one serves | | yes |
//! | required regions or metadata items that we do not know | refused by their GUID | | |
//!
//! A file whose log, regions or blocks overlap, or lie past its end, is refused when it is opened, for all its BAT is
//! looked at then. In salvage such blocks are zeros.
//!
//! ```text
//!  header ──► log ──► the file with the log's changes over it
//!                              │
//!                              ├──► region ──► metadata, locator
//!                              └──► map (the BAT) ──► reader
//! ```

#![forbid(unsafe_code)]

mod check;
mod checksum;
mod edit;
mod header;
mod image;
mod locator;
mod log;
mod map;
mod metadata;
mod overlay;
mod reader;
mod region;
mod repair;
mod spec;
mod survey;
mod write;

use std::sync::Arc;

use diskette_core::{
    AmendableFormat, BitmapFormat, CheckableFormat, Ends, Format, Match, OpenContext, Opened,
    OverlayFormat, RepairableFormat, Result, SnapshotFormat, Storage, WritableFormat,
};

use crate::image::Image;
use crate::reader::Reader;

/// The VHDX format.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vhdx;

impl Format for Vhdx {
    fn name(&self) -> &'static str {
        spec::FORMAT
    }

    fn probe(&self, ends: &Ends<'_>) -> Match {
        match ends.head.starts_with(&spec::FILE_SIGNATURE) {
            true => Match::Sure,
            false => Match::No,
        }
    }

    fn open(&self, storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<Opened> {
        let image = Image::open(storage, cx)?;
        let mut info = image.info();
        let mut first_loss = None;
        let found = survey::survey(&image.map, cx.limits, |error| {
            if !cx.salvage {
                return Err(error);
            }
            first_loss.get_or_insert(error);
            Ok(())
        })?;
        if let Some(error) = first_loss {
            info.warnings.push(error.to_string());
        }
        if let Some(index) = found.reserved_bits {
            info.warnings.push(check::reserved_bits(index));
        }
        let backing = image.metadata.backing();
        Ok(Opened {
            reader: Box::new(Reader::new(image.map, image.metadata.fixed, cx.salvage)),
            info,
            backing,
        })
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
