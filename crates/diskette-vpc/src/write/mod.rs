//! Making VPC images, and changing fixed ones.

mod geometry;
mod image;
mod layout;
mod options;

use std::sync::Arc;

use diskette_core::{
    BlockReader, BlockWriter, Error, ImageWriter, InPlace, Measure, NewImage, NewParts,
    OpenContext, OptionSpec, Result, Storage, StorageMut, WritableFormat,
};

use crate::footer::{Footer, Kind};
use crate::{FORMAT, Vpc, reader};
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

    /// Fixed images alone: there is nothing in them but the disk and the footer.
    fn edit(
        &self,
        image: Arc<dyn StorageMut>,
        _below: Option<Arc<dyn BlockReader>>,
        cx: &OpenContext<'_>,
    ) -> Result<Box<dyn BlockWriter>> {
        if Footer::read(&*image, cx)?.kind != Kind::Fixed {
            let feature = "writing into an image that is not fixed";
            return Err(Error::unsupported(FORMAT, feature));
        }
        let storage = Arc::clone(&image) as Arc<dyn Storage>;
        let reader = reader::open(storage, cx)?.reader;
        Ok(Box::new(InPlace::new(FORMAT, reader, image)?))
    }
}
