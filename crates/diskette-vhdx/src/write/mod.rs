//! Making VHDX images.

mod image;
mod layout;
mod metadata;
mod options;

use std::sync::Arc;

use diskette_core::{
    BlockReader, BlockWriter, ImageWriter, Measure, NewImage, NewParts, OpenContext, OptionSpec,
    Result, StorageMut, WritableFormat,
};

use crate::{Vhdx, edit};
use image::NewVhdx;
use layout::Layout;
use options::{OPTIONS, Settings};

impl WritableFormat for Vhdx {
    fn options(&self) -> &'static [OptionSpec] {
        OPTIONS
    }

    fn settled_options(&self, what: &NewImage) -> Result<Vec<(&'static str, String)>> {
        Ok(Settings::new(what)?.told(&what.options))
    }

    fn measure(&self, what: &NewImage, data: u64) -> Result<Measure> {
        let settings = Settings::new(what)?;
        let layout = Layout::new(&settings);
        let most = layout.block_count();
        let placed = match settings.fixed {
            true => most,
            false => data.div_ceil(settings.block_size).min(most),
        };
        Ok(Measure {
            required: layout.block_offset(placed),
            fully_allocated: layout.block_offset(most),
            bitmaps: None,
        })
    }

    fn granule_size(&self, what: &NewImage) -> Result<u64> {
        Ok(Settings::new(what)?.block_size)
    }

    fn create(
        &self,
        to: Arc<dyn StorageMut>,
        _parts: &dyn NewParts,
        what: &NewImage,
    ) -> Result<Box<dyn ImageWriter>> {
        Ok(Box::new(NewVhdx::new(to, Settings::new(what)?)?))
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
