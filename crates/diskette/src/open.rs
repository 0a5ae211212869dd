//! From a path to a disk, safely.

use std::path::Path;
use std::sync::Arc;

use diskette_core::{Chain, OpenOptions, Opened, Result};
use diskette_storage::FileStorage;

use crate::registry;

/// How the image at `path` is opened if nothing else is said: its format is found out by its content, and files that it
/// names are opened in its own folder alone.
pub fn options_for(_path: impl AsRef<Path>) -> Result<OpenOptions> {
    Ok(OpenOptions::default())
}

/// The disk that the image at `path` holds, with all that lies below it.
pub fn open(path: impl AsRef<Path>) -> Result<Chain> {
    let options = options_for(&path)?;
    open_with(path, &options)
}

/// The same, opened as `options` say.
pub fn open_with(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Chain> {
    registry().open_chain(Arc::new(FileStorage::open(path)?), options)
}

/// The image at `path` alone. Its backing image is only named.
pub fn open_image(path: impl AsRef<Path>) -> Result<Opened> {
    let options = options_for(&path)?;
    registry().open(Arc::new(FileStorage::open(path)?), &options)
}
