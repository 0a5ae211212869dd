//! `diskette measure`: how large a new image will be.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use diskette::core::{BlockReader, Measure as Sizes, NewImage};
use serde_json::{Map, Value as Json};

use crate::args::{FormatOptions, Opening, Output, backing, size, snapshot_name};
use crate::failure::{Failure, Outcome};
use crate::{json, options_help};

/// Calculate how large an image will be that holds a disk
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  diskette measure -O qcow2 --size 20G
  diskette measure -O qcow2 -o cluster_size=2M --output=json disk.vmdk")]
pub(crate) struct Measure {
    /// The image that holds the disk
    #[arg(required_unless_present_any = ["size", "options"], conflicts_with = "size")]
    filename: Option<PathBuf>,

    /// A disk of this size, without data
    #[arg(short, long, value_parser = size)]
    size: Option<u64>,

    /// The image's format; without it, the content tells
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// The new image's format
    #[arg(short = 'O', long, value_name = "FMT", default_value = "raw")]
    target_format: String,

    #[command(flatten)]
    options: FormatOptions,

    /// The disk as it was when this snapshot was taken, by its id or name
    #[arg(short = 'l', long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,

    /// How to print it
    #[arg(long, value_enum, default_value_t = Output::Human)]
    output: Output,

    #[command(flatten)]
    opening: Opening,
}

pub(crate) fn run(args: &Measure) -> Outcome {
    let format = diskette::writable(&args.target_format)?;
    if args.options.help() {
        options_help::print(&mut io::stdout(), &args.target_format, format.options())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut options = args.options.parse()?;
    let mut image = NewImage::new(args.size.unwrap_or(0));
    image.backing = backing(None, None, &mut options)?;
    image.options = options.into_options();
    let disk = match &args.filename {
        Some(path) => {
            let (path, mut options) = args.opening.image(path, args.format.as_deref())?;
            options.snapshot = args.snapshot.as_deref().map(snapshot_name);
            Some(diskette::open_with(path, &options)?)
        }
        None if args.size.is_some() => None,
        None => return Err(Failure::new("either --size or an image must be given")),
    };
    image.bitmaps = disk
        .as_ref()
        .and_then(|disk| disk.top().info.bitmaps.clone());
    let source = disk.as_ref().map(|disk| disk as &dyn BlockReader);
    let sizes = diskette::measure(&args.target_format, image, source)?;
    let mut out = io::stdout().lock();
    match args.output {
        Output::Human => print_text(&mut out, &sizes)?,
        Output::Json => json::print(&mut out, &object(&sizes))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn object(sizes: &Sizes) -> Json {
    let mut object = Map::new();
    if let Some(bitmaps) = sizes.bitmaps {
        object.insert("bitmaps".to_owned(), bitmaps.into());
    }
    object.insert("required".to_owned(), sizes.required.into());
    object.insert("fully-allocated".to_owned(), sizes.fully_allocated.into());
    object.into()
}

fn print_text(out: &mut dyn Write, sizes: &Sizes) -> io::Result<()> {
    writeln!(out, "required size: {}", sizes.required)?;
    writeln!(out, "fully allocated size: {}", sizes.fully_allocated)?;
    match sizes.bitmaps {
        Some(bitmaps) => writeln!(out, "bitmaps size: {bitmaps}"),
        None => Ok(()),
    }
}
