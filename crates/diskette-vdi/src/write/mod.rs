//! Making VDI images, and changing static ones.

mod image;
mod options;

use std::sync::Arc;

use diskette_core::{
    BlockReader, BlockWriter, Error, ImageWriter, InPlace, Measure, NewId, NewImage, NewParts,
    OpenContext, OptionSpec, Result, Storage, StorageExt, StorageMut, WritableFormat,
};

use crate::header::{Header, Kind};
use crate::{FORMAT, Vdi, reader};
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

    /// Static images alone: their map never changes.
    fn edit(
        &self,
        image: Arc<dyn StorageMut>,
        _below: Option<Arc<dyn BlockReader>>,
        cx: &OpenContext<'_>,
    ) -> Result<Box<dyn BlockWriter>> {
        let header = Header::read(&*image, cx.limits)?;
        if header.kind != Kind::Static {
            let feature = "writing into an image that is not static";
            return Err(Error::unsupported(FORMAT, feature));
        }
        let storage = Arc::clone(&image) as Arc<dyn Storage>;
        let reader = reader::open(storage, cx)?.reader;
        let writer = InPlace::new(FORMAT, reader, Arc::clone(&image))?;
        change_modification(&*image, &header)?;
        Ok(Box::new(writer))
    }
}

/// Children of the image as it was are to know that it is another one now.
fn change_modification(image: &dyn StorageMut, header: &Header) -> Result<()> {
    let uuid = NewId::after(header.modification);
    let at = header.modification_offset;
    image
        .write_at(&uuid.to_bytes_le(), at)
        .map_err(|source| image.failed("write", at, 16, source))
}
