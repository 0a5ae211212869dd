//! Making VHDX images, and changing fixed ones.

mod image;
mod layout;
mod metadata;
mod options;

use std::sync::Arc;

use diskette_core::{
    BlockReader, BlockWriter, Error, Format, ImageWriter, InPlace, Measure, NewId, NewImage,
    NewParts, OpenContext, OptionSpec, Result, Storage, StorageMut, WritableFormat,
};
use uuid::Uuid;

use crate::Vhdx;
use crate::header::HeaderPair;
use crate::image::Image;
use crate::spec::FORMAT;
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

    /// Fixed images alone, whose log is empty: their BAT never changes.
    fn edit(
        &self,
        image: Arc<dyn StorageMut>,
        _below: Option<Arc<dyn BlockReader>>,
        cx: &OpenContext<'_>,
    ) -> Result<Box<dyn BlockWriter>> {
        let storage = Arc::clone(&image) as Arc<dyn Storage>;
        let found = Image::open(Arc::clone(&storage), cx)?;
        let refused = |feature| Err(Error::unsupported(FORMAT, feature));
        if !found.metadata.fixed || found.metadata.parent.is_some() {
            return refused("writing into an image that is not fixed");
        }
        if found.header.log.guid.is_some() {
            return refused("writing into an image whose log is not empty");
        }
        let reader = self.open(storage, cx)?.reader;
        let writer = InPlace::new(FORMAT, reader, Arc::clone(&image))?;
        change_guids(&*image)?;
        Ok(Box::new(writer))
    }
}

/// Children of the image as it was are to know that it is another one now. Both headers say so.
fn change_guids(image: &dyn StorageMut) -> Result<()> {
    let mut headers = HeaderPair::read(image)?;
    headers.advance(image, |header| {
        for guid in [&mut header.file_write_guid, &mut header.data_write_guid] {
            *guid = NewId::after(Uuid::from_bytes_le(*guid)).to_bytes_le();
        }
    })?;
    headers.advance(image, |_| {})
}
