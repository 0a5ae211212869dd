//! Whether an image on the host's disk is consistent; and making it so.

use std::path::Path;
use std::sync::Arc;

use diskette_core::{CheckReport, Error, OpenOptions, Repair, Result};
use diskette_storage::FileStorageMut;

use crate::container::{Source, source};
use crate::registry;

/// Looks at all tables of the image at `path`, and changes nothing. Gives the format's name, and what was found.
pub fn check(path: impl AsRef<Path>, options: &OpenOptions) -> Result<(&'static str, CheckReport)> {
    let Source {
        storage, options, ..
    } = source(path, options)?;
    let format = registry().choose(&options.format, &*storage)?;
    let Some(checkable) = format.checkable() else {
        return Err(Error::unsupported(format.name(), "checking"));
    };
    let report = checkable.check(storage, &options.context())?;
    Ok((format.name(), report))
}

/// Mends the image at `path` in place as far as `what` allows. Gives the format's name, and what was found and mended;
/// [`check`] tells what is left.
pub fn repair(
    path: impl AsRef<Path>,
    what: Repair,
    options: &OpenOptions,
) -> Result<(&'static str, CheckReport)> {
    let storage = FileStorageMut::open(&path)?;
    storage.lock()?;
    let format = registry().choose(&options.format, &storage)?;
    let Some(repairable) = format.repairable() else {
        return Err(Error::unsupported(format.name(), "repairing"));
    };
    let report = repairable.repair(Arc::new(storage), what, &options.context())?;
    Ok((format.name(), report))
}
