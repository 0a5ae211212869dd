//! Making VMDK images.

mod content_id;
mod extent;
mod flat;
mod header;
mod joined;
mod measure;
mod options;
mod ordered;
mod sparse;
mod stream;
mod table;
mod text;

use std::ops::Range;
use std::sync::Arc;

use diskette_core::{
    BlockReader, BlockWriter, Error, ImageWriter, Measure, NewImage, NewParts, OpenContext,
    OptionSpec, Rehearsal, Result, SequentialFormat, StorageExt, StorageMut, WritableFormat,
};

use crate::{FORMAT, Vmdk, edit};
use flat::Flat;
use header::GRAIN;
use options::{OPTIONS, Settings, Subformat};
use sparse::Sparse;
use stream::Stream;

impl WritableFormat for Vmdk {
    fn options(&self) -> &'static [OptionSpec] {
        OPTIONS
    }

    fn settled_options(&self, what: &NewImage) -> Result<Vec<(&'static str, String)>> {
        Settings::told(what)
    }

    fn measure(&self, what: &NewImage, data: u64) -> Result<Measure> {
        Ok(measure::measure(&Settings::new(what)?, data))
    }

    fn granule_size(&self, _what: &NewImage) -> Result<u64> {
        Ok(GRAIN)
    }

    fn create(
        &self,
        to: Arc<dyn StorageMut>,
        parts: &dyn NewParts,
        what: &NewImage,
    ) -> Result<Box<dyn ImageWriter>> {
        let settings = Settings::new(what)?;
        empty(&*to)?;
        Ok(match (settings.subformat, settings.subformat.part_size()) {
            (Subformat::StreamOptimized, _) => Box::new(Stream::new(to, settings)?),
            (subformat, _) if subformat.is_flat() => Box::new(Flat::new(to, parts, settings)?),
            (_, Some(part_size)) => Box::new(Sparse::split(to, parts, part_size, settings)?),
            (_, None) => Box::new(Sparse::monolithic(to, settings)),
        })
    }

    fn edit(
        &self,
        image: Arc<dyn StorageMut>,
        below: Option<Arc<dyn BlockReader>>,
        cx: &OpenContext<'_>,
    ) -> Result<Box<dyn BlockWriter>> {
        edit::open(image, below, cx)
    }
}

impl SequentialFormat for Vmdk {
    /// A stream is what is meant, where nothing is said.
    fn create_in_order(
        &self,
        to: Arc<dyn StorageMut>,
        what: &NewImage,
        _data: Option<&[Range<u64>]>,
    ) -> Result<Box<dyn ImageWriter>> {
        let mut what = what.clone();
        if what.options.text("subformat").is_none() {
            what.options.set("subformat", "streamOptimized");
        }
        let settings = Settings::new(&what)?;
        match settings.subformat {
            Subformat::StreamOptimized => Ok(Box::new(Stream::new(to, settings)?)),
            _ => Err(Error::unsupported(
                FORMAT,
                "a stream of another subformat than streamOptimized",
            )),
        }
    }

    fn rehearse(
        &self,
        _what: &NewImage,
        _nowhere: Arc<dyn StorageMut>,
    ) -> Result<Option<Box<dyn Rehearsal>>> {
        Ok(None)
    }
}

/// Takes from a storage what it held. What cannot be emptied, as a device, would show it through.
fn empty(storage: &dyn StorageMut) -> Result<()> {
    storage
        .set_size(0)
        .map_err(|source| storage.failed("truncate", 0, 0, source))?;
    match storage.total_size()? {
        0 => Ok(()),
        _ => Err(Error::unsupported(FORMAT, "an image on a device")),
    }
}

/// That a chunk of the disk begins with a grain.
fn check_chunk(offset: u64, len: u64, size: u64) -> Result<()> {
    match offset.is_multiple_of(GRAIN) && offset < size && len > 0 {
        true => Ok(()),
        false => Err(Error::OutOfRange { offset, len, size }),
    }
}
