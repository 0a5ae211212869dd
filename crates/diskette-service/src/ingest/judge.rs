//! What an image may not be: everything that leads out of it.

use std::sync::Arc;

use diskette::core::{ImageInfo, OpenOptions, Opened, Storage};

use super::Bench;
use crate::fault;
use crate::problem::{
    BACKING_FILE_REFUSED, ENCRYPTED, PARENT_REFUSED, Problem, Result, VIRTUAL_SIZE_TOO_LARGE,
};

/// The image, opened, if it stands alone and can be read by whoever has it.
pub(super) fn opened(
    bench: &Bench<'_>,
    storage: &Arc<dyn Storage>,
    options: &OpenOptions,
) -> Result<Opened> {
    let open = |options| {
        let opened = diskette::registry().open(Arc::clone(storage), options);
        opened.map_err(|error| fault::of_image(&error))
    };
    // What it says of itself is had without a key, and without its other files.
    let mut looking = options.clone();
    looking.metadata_only = true;
    let looked = open(&looking)?;
    stands_alone(&looked)?;
    readable(bench, &looked.info)?;
    drop(looked);
    open(options)
}

/// That it lies over no other image.
pub(super) fn stands_alone(opened: &Opened) -> Result<()> {
    let Some(backing) = &opened.backing else {
        return Ok(());
    };
    let code = match opened.info.format {
        "qcow2" => BACKING_FILE_REFUSED,
        _ => PARENT_REFUSED,
    };
    let detail = format!("it lies over \"{}\"", backing.target.escape_debug());
    Err(Problem::new(code, detail))
}

/// That it is not encrypted, and not too large.
pub(super) fn readable(bench: &Bench<'_>, info: &ImageInfo) -> Result<()> {
    if info.encrypted {
        return Err(Problem::new(
            ENCRYPTED,
            format!("it is {} with encryption", info.format),
        ));
    }
    let limit = bench.settings.max_virtual_size;
    if info.size > limit {
        let detail = format!(
            "its disk has {} bytes; the setting `max_virtual_size` allows {limit}",
            info.size
        );
        return Err(Problem::new(VIRTUAL_SIZE_TOO_LARGE, detail)
            .with("size", info.size)
            .with("limit", limit)
            .with("setting", "max_virtual_size"));
    }
    Ok(())
}

/// What is worth a flag.
pub(super) fn flags(info: &ImageInfo) -> Vec<&'static str> {
    let mut flags = Vec::new();
    if info.dirty {
        flags.push("dirty_source");
    }
    if !info.snapshots.is_empty() {
        flags.push("internal_snapshots");
    }
    flags
}
