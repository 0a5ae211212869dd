//! `diskette info`: what an image says of itself.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::args::{Opening, Output};
use crate::failure::Outcome;
use crate::{container, report};

/// Show what an image is: format, sizes, snapshots, what lies below it
///
/// Only the image itself is looked at; its backing image is named, and opened with --backing-chain alone. Of an OVA the
/// disks are listed; --disk shows one of them.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  diskette info disk.qcow2
  diskette info --output=json disk.vmdk
  diskette info --verify-manifest machine.ova
  diskette info --backing-chain --allow-reference /srv/bases overlay.qcow2")]
pub(crate) struct Info {
    /// The image
    filename: PathBuf,

    /// The image's format; without it, the content tells
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// Show all images of the chain, the upper ones first
    #[arg(short, long)]
    backing_chain: bool,

    /// How to print it
    #[arg(long, value_enum, default_value_t = Output::Human)]
    output: Output,

    #[command(flatten)]
    opening: Opening,
}

pub(crate) fn run(args: &Info) -> Outcome {
    let (path, options) = args.opening.image(&args.filename, args.format.as_deref())?;
    if options.disk.is_none()
        && let Some(container) = diskette::inspect_container(&path, &options)?
    {
        return container::print(&container, args.output);
    }
    let images = if args.backing_chain {
        diskette::inspect_chain(&path, options)?
    } else {
        vec![diskette::inspect(&path, options)?]
    };
    let mut out = io::stdout().lock();
    match args.output {
        Output::Human => report::print_text(&mut out, &images)?,
        Output::Json => report::print_json(&mut out, &images, args.backing_chain)?,
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
