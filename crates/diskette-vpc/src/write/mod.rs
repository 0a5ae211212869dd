//! Making VPC images.

mod geometry;
mod image;
mod layout;
mod options;

use std::sync::Arc;

use diskette_core::{
    BlockReader, BlockWriter, ImageWriter, Measure, NewImage, NewParts, OpenContext, OptionSpec,
    Result, StorageMut, WritableFormat,
};

use crate::{Vpc, edit};
use image::NewVpc;
use layout::{BLOCK_SIZE, Layout};
use options::{OPTIONS, Settings};

impl WritableFormat for Vpc {
    fn options(&self) -> &'static [OptionSpec] {
        OPTIONS
    }

    fn settled_options(&self, what: &NewImage) -> Result<Vec<(&'static str, String)>> {
        Ok(Settings::new(what)?.told(&what.options))
    }

    fn measure(&self, what: &NewImage, data: u64) -> Result<Measure> {
        let settings = Settings::new(what)?;
        let layout = Layout::new(&settings);
        Ok(Measure {
            required: layout.file_size(data.div_ceil(BLOCK_SIZE).min(layout.block_count())),
            fully_allocated: layout.file_size(layout.block_count()),
            bitmaps: None,
        })
    }

    fn granule_size(&self, what: &NewImage) -> Result<u64> {
        Settings::new(what)?;
        Ok(BLOCK_SIZE)
    }

    fn create(
        &self,
        to: Arc<dyn StorageMut>,
        _parts: &dyn NewParts,
        what: &NewImage,
    ) -> Result<Box<dyn ImageWriter>> {
        Ok(Box::new(NewVpc::new(to, Settings::new(what)?)?))
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
