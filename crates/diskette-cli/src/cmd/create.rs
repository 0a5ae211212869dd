//! `diskette create`: a new image, without data.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use diskette::core::NewImage;

use crate::args::{FormatOptions, Opening, backing, plain_name, size};
use crate::failure::{Failure, Outcome};
use crate::{human, options_help};

/// Make a new image, empty or over a backing image
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  diskette create -f qcow2 disk.qcow2 20G
  diskette create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2
  diskette create -f qcow2 -o help")]
pub(crate) struct Create {
    /// The image to make; what is there before is replaced
    #[arg(required_unless_present = "options")]
    filename: Option<PathBuf>,

    /// The disk's size: a number, and one of the suffixes k, M, G, T, P, E; with -b, that image's if not given
    #[arg(value_parser = size)]
    size: Option<u64>,

    /// The new image's format
    #[arg(short, long, value_name = "FMT", default_value = "raw")]
    format: String,

    #[command(flatten)]
    options: FormatOptions,

    /// Make it an overlay on this image, as seen from the new image's folder
    #[arg(short, long, value_name = "FILE")]
    backing: Option<String>,

    /// The format of the image below
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<String>,

    /// Do not open the backing image; the size must be given
    #[arg(short = 'u', long)]
    backing_unsafe: bool,

    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    opening: Opening,
}

pub(crate) fn run(args: &Create) -> Outcome {
    let format = diskette::writable(&args.format)?;
    if args.options.help() {
        options_help::print(&mut io::stdout(), &args.format, format.options())?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(path) = &args.filename else {
        return Err(Failure::new("the name of the new image is missing"));
    };
    plain_name(&path.to_string_lossy())?;
    let mut options = args.options.parse()?;
    let mut backing = backing(
        args.backing.as_deref(),
        args.backing_format.as_deref(),
        &mut options,
    )?;
    let size = match args.size {
        Some(size) => Some(size),
        None => options.take_size()?,
    };
    let below = match &mut backing {
        Some(backing) if !args.backing_unsafe => Some(args.opening.backing_size(path, backing)?),
        Some(_) | None => None,
    };
    let Some(size) = size.or(below) else {
        return Err(Failure::new(format!(
            "{}: the new image needs a size",
            path.display()
        )));
    };
    let mut image = NewImage::new(size);
    image.backing = backing;
    image.options = options.into_options();
    image.secrets = args.opening.secrets()?;
    if !args.quiet {
        let settled = format.settled_options(&image)?;
        write!(
            io::stdout(),
            "Formatting '{}', fmt={}",
            path.display(),
            args.format
        )?;
        for (name, value) in settled {
            write!(io::stdout(), " {name}={}", human::plain(&value))?;
        }
        writeln!(io::stdout())?;
    }
    diskette::create(path, &args.format, &image)?;
    Ok(ExitCode::SUCCESS)
}
