//! Making VDI images.

mod image;
mod options;

use std::sync::Arc;

use diskette_core::{
    BlockReader, BlockWriter, ImageWriter, Measure, NewImage, NewParts, OpenContext, OptionSpec,
    Result, StorageMut, WritableFormat,
};

use crate::{Vdi, edit};
use image::NewVdi;
use options::{OPTIONS, Settings};

impl WritableFormat for Vdi {
    fn options(&self) -> &'static [OptionSpec] {
        OPTIONS
    }

    fn settled_options(&self, what: &NewImage) -> Result<Vec<(&'static str, String)>> {
        Ok(Settings::new(what)?.told(&what.options))
    }

    fn measure(&self, what: &NewImage, data: u64) -> Result<Measure> {
        let settings = Settings::new(what)?;
        let blocks = settings.block_count() * options::BLOCK_SIZE;
        let whole = settings.data_offset() + blocks;
        let required = match settings.is_static {
            true => whole,
            false => settings.data_offset() + data.min(blocks),
        };
        Ok(Measure {
            required,
            fully_allocated: whole,
            bitmaps: None,
        })
    }

    fn granule_size(&self, what: &NewImage) -> Result<u64> {
        Settings::new(what)?;
        Ok(options::BLOCK_SIZE)
    }

    fn create(
        &self,
        to: Arc<dyn StorageMut>,
        _parts: &dyn NewParts,
        what: &NewImage,
    ) -> Result<Box<dyn ImageWriter>> {
        Ok(Box::new(NewVdi::new(to, Settings::new(what)?)?))
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
