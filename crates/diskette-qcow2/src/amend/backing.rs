//! Overlays: what lies below them.

use std::sync::Arc;

use diskette_core::{
    BackingImage, BlockReader, BlockWriter, Error, OpenContext, OverlayFormat, Result, StorageMut,
};

use super::head::{Head, clear_unknown_autoclear_bits};
use crate::header::Header;
use crate::{FORMAT, Qcow2, edit};

impl OverlayFormat for Qcow2 {
    fn set_backing(
        &self,
        image: Arc<dyn StorageMut>,
        backing: Option<&BackingImage>,
        cx: &OpenContext<'_>,
    ) -> Result<()> {
        let features = Header::read(&*image, cx.limits)?.features;
        let why = if features.corrupt() {
            "another image below one that is marked as corrupt (check and repair it first)"
        } else if features.data_file_raw() && backing.is_some() {
            "an image below one with a raw data file"
        } else {
            clear_unknown_autoclear_bits(&*image, cx.limits)?;
            let mut head = Head::read(&*image, cx.limits)?;
            head.set_backing(backing)?;
            return head.write();
        };
        Err(Error::unsupported(FORMAT, why))
    }

    fn edit_overlay(
        &self,
        image: Arc<dyn StorageMut>,
        below: Option<Arc<dyn BlockReader>>,
        compress: bool,
        cx: &OpenContext<'_>,
    ) -> Result<Box<dyn BlockWriter>> {
        edit::open_overlay(image, below, compress, cx)
    }

    fn empty(&self, image: Arc<dyn StorageMut>, cx: &OpenContext<'_>) -> Result<()> {
        edit::empty(image, cx)
    }
}
