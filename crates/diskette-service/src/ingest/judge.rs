//! What an image may not be: everything that leads out of it.

use std::sync::Arc;

use diskette::core::{CheckReport, ImageInfo, OpenOptions, Opened, Storage, StorageExt};

use super::Bench;
use super::result::check_as_json;
use crate::fault;
use crate::problem::{
    BACKING_FILE_REFUSED, CORRUPT, ENCRYPTED, PARENT_REFUSED, Problem, Result, TRUNCATED,
    VIRTUAL_SIZE_TOO_LARGE,
};
use crate::settings::Settings;

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
    readable(bench.settings, &looked.info)?;
    drop(looked);
    open(options)
}

/// That it lies over no other image.
pub(crate) fn stands_alone(opened: &Opened) -> Result<()> {
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
pub(crate) fn readable(settings: &Settings, info: &ImageInfo) -> Result<()> {
    if info.encrypted {
        return Err(Problem::new(
            ENCRYPTED,
            format!("it is {} with encryption", info.format),
        ));
    }
    let limit = settings.max_virtual_size;
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

/// That its tables are sound: nothing is stored twice in one place, nothing leads into a circle or out of the file. Gives
/// what the check found, where the format has tables.
pub(super) fn consistent(
    format: &str,
    storage: &Arc<dyn Storage>,
    options: &OpenOptions,
) -> Result<Option<CheckReport>> {
    let image = |error| fault::of_image(&error);
    let format = diskette::registry().get(format).map_err(image)?;
    let Some(checkable) = format.checkable() else {
        return Ok(None);
    };
    let check = checkable.check(Arc::clone(storage), &options.context());
    let check = check.map_err(image)?;
    if check.corruptions == 0 && check.check_errors == 0 {
        return Ok(Some(check));
    }
    let size = storage.total_size().map_err(image)?;
    let code = match check.image_end_offset {
        Some(end) if end > size => TRUNCATED,
        _ => CORRUPT,
    };
    let first = check.findings.first();
    let first = first.map_or("", |finding| finding.text.as_str());
    let detail = format!(
        "the check found {} corruptions, the first: {first}",
        check.corruptions
    );
    Err(Problem::new(code, detail).with("check", check_as_json(&check)))
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
