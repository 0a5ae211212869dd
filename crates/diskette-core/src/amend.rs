//! What is changed of an image that exists besides its disk.

use std::sync::Arc;

use crate::{
    BackingImage, BlockReader, BlockWriter, OpenContext, OptionSpec, Options, Result, StorageMut,
};

/// What only formats whose images can lie over another, and be made to lie over yet another, can do.
///
/// Nobody else may write the image meanwhile. What an act did is on stable storage when it returns, with all that was
/// written before; where it is cut off the image is as it was, or as it is to be.
pub trait OverlayFormat: Send + Sync {
    /// Makes an image name this one as what lies below it, or none. No other file is looked at: what holes show afterwards
    /// is the caller's affair.
    fn set_backing(
        &self,
        image: Arc<dyn StorageMut>,
        backing: Option<&BackingImage>,
        cx: &OpenContext<'_>,
    ) -> Result<()>;

    /// The disk of an image, to be made ready for another image below it: as
    /// [`WritableFormat::edit`](crate::WritableFormat::edit) has it, but that zeros which are written hide whatever will lie
    /// below, and that clusters which get a new place are compressed, if that is wanted and makes them shorter.
    fn edit_overlay(
        &self,
        image: Arc<dyn StorageMut>,
        below: Option<Arc<dyn BlockReader>>,
        compress: bool,
        cx: &OpenContext<'_>,
    ) -> Result<Box<dyn BlockWriter>>;

    /// Gives up all that an overlay holds, so that everywhere what lies below shows. Its snapshots stay. Where it is cut off
    /// a part may show already.
    fn empty(&self, image: Arc<dyn StorageMut>, cx: &OpenContext<'_>) -> Result<()>;
}

/// What only formats whose images can have some options changed can do.
pub trait AmendableFormat: Send + Sync {
    /// The options that can be changed.
    fn amend_options(&self) -> &'static [OptionSpec];

    /// Changes options of an image, which nobody else may write meanwhile. What cannot be changed so is refused before
    /// anything is done. Where it is cut off the image is sound, with some of the options changed. What loses data (the
    /// last key of an encrypted image erased) is done by `force` alone.
    fn amend(
        &self,
        image: Arc<dyn StorageMut>,
        options: &Options,
        force: bool,
        cx: &OpenContext<'_>,
    ) -> Result<()>;
}
