//! Refcounts that are put off until the image is closed, where its header allows that.

use diskette_core::{Result, StorageMut};
use zerocopy::IntoBytes;
use zerocopy::big_endian::U64;

use super::cache::{sync, write};
use crate::header::Header;
use crate::spec;

/// An image whose refcounts may be behind while it is marked as dirty: who opens it after a crash counts anew.
#[derive(Debug)]
pub(super) struct LazyRefcounts {
    incompatible: u64,
    /// Whether the image is marked as dirty.
    pub(super) is_marked: bool,
}

impl LazyRefcounts {
    /// If the header allows it.
    pub(super) fn of(header: &Header) -> Option<Self> {
        header.features.lazy_refcounts().then_some(Self {
            incompatible: header.features.incompatible,
            is_marked: false,
        })
    }

    /// Marks the image as dirty, before anything points to what is not counted. What was written to the storage before is
    /// stable then.
    pub(super) fn begin(&mut self, storage: &dyn StorageMut) -> Result<()> {
        if !self.is_marked {
            self.write(storage, self.incompatible | spec::INCOMPATIBLE_DIRTY)?;
            self.is_marked = true;
        }
        sync(storage)
    }

    /// Marks the image as clean. Its refcounts are on stable storage.
    pub(super) fn end(&mut self, storage: &dyn StorageMut) -> Result<()> {
        sync(storage)?;
        self.write(storage, self.incompatible)?;
        self.is_marked = false;
        sync(storage)
    }

    fn write(&self, storage: &dyn StorageMut, features: u64) -> Result<()> {
        write(
            storage,
            INCOMPATIBLE_FEATURES,
            U64::new(features).as_bytes(),
        )
    }
}

/// Where the header has the incompatible features.
const INCOMPATIBLE_FEATURES: u64 = 72;
