//! From version 2 to 3, and back.

use std::sync::Arc;

use diskette_core::{Limits, OpenContext, Result, StorageMut};

use super::head::Head;
use crate::header::Header;
use crate::{edit, spec, write};

/// Makes an image of version 2 one of version 3.
pub(super) fn upgrade(storage: &dyn StorageMut, limits: &Limits) -> Result<()> {
    let header = Header::read(storage, limits)?;
    let mut head = Head::read(storage, limits)?;
    head.change_fields(|fields| fields.version = 3.into());
    head.resize_fields(spec::HEADER_V3_FULL_LEN);
    head.change_version_3(|fields| {
        fields.refcount_order = spec::REFCOUNT_ORDER_DEFAULT.into();
        fields.header_length = spec::HEADER_V3_FULL_LEN.into();
    });
    if let Some(names) = write::feature_names(header.geometry) {
        head.add_extension(spec::EXTENSION_FEATURE_NAMES, names);
    }
    head.write()
}

/// Makes an image of version 3 one of version 2, which has no zero clusters: where something lies below they become data.
/// The image has been shown to have nothing else that version 2 does not know.
pub(super) fn downgrade(storage: Arc<dyn StorageMut>, cx: &OpenContext<'_>) -> Result<()> {
    edit::expand_zeros(Arc::clone(&storage), cx)?;
    let mut head = Head::read(&*storage, cx.limits)?;
    head.change_fields(|fields| fields.version = 2.into());
    head.resize_fields(spec::HEADER_V2_LEN);
    head.remove_extension(spec::EXTENSION_FEATURE_NAMES);
    head.remove_extension(spec::EXTENSION_BITMAPS);
    head.write()
}
