//! Whether an image on the host's disk is consistent.

use std::path::Path;

use diskette_core::{CheckReport, Error, OpenOptions, Result};

use crate::open::storage;
use crate::registry;

/// Looks at all tables of the image at `path`, and changes nothing. Gives the format's name, and what was found.
pub fn check(path: impl AsRef<Path>, options: &OpenOptions) -> Result<(&'static str, CheckReport)> {
    let storage = storage(path, options)?;
    let format = registry().choose(&options.format, &*storage)?;
    let Some(checkable) = format.checkable() else {
        return Err(Error::unsupported(format.name(), "checking"));
    };
    let report = checkable.check(storage, &options.context())?;
    Ok((format.name(), report))
}
