//! `diskette snapshot`: the snapshots within an image.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use diskette::core::{BlockWriter, Error, NewSnapshot, SnapshotWriter};

use crate::args::Opening;
use crate::failure::Outcome;
use crate::report;

/// List, take, apply or delete snapshots within an image
///
/// A snapshot is named by its id, or else by its name. No program may use the image meanwhile; one of QEMU's is noticed.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  diskette snapshot disk.qcow2
  diskette snapshot -c before-update disk.qcow2
  diskette snapshot -a before-update disk.qcow2")]
pub(crate) struct Snapshot {
    /// The image
    filename: PathBuf,

    /// The image's format; without it, the content tells
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// List them; so it is without any other
    #[arg(short, long, group = "act")]
    list: bool,

    /// Take one of this name
    #[arg(short, long, group = "act", value_name = "NAME")]
    create: Option<String>,

    /// Make the disk what it was when this one was taken
    #[arg(short, long, group = "act", value_name = "SNAPSHOT")]
    apply: Option<String>,

    /// Delete one
    #[arg(short, long, group = "act", value_name = "SNAPSHOT")]
    delete: Option<String>,

    /// Print nothing but errors, and the list where it is asked for
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    opening: Opening,
}

pub(crate) fn run(args: &Snapshot) -> Outcome {
    let (path, options) = args.opening.image(&args.filename, args.format.as_deref())?;
    if args.create.is_none() && args.apply.is_none() && args.delete.is_none() {
        let image = diskette::inspect(&path, options)?;
        let mut out = io::stdout().lock();
        report::print_snapshots(&mut out, &image.info.snapshots)?;
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    }
    let disk = diskette::edit(&path, &options)?;
    let snapshots = snapshots(&*disk)?;
    if let Some(name) = &args.create {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let mut new = NewSnapshot::named(name);
        new.date_seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        new.date_nanoseconds = now.subsec_nanos();
        snapshots.create(&new)?;
    }
    if let Some(snapshot) = &args.apply {
        snapshots.apply(snapshot)?;
    }
    if let Some(snapshot) = &args.delete {
        snapshots.delete(snapshot)?;
    }
    disk.close()?;
    Ok(ExitCode::SUCCESS)
}

fn snapshots(disk: &dyn BlockWriter) -> Result<&dyn SnapshotWriter, Error> {
    disk.snapshots()
        .ok_or_else(|| Error::unsupported("this format", "snapshots within an image"))
}
