//! The files of an image that is going to be changed: they are opened to be written, where others open them to be read.

use std::sync::{Arc, Mutex, PoisonError};

use diskette_core::{Reference, Resolver, Result, Storage, StorageMut};

/// Opens files to be written, and keeps them.
#[derive(Debug)]
pub(super) struct WritableFiles<'a> {
    files: &'a dyn Resolver,
    opened: Mutex<Vec<Arc<dyn StorageMut>>>,
}

impl<'a> WritableFiles<'a> {
    /// The files that another resolver finds.
    pub(super) const fn new(files: &'a dyn Resolver) -> Self {
        Self {
            files,
            opened: Mutex::new(Vec::new()),
        }
    }

    /// Those that were opened, in order.
    pub(super) fn into_opened(self) -> Vec<Arc<dyn StorageMut>> {
        let opened = self.opened.into_inner();
        opened.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolver for WritableFiles<'_> {
    fn open(&self, reference: &Reference, from: &dyn Storage) -> Result<Arc<dyn Storage>> {
        Ok(self.open_mut(reference, from)?)
    }

    fn open_mut(&self, reference: &Reference, from: &dyn Storage) -> Result<Arc<dyn StorageMut>> {
        let file = self.files.open_mut(reference, from)?;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.push(Arc::clone(&file));
        Ok(file)
    }
}
