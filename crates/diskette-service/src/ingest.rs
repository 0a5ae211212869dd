//! From bytes on their way in to a verified image: found out, judged, converted while they come, held against the source.
//!
//! ```text
//!  spool ─► Source ─► format by the head ─► judged ─► converted ─► whole? ─► format by head and tail ─► verified
//!             │                                                                    │ another
//!             unpacked, taken out of an archive                                    └─► once more, with that
//! ```
//!
//! All of it runs on a thread that may wait.

mod convert;
mod job;
mod judge;
mod keep;
mod result;
mod source;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use diskette::core::{Ends, FormatChoice, Limits, OpenOptions, Storage, StorageExt};
use diskette::inside::is_iso;
use serde_json::{Value, json};

use crate::fault;
use crate::problem::{
    CANCELLED, CHECKSUM_MISMATCH, FORMAT_MISMATCH, NESTED_FORMAT, Problem, Result, TRUNCATED,
};
use crate::settings::Settings;
use crate::spool::Spool;
use crate::store::Store;

pub(crate) use diskette_wire::Wanted;
pub(crate) use job::{Files, Job};
pub(crate) use judge::{readable, stands_alone};
pub(crate) use result::{
    check_as_json, contents_as_json, hex, info_as_json, said_by, sha256_of_file, sha512_of_file,
};
use source::Source;

/// An image that is made, verified, and stable; it has no name yet.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) staged: PathBuf,
    pub(crate) sha256: String,
    pub(crate) size: u64,
    pub(crate) format: &'static str,
    /// `disk` or `iso`.
    pub(crate) kind: &'static str,
    pub(crate) virtual_size: u64,
    /// Of disks that are not too large: see [`MOST_HASHED`].
    pub(crate) guest_sha256: Option<String>,
    pub(crate) source_format: &'static str,
    pub(crate) source_sha256: String,
    pub(crate) source_size: u64,
    pub(crate) flags: Vec<&'static str>,
    pub(crate) report: Value,
}

/// What ingest works with.
#[derive(Clone, Copy)]
pub(crate) struct Bench<'a> {
    pub(crate) job: &'a Job,
    pub(crate) store: &'a Store,
    pub(crate) settings: &'a Settings,
    /// Called when what had to be waited for has come, with the next state.
    pub(crate) enters: &'a dyn Fn(&'static str),
}

/// Disks of more bytes than this are not hashed as a whole: their zeros alone would take minutes.
pub(crate) const MOST_HASHED: u64 = 256 << 30;

/// Makes the image that a job asks for.
pub(crate) fn make(bench: &Bench<'_>) -> Result<Made> {
    let made = of_spool(
        bench,
        &bench.job.spool,
        bench.job.file_name.as_deref().unwrap_or("image"),
    );
    if bench.job.is_cancelled() {
        return Err(Problem::new(CANCELLED, "it was given up"));
    }
    match made {
        Err(problem) => Err(broken_promise(bench, &problem).unwrap_or(problem)),
        made => made,
    }
}

/// That the bytes are not those that were promised tells more than what is wrong with them.
fn broken_promise(bench: &Bench<'_>, problem: &Problem) -> Option<Problem> {
    if problem.code == CHECKSUM_MISMATCH || !bench.job.spool.is_whole() {
        return None;
    }
    // A form may promise a digest behind its files.
    bench.job.files.all();
    promised(bench).err()
}

fn of_spool(bench: &Bench<'_>, spool: &Arc<Spool>, name: &str) -> Result<Made> {
    let limits = limits(bench.settings);
    let source = Source::of(bench.job, spool, name, bench.store, &limits)?;
    let made = of_source(bench, &source, &limits);
    // What is wrong with the wrapping tells more than what follows from it.
    made.map_err(|problem| source.failure().unwrap_or(problem))
}

fn of_source(bench: &Bench<'_>, source: &Source, limits: &Limits) -> Result<Made> {
    let begun = Instant::now();
    let mut options = OpenOptions::default();
    options.limits = limits.clone();
    options.files = Arc::clone(&source.files);
    let guessed = by_head(bench, source)?;
    let presumed = presume_size(source, guessed);
    let first = attempt(bench, source, guessed, &options);
    // A problem of the first attempt may be that the guess was wrong.
    wait_for_all(bench, source)?;
    if let Some(main) = descriptor_among_others(bench, source)? {
        return of_spool(bench, &main.1, &main.0);
    }
    let known = settled(bench, &source.storage)?;
    if known == Known::Format("raw") && bench.job.wanted.format.is_none() {
        at_least_a_sector(source)?;
    }
    let mut made = match first {
        // What went wrong may have done so for the size that was presumed.
        first if known == guessed && (first.is_ok() || !presumed) => first?,
        first => {
            if let Ok(made) = first {
                // It is not what it seemed to be.
                let _ = fs::remove_file(made.staged);
            }
            attempt(bench, source, known, &options)?
        }
    };
    promised(bench)?;
    named_rightly(bench, &mut made)?;
    if let Value::Object(report) = &mut made.report {
        report.insert("wrappings".to_owned(), json!(source.wrappings));
        report.insert("seconds".to_owned(), json!(begun.elapsed().as_secs_f64()));
    }
    Ok(made)
}

/// A form does not say how long a file in it is; all of the form is longer. To formats that have their tables in front, and do
/// not end with anything, that is as good until all has come; then all is looked at once more.
fn presume_size(source: &Source, guessed: Known) -> bool {
    let in_front = ["qcow2", "vmdk", "vdi", "vhdx"].map(Known::Format);
    let spool = source.spool.as_ref();
    spool.is_some_and(|spool| in_front.contains(&guessed) && spool.presume_size())
}

/// What an image is, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Iso,
    Format(&'static str),
}

/// By what has come first.
fn by_head(bench: &Bench<'_>, source: &Source) -> Result<Known> {
    let head = &source.head;
    let ends = Ends {
        head: &head[..head.len().min(Ends::HEAD)],
        tail: &[],
        size: head.len() as u64,
    };
    let registry = diskette::registry();
    let format = match &bench.job.wanted.format {
        Some(name) => registry.get(name),
        None => registry.probe_ends(&ends, source.storage.name()),
    };
    let format = format.map_err(|error| fault::of_image(&error))?.name();
    let free = bench.job.wanted.format.is_none();
    Ok(match format {
        "raw" if free && is_iso(head) => Known::Iso,
        format => Known::Format(format),
    })
}

/// By head and tail, when all has come. A file with the marks of two is refused.
fn settled(bench: &Bench<'_>, storage: &Arc<dyn Storage>) -> Result<Known> {
    let image = |error| fault::of_image(&error);
    let registry = diskette::registry();
    if let Some(name) = &bench.job.wanted.format {
        let format = registry.get(name).map_err(image)?;
        return Ok(Known::Format(format.name()));
    }
    let format = registry.probe(&**storage).map_err(image)?.name();
    let head = result::head_of(&**storage).map_err(image)?;
    match (format, is_iso(&head)) {
        ("raw", true) => Ok(Known::Iso),
        (format, false) => Ok(Known::Format(format)),
        (format, true) => {
            let detail = format!("it is an ISO 9660 volume, and {format} as well");
            Err(Problem::new(NESTED_FORMAT, detail))
        }
    }
}

fn attempt(
    bench: &Bench<'_>,
    source: &Source,
    known: Known,
    options: &OpenOptions,
) -> Result<Made> {
    let mut options = options.clone();
    let Known::Format(format) = known else {
        return keep::iso(bench, source);
    };
    options.format = FormatChoice::Named(format.to_owned());
    if format == "qcow2"
        && let Some(made) = keep::qcow2(bench, source, &options)?
    {
        return Ok(made);
    }
    convert::into_qcow2(bench, source, format, &options)
}

/// Until all bytes are there: not every reader needs the last of them.
fn wait_for_all(bench: &Bench<'_>, source: &Source) -> Result<()> {
    let machine = |error| fault::of_machine("receiving", &error);
    bench.job.spool.wait_for_end().map_err(machine)?;
    if let Some(spool) = &source.spool {
        spool.wait_for_end().map_err(machine)?;
    }
    for (_, spool) in bench.job.files.all() {
        spool.wait_for_end().map_err(machine)?;
    }
    (bench.enters)("converting");
    Ok(())
}

/// The descriptor of a VMDK that was sent after its extents.
fn descriptor_among_others(
    bench: &Bench<'_>,
    source: &Source,
) -> Result<Option<(String, Arc<Spool>)>> {
    let others = bench.job.files.all();
    let is_main = source
        .spool
        .as_ref()
        .is_some_and(|spool| Arc::ptr_eq(spool, &bench.job.spool));
    if others.is_empty() || !is_main || result::is_descriptor(&source.head) {
        return Ok(None);
    }
    for (name, spool) in others {
        let storage = crate::spool::WatermarkStorage::new(Arc::clone(&spool), &name);
        let head = result::head_of(&storage).map_err(|error| fault::of_image(&error))?;
        if result::is_descriptor(&head) {
            let own = bench.job.file_name.clone().unwrap_or_default();
            bench.job.files.add(&own, Arc::clone(&bench.job.spool));
            return Ok(Some((name, spool)));
        }
    }
    let detail = "several files were sent, and none of them is a VMDK's descriptor";
    Err(Problem::new(crate::problem::UNSUPPORTED_FORMAT, detail))
}

/// That the bytes are those that were promised.
fn promised(bench: &Bench<'_>) -> Result<()> {
    let Job { wanted, spool, .. } = bench.job;
    let wrong = |kind, promised: &str, found: &str| {
        let detail = format!("the {kind} is {found}, promised was {promised}");
        Err(Problem::new(CHECKSUM_MISMATCH, detail))
    };
    let (told, told_512) = match bench.job.promised() {
        Some(digest) if digest.len() == 128 => (None, Some(digest)),
        told => (told, None),
    };
    if let Some(promised) = told.as_ref().or(wanted.sha256.as_ref()) {
        let found = hex(&spool.sha256());
        if !promised.eq_ignore_ascii_case(&found) {
            return wrong("SHA-256", promised, &found);
        }
    }
    if let Some(promised) = told_512.as_ref().or(wanted.sha512.as_ref()) {
        let found = result::sha512_of_file(spool.path(), &while_wanted(bench));
        let found = found.map_err(|error| fault::of_machine("hashing", &error))?;
        if !promised.eq_ignore_ascii_case(&found) {
            return wrong("SHA-512", promised, &found);
        }
    }
    Ok(())
}

/// Whether the name says what the content is.
fn named_rightly(bench: &Bench<'_>, made: &mut Made) -> Result<()> {
    let Some(name) = &bench.job.file_name else {
        return Ok(());
    };
    let said = result::said_by(name).filter(|said| !said.contains(&made.source_format));
    let Some(said) = said else {
        return Ok(());
    };
    let detail = format!(
        "the name says {}, the content is {}",
        said[0], made.source_format
    );
    if bench.job.wanted.strict {
        let _ = fs::remove_file(&made.staged);
        return Err(Problem::new(FORMAT_MISMATCH, detail));
    }
    made.flags.push("name_mismatch");
    if let Value::Object(report) = &mut made.report {
        report.insert("name".to_owned(), json!(detail));
    }
    Ok(())
}

/// That something was sent at all.
fn not_empty(source: &Source) -> Result<()> {
    match source.head.is_empty() {
        true => Err(Problem::new(TRUNCATED, "not one byte was sent")),
        false => Ok(()),
    }
}

/// That a file without a mark of any format is a disk: fewer bytes than a sector are the beginning of one, or of an image
/// whose header has not come.
fn at_least_a_sector(source: &Source) -> Result<()> {
    const SECTOR: u64 = 512;
    let size = source.storage.total_size();
    let size = size.map_err(|error| fault::of_image(&error))?;
    match size < SECTOR {
        true => Err(Problem::new(TRUNCATED, format!("{size} bytes are no disk"))),
        false => Ok(()),
    }
}

/// What an image may cost here: less than on a command line, for there is more than one.
fn limits(settings: &Settings) -> Limits {
    let mut limits = Limits::default();
    limits.unpacked_bytes = settings.max_virtual_size;
    limits.spool_bytes = settings.max_virtual_size;
    limits
}

/// What is taken of memory while it is read, and never grows with an image.
/// Work that goes on while the image is wanted, and tells nobody how far it is.
fn while_wanted<'a>(bench: &Bench<'a>) -> diskette::engine::Control<'a> {
    let mut control = diskette::engine::Control::default();
    control.cancel = Some(&bench.job.cancel);
    control
}

pub(crate) fn control<'a>(
    bench: &'a Bench<'_>,
    progress: &'a (dyn Fn(diskette::engine::Progress) + Sync),
) -> diskette::engine::Control<'a> {
    let mut control = diskette::engine::Control::default();
    control.threads = Some(bench.settings.threads);
    control.progress = Some(progress);
    control.cancel = Some(&bench.job.cancel);
    bench.job.done.store(0, Ordering::Relaxed);
    control
}
