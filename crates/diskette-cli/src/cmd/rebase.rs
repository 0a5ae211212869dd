//! `diskette rebase`: another image below an overlay.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use diskette::core::BackingImage;

use crate::args::{Opening, Work, cache_mode, plain_name};
use crate::failure::{Failure, Outcome};
use crate::progress;

/// Put an overlay over another image
///
/// What its guest sees stays the same: what the new image would show otherwise is copied into the overlay first.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  diskette rebase -b new-base.qcow2 -F qcow2 overlay.qcow2
  diskette rebase -b '' overlay.qcow2
  diskette rebase -u -b moved/base.qcow2 -F qcow2 overlay.qcow2")]
pub(crate) struct Rebase {
    /// The overlay
    filename: PathBuf,

    /// The image that is to lie below, as seen from the overlay's folder; '' for none
    #[arg(short, long, value_name = "FILE")]
    backing: Option<String>,

    /// The format of the image below
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<String>,

    /// Change the name only: for an image that has moved, but holds the same. No other file is opened
    #[arg(short = 'u', long)]
    backing_unsafe: bool,

    /// Compress what is copied into the overlay
    #[arg(short, long)]
    compress: bool,

    /// The overlay's format; without it, the content tells
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// Accepted for qemu-img's sake: what is told to be done is on the disk
    #[arg(short = 't', long, value_name = "CACHE", value_parser = cache_mode)]
    cache: Option<String>,

    /// Accepted for qemu-img's sake
    #[arg(short = 'T', long, value_name = "CACHE", value_parser = cache_mode)]
    backing_cache: Option<String>,

    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    work: Work,

    #[command(flatten)]
    opening: Opening,
}

pub(crate) fn run(args: &Rebase) -> Outcome {
    let backing = args.backing()?;
    let (path, options) = args.opening.image(&args.filename, args.format.as_deref())?;
    let progress = progress::Meter::new(args.work.progress && !args.quiet);
    let tell = |at| progress.tell(at);
    let mut rebase = diskette::Rebase::default();
    rebase.backing = backing;
    rebase.name_only = args.backing_unsafe;
    rebase.compress = args.compress;
    rebase.control = args.work.control(&tell);
    let done = rebase.run(&path, &options);
    match &done {
        Ok(()) => progress.complete(),
        Err(_) => progress.end(),
    }
    done?;
    Ok(ExitCode::SUCCESS)
}

impl Rebase {
    fn backing(&self) -> Result<Option<BackingImage>, Failure> {
        match (self.backing.as_deref(), self.backing_format.as_deref()) {
            (None, _) if !self.backing_unsafe => Err(Failure::new(
                "Must specify backing file (-b) or use unsafe mode (-u)",
            )),
            (None | Some(""), _) => Ok(None),
            (Some(name), None) => Err(Failure::new(format!(
                "Could not change the backing file to '{name}': backing format must be specified, with -F"
            ))),
            (Some(name), Some(format)) => {
                let name = plain_name(name)?;
                Ok(Some(BackingImage::new(name, format)))
            }
        }
    }
}
