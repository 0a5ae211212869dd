//! From a path to a disk, safely.

use std::path::Path;
use std::sync::Arc;

use diskette_core::{Chain, OpenOptions, Opened, Result, Storage};
use diskette_storage::{FileStorage, FolderResolver};

use crate::container::{Source, source};
use crate::registry;

/// How images are opened if nothing else is said: the format is found out by the content, and files that an image names
/// are opened in that image's own folder alone. The only disk of an OVA is opened as if it were a file.
#[must_use]
pub fn safe_options() -> OpenOptions {
    let mut options = OpenOptions::default();
    options.files = Arc::new(FolderResolver::new());
    options
}

/// The disk that the image at `path` holds, with all that lies below it, opened with [`safe_options`].
pub fn open(path: impl AsRef<Path>) -> Result<Chain> {
    open_with(path, &safe_options())
}

/// The same, opened as `options` say.
pub fn open_with(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Chain> {
    let Source {
        storage, options, ..
    } = source(path, options)?;
    registry().open_chain(storage, &options)
}

/// The image at `path` alone, opened with [`safe_options`]. Its backing image is only named.
pub fn open_image(path: impl AsRef<Path>) -> Result<Opened> {
    let Source {
        storage, options, ..
    } = source(path, &safe_options())?;
    registry().open(storage, &options)
}

/// The file at `path`, to be read. While it is open no program of QEMU's writes it. With the features `http` and `s3` it may
/// be an address on a server.
pub(crate) fn file(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Arc<dyn Storage>> {
    let address = path.as_ref().to_str().unwrap_or_default();
    #[cfg(feature = "http")]
    if diskette_http::HttpStorage::is_address(address) {
        return Ok(Arc::new(diskette_http::HttpStorage::open(address)?));
    }
    #[cfg(feature = "s3")]
    if diskette_s3::is_address(address) {
        return Ok(Arc::new(diskette_s3::S3Storage::open(address)?));
    }
    let _ = address;
    let file = FileStorage::open(path)?;
    if !options.ignore_locks {
        file.lock()?;
    }
    Ok(Arc::new(file))
}

/// Whether a storage of this name lies on a server.
pub(crate) fn is_remote(name: &str) -> bool {
    let _ = name;
    #[cfg(feature = "http")]
    if diskette_http::HttpStorage::is_address(name) {
        return true;
    }
    #[cfg(feature = "s3")]
    if diskette_s3::is_address(name) {
        return true;
    }
    false
}
