//! Making QCOW2 images, and changing them.

mod batch;
mod encrypt;
mod header;
mod host;
mod in_order;
mod layout;
mod measure;
mod options;
mod pack;
mod refcounts;
mod rehearsed;
mod tables;

use std::ops::Range;
use std::sync::Arc;

use diskette_core::{
    BlockReader, BlockWriter, ImageWriter, Measure, NewImage, NewParts, OpenContext, OptionSpec,
    Rehearsal, Result, SequentialFormat, StorageMut, WritableFormat,
};

use crate::{Qcow2, edit};
pub(crate) use header::feature_names;

use encrypt::NewEncryption;
use in_order::InOrder;
use layout::Layout;
use options::{OPTIONS, Settings};
use rehearsed::Rehearsed;

impl WritableFormat for Qcow2 {
    fn options(&self) -> &'static [OptionSpec] {
        OPTIONS
    }

    fn settled_options(&self, what: &NewImage) -> Result<Vec<(&'static str, String)>> {
        Ok(Settings::new(what)?.told(&what.options))
    }

    fn measure(&self, what: &NewImage, data: u64) -> Result<Measure> {
        let settings = Settings::new(what)?;
        Ok(measure::measure(&settings, data, what.bitmaps.as_deref()))
    }

    fn granule_size(&self, what: &NewImage) -> Result<u64> {
        Ok(Settings::new(what)?.geometry.cluster_size())
    }

    fn create(
        &self,
        to: Arc<dyn StorageMut>,
        parts: &dyn NewParts,
        what: &NewImage,
    ) -> Result<Box<dyn ImageWriter>> {
        let settings = Settings::new(what)?;
        let encryption = NewEncryption::new(&settings, what)?;
        let data_file = settings.data_file.as_ref();
        let data_file = data_file.map(|data_file| parts.create(&data_file.name));
        let data_file = data_file.transpose()?;
        Ok(Box::new(Layout::new(to, data_file, settings, encryption)?))
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

impl SequentialFormat for Qcow2 {
    fn create_in_order(
        &self,
        to: Arc<dyn StorageMut>,
        what: &NewImage,
        data: Option<&[Range<u64>]>,
    ) -> Result<Box<dyn ImageWriter>> {
        Ok(Box::new(InOrder::new(to, Settings::new(what)?, data)?))
    }

    fn rehearse(
        &self,
        what: &NewImage,
        nowhere: Arc<dyn StorageMut>,
    ) -> Result<Option<Box<dyn Rehearsal>>> {
        let settings = Settings::new(what)?;
        if !settings.compress || in_order::refuse_all_but_compression(&settings).is_err() {
            return Ok(None);
        }
        Ok(Some(Box::new(Rehearsed::new(nowhere, settings)?)))
    }
}
