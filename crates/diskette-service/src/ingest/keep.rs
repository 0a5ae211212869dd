//! What is stored as it came: install media, and QCOW2 images that stand alone and are sound.

use std::fs;
use std::io;
use std::path::PathBuf;

use diskette::core::{BlockReader, Chain, ImageInfo, OpenOptions, StorageExt};
use diskette::engine::{Progress, digest};
use diskette::inside::contents;
use serde_json::json;

use super::result::{check_as_json, contents_as_json, hex, info_as_json};
use super::source::Source;
use super::{Bench, MOST_HASHED, Made, control, judge, not_empty, wait_for_all};
use crate::fault;
use crate::problem::Result;

/// An ISO 9660 volume.
pub(super) fn iso(bench: &Bench<'_>, source: &Source) -> Result<Made> {
    not_empty(source)?;
    wait_for_all(bench, source)?;
    (bench.enters)("verifying");
    let image = |error| fault::of_image(&error);
    let mut options = OpenOptions::default();
    options.format = diskette::core::FormatChoice::Named("raw".to_owned());
    let opened = judge::opened(bench, &source.storage, &options)?;
    let disk = Chain::new(opened);
    let found = contents(&disk).map_err(image)?;
    let mut flags = Vec::new();
    if found.table.is_some() {
        flags.push("hybrid");
    }
    let (staged, sha256) = staged(bench, source)?;
    Ok(Made {
        staged,
        format: "iso",
        kind: "iso",
        size: source.storage.total_size().map_err(image)?,
        virtual_size: disk.size(),
        guest_sha256: Some(sha256.clone()),
        sha256,
        source_format: "iso",
        source_sha256: hex(&bench.job.spool.sha256()),
        source_size: bench.job.spool.watermark(),
        flags,
        report: json!({
            "found": { "format": "iso", "contents": contents_as_json(&found) },
            "rewritten": null,
            "dropped": [],
            "verified": {},
        }),
    })
}

/// A QCOW2 image, unless it has to be rewritten: then nothing.
pub(super) fn qcow2(
    bench: &Bench<'_>,
    source: &Source,
    options: &OpenOptions,
) -> Result<Option<Made>> {
    not_empty(source)?;
    let opened = judge::opened(bench, &source.storage, options)?;
    let info = opened.info.clone();
    let wanted = &bench.job.wanted;
    let drops = wanted.drop_snapshots && !info.snapshots.is_empty();
    if wanted.compress || drops || info.dirty {
        return Ok(None);
    }
    let disk = Chain::new(opened);
    let image = |error| fault::of_image(&error);
    // While the bytes come.
    let progress = |progress: Progress| bench.job.progress(progress);
    let guest_sha256 = match disk.size() > MOST_HASHED {
        true => None,
        false => {
            let digests = digest(&disk, &control(bench, &progress)).map_err(image)?;
            Some(hex(&digests.sha256))
        }
    };
    wait_for_all(bench, source)?;
    (bench.enters)("verifying");
    let check = judge::consistent("qcow2", &source.storage, options)?.unwrap_or_default();
    if check.leaks > 0 {
        return Ok(None);
    }
    let (staged, sha256) = staged(bench, source)?;
    Ok(Some(of_qcow2(
        bench,
        &info,
        staged,
        sha256,
        guest_sha256,
        &check_as_json(&check),
    )?))
}

fn of_qcow2(
    bench: &Bench<'_>,
    info: &ImageInfo,
    staged: PathBuf,
    sha256: String,
    guest_sha256: Option<String>,
    check: &serde_json::Value,
) -> Result<Made> {
    let size = fs::metadata(&staged)
        .map_err(|error| fault::of_machine("the result", &error))?
        .len();
    Ok(Made {
        staged,
        sha256,
        size,
        format: "qcow2",
        kind: "disk",
        virtual_size: info.size,
        source_format: "qcow2",
        source_sha256: hex(&bench.job.spool.sha256()),
        source_size: bench.job.spool.watermark(),
        flags: judge::flags(info),
        report: json!({
            "found": info_as_json(info),
            "rewritten": null,
            "dropped": [],
            "verified": { "check": check, "guest_sha256": guest_sha256 },
        }),
        guest_sha256,
    })
}

/// The bytes under a name of their own: those of the spool itself, which stays until the image has its record, by a second
/// name; or a copy, where they lie in something else.
fn staged(bench: &Bench<'_>, source: &Source) -> Result<(PathBuf, String)> {
    let staged = bench
        .store
        .staging()
        .join(format!("{}.kept", bench.job.image));
    let machine = |error| fault::of_machine("keeping the bytes", &error);
    match fs::remove_file(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(machine(error)),
        Ok(()) | Err(_) => {}
    }
    let Some(spool) = &source.spool else {
        copy(source, &staged).map_err(|error| fault::of_image(&error))?;
        let sha256 =
            super::sha256_of_file(&staged, &super::while_wanted(bench)).map_err(machine)?;
        return Ok((staged, sha256));
    };
    spool.finish().map_err(machine)?;
    fs::hard_link(spool.path(), &staged).map_err(machine)?;
    Ok((staged, hex(&spool.sha256())))
}

fn copy(source: &Source, to: &std::path::Path) -> diskette::core::Result<()> {
    const PIECE: u64 = 1 << 20;
    let file = diskette::storage::NewFile::create(to)?.sent_on();
    let target = file.storage();
    let size = source.storage.total_size()?;
    let mut at = 0;
    while at < size {
        let len = usize::try_from(PIECE.min(size - at)).unwrap_or(0);
        let bytes = source.storage.read_vec(len, at)?;
        let written = target.write_at(&bytes, at);
        written.map_err(|error| target.failed("write", at, len as u64, error))?;
        at += len as u64;
    }
    file.commit(true)
}
