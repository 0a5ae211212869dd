//! Any image into QCOW2, while its bytes come; then the result is held against what went by.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use diskette::core::{BlockReader, Chain, ImageInfo, OpenOptions};
use diskette::engine::{Control, OnePass, Pieces, Progress, Witness, pieces};
use diskette::storage::FileStorage;
use diskette::{Arrived, Conversion, Incoming};
use serde_json::json;

use super::result::{check_as_json, hex, info_as_json, sha256_of_file};
use super::source::Source;
use super::{Bench, MOST_HASHED, Made, control, judge, not_empty, wait_for_all, while_wanted};
use crate::fault;
use crate::problem::{CORRUPT, Problem, Result};
use crate::spool::SpoolReader;

/// Makes a QCOW2 image of a source of this format.
pub(super) fn into_qcow2(
    bench: &Bench<'_>,
    source: &Source,
    format: &'static str,
    options: &OpenOptions,
) -> Result<Made> {
    not_empty(source)?;
    let staged = bench
        .store
        .staging()
        .join(format!("{}.qcow2", bench.job.image));
    let mut passed_once = false;
    let witness = match one_pass(source, format, options)? {
        Some(disk) => {
            passed_once = true;
            let size = disk.size();
            judge::readable(bench.settings, &ImageInfo::new(format, size))?;
            write(bench, size, |conversion| {
                conversion.write_one_pass(disk, &staged)
            })?
        }
        None => {
            let opened = judge::opened(bench, &source.storage, options)?;
            let disk = Chain::new(opened);
            write(bench, disk.size(), |conversion| {
                conversion.write(&disk, &staged)
            })?
        }
    };
    wait_for_all(bench, source)?;
    // A stream that was read once is looked at as a whole, too: all that leads out of it is refused.
    let opened = judge::opened(bench, &source.storage, options).and_then(|opened| {
        // The markers of a stream have been followed. An image that was not closed well has tables that are behind.
        if !passed_once && !opened.info.dirty {
            judge::consistent(format, &source.storage, options)?;
        }
        Ok(opened)
    });
    let made = opened.and_then(|opened| verified(bench, format, &opened.info, &witness, &staged));
    made.inspect_err(|_| {
        // The problem is what counts.
        let _ = fs::remove_file(&staged);
    })
}

/// The disk, if its bytes can be read as they come, and only then.
fn one_pass(source: &Source, format: &str, options: &OpenOptions) -> Result<Option<OnePass>> {
    let Some(spool) = source.spool.as_ref().filter(|_| format == "vmdk") else {
        return Ok(None);
    };
    let reader = Box::new(SpoolReader::new(Arc::clone(spool)));
    let mut options = options.clone();
    options.containers = false;
    let incoming = Incoming::new(source.storage.name(), reader, None, &options);
    let incoming = incoming.map_err(|error| fault::of_image(&error))?;
    if !incoming.is_one_pass() {
        return Ok(None);
    }
    match incoming.open().map_err(|error| fault::of_image(&error))? {
        Arrived::OnePass(disk) => Ok(Some(disk)),
        Arrived::Spooled(_) => Ok(None),
    }
}

fn write(
    bench: &Bench<'_>,
    size: u64,
    run: impl FnOnce(&Conversion<'_>) -> diskette::core::Result<()>,
) -> Result<Witness> {
    let witness = match size > MOST_HASHED {
        true => Witness::of_pieces(),
        false => Witness::new(),
    };
    let progress = |progress: Progress| bench.job.progress(progress);
    let mut conversion = Conversion::to("qcow2").sent_on();
    if bench.job.wanted.compress {
        conversion = conversion.compressed().option("compression_type", "zstd");
    }
    conversion.engine.control = control(bench, &progress);
    conversion.engine.witness = Some(&witness);
    run(&conversion).map_err(|error| fault::of_image(&error))?;
    Ok(witness)
}

/// That the result is whole, consistent, stable, stands alone, and holds what the source does: whoever has sent the last byte
/// waits for this, so all that takes time is done at once.
fn verified(
    bench: &Bench<'_>,
    format: &'static str,
    info: &ImageInfo,
    witness: &Witness,
    staged: &Path,
) -> Result<Made> {
    (bench.enters)("verifying");
    let image = |error| fault::of_image(&error);
    let panicked = |_| Problem::internal("a thread panicked");
    let progress = |progress: Progress| bench.job.progress(progress);
    let mut control = control(bench, &progress);
    // What is hashed from first to last takes longest: it is not to wait for a processor.
    control.threads = Some(bench.settings.threads.saturating_sub(1).max(1));
    let wanted = while_wanted(bench);
    let (check, sha256, guest_sha256, stable) = thread::scope(|scope| {
        let sha256 = scope.spawn(|| sha256_of_file(staged, &wanted));
        let stable = scope.spawn(|| File::open(staged)?.sync_all());
        let guest_sha256 = scope.spawn(|| witness.sha256(info.size, &control));
        let check = look_at(&control, bench, info.size, &witness.pieces(), staged);
        (check, sha256.join(), guest_sha256.join(), stable.join())
    });
    let check = check?;
    let sha256 = sha256.map_err(panicked)?;
    let sha256 = sha256.map_err(|error| fault::of_machine("hashing", &error))?;
    let stable = stable.map_err(panicked)?;
    stable.map_err(|error| fault::of_machine("syncing", &error))?;
    let guest_sha256 = guest_sha256.map_err(panicked)?.map_err(image)?;
    let guest_sha256 = guest_sha256.map(|sha256| hex(&sha256));
    let size = fs::metadata(staged)
        .map_err(|error| fault::of_machine("the result", &error))?
        .len();
    let new = diskette::inspect(staged, OpenOptions::default()).map_err(image)?;
    Ok(Made {
        staged: staged.to_owned(),
        size,
        sha256,
        format: "qcow2",
        kind: "disk",
        virtual_size: info.size,
        source_format: format,
        source_sha256: hex(&bench.job.spool.sha256()),
        source_size: bench.job.spool.watermark(),
        flags: judge::flags(info),
        report: json!({
            "found": info_as_json(info),
            "rewritten": { "to": "qcow2", "compressed": bench.job.wanted.compress, "image": info_as_json(&new.info) },
            "dropped": match info.snapshots.is_empty() {
                true => json!([]),
                false => json!(["internal snapshots"]),
            },
            "verified": { "check": check, "same_guest_data": true, "guest_sha256": guest_sha256 },
        }),
        guest_sha256,
    })
}

/// Opens the result as a stranger would. It must hold these pieces.
fn look_at(
    control: &Control<'_>,
    bench: &Bench<'_>,
    size: u64,
    seen: &Pieces,
    staged: &Path,
) -> Result<serde_json::Value> {
    let image = |error| fault::of_image(&error);
    let options = OpenOptions::default();
    let storage = FileStorage::open(staged).map_err(image)?;
    let format = diskette::registry().probe(&storage).map_err(image)?.name();
    let (_, report) = diskette::check(staged, &options).map_err(image)?;
    let new = diskette::open_with(staged, &options).map_err(image)?;
    let found = pieces(&new, control).map_err(image)?;
    let sound = report.corruptions == 0 && report.leaks == 0 && report.check_errors == 0;
    if format != "qcow2" || !sound || new.size() != size || found != *seen {
        // What we have written is not what we have read: the machine's fault, or ours.
        let detail = format!(
            "the result does not hold what the source does (format {format}, sound: {sound}, size {} of {size}, same data: {})",
            new.size(),
            found == *seen
        );
        tracing::error!(image = %bench.job.image, detail);
        return Err(Problem::new(CORRUPT, detail));
    }
    Ok(check_as_json(&report))
}
