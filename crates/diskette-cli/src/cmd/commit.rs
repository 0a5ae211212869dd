//! `diskette commit`: what an overlay holds, brought down into an image below it.

use std::io::{self, Write};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::args::{Opening, Work, cache_mode, rate};
use crate::failure::Outcome;
use crate::progress;

/// Bring what an overlay holds down into its backing image
///
/// The backing image grows where it is shorter. The overlay is empty afterwards, unless -d or -b is given.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  diskette commit overlay.qcow2
  diskette commit -d overlay.qcow2
  diskette commit -b base.qcow2 top.qcow2")]
pub(crate) struct Commit {
    /// The overlay
    filename: PathBuf,

    /// The overlay's format; without it, the content tells
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// The image of the chain to write into, with all layers above it; the overlay is not emptied
    #[arg(short, long, value_name = "FILE")]
    base: Option<String>,

    /// Leave the overlay as it is
    #[arg(short, long)]
    drop: bool,

    /// How many bytes a second may be copied
    #[arg(short, long, value_name = "RATE", value_parser = rate)]
    rate: Option<NonZeroU64>,

    /// Accepted for qemu-img's sake: what is told to be done is on the disk
    #[arg(short = 't', long, value_name = "CACHE", value_parser = cache_mode)]
    cache: Option<String>,

    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    work: Work,

    #[command(flatten)]
    opening: Opening,
}

pub(crate) fn run(args: &Commit) -> Outcome {
    let (path, options) = args.opening.image(&args.filename, args.format.as_deref())?;
    let progress = progress::Meter::new(args.work.progress && !args.quiet);
    let tell = |at| progress.tell(at);
    let mut commit = diskette::Commit::default();
    commit.base.clone_from(&args.base);
    commit.keep_overlay = args.drop;
    commit.control = args.work.control(&tell);
    commit.control.rate = args.rate;
    let done = commit.run(&path, &options);
    match &done {
        Ok(()) => progress.complete(),
        Err(_) => progress.end(),
    }
    done?;
    if !args.quiet {
        writeln!(io::stdout(), "Image committed.")?;
    }
    Ok(ExitCode::SUCCESS)
}
