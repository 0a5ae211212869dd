//! `diskette amend`: options of an image that exists.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use diskette::core::Error;

use crate::args::{FormatOptions, Opening, cache_mode};
use crate::failure::{Failure, Outcome};
use crate::{options_help, progress};

/// Change options of an image that exists
///
/// What cannot be changed is refused, with the reason. The disk stays as it is; it can only be made longer.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  diskette amend -o compat=1.1,lazy_refcounts=on disk.qcow2
  diskette amend -o refcount_bits=64 disk.qcow2
  diskette amend --object secret,id=s0,file=old --object secret,id=s1,file=new \\
    --image-opts -o encrypt.state=active,encrypt.new-secret=s1 \\
    driver=qcow2,file.filename=disk.qcow2,encrypt.key-secret=s0
  diskette amend -f qcow2 -o help")]
pub(crate) struct Amend {
    /// The image
    #[arg(required_unless_present = "options")]
    filename: Option<PathBuf>,

    #[command(flatten)]
    options: FormatOptions,

    /// The image's format; without it, the content tells
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// Accepted for qemu-img's sake: what is told to be done is on the disk
    #[arg(short = 't', long, value_name = "CACHE", value_parser = cache_mode)]
    cache: Option<String>,

    /// Replace a key slot that is in use, or erase the last one: the data are lost with it
    #[arg(long)]
    force: bool,

    /// Show how far it has come
    #[arg(short, long)]
    progress: bool,

    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    opening: Opening,
}

pub(crate) fn run(args: &Amend) -> Outcome {
    if args.options.help() {
        return help(&args.format_name()?);
    }
    let Some(image) = &args.filename else {
        return Err(Failure::new("Expecting one image file name"));
    };
    let (path, opening) = args.opening.image(image, args.format.as_deref())?;
    let options = args.options.parse()?;
    if options.is_empty() {
        return Err(Failure::new("Must specify options (-o)"));
    }
    let progress = progress::Meter::new(args.progress && !args.quiet);
    let done = diskette::amend(&path, &options.into_options(), args.force, &opening);
    match &done {
        Ok(()) => progress.complete(),
        Err(_) => progress.end(),
    }
    done?;
    Ok(ExitCode::SUCCESS)
}

impl Amend {
    fn format_name(&self) -> Result<String, Failure> {
        if let Some(name) = &self.format {
            return Ok(name.clone());
        }
        let Some(image) = &self.filename else {
            return Err(Failure::new("-o help: the format must be named, with -f"));
        };
        let (path, options) = self.opening.image(image, None)?;
        Ok(diskette::inspect(path, options)?.info.format.to_owned())
    }
}

fn help(name: &str) -> Outcome {
    let Some(amendable) = diskette::registry().get(name)?.amendable() else {
        let what = "changing options of an image that exists";
        return Err(Error::unsupported("this format", what).into());
    };
    let mut out = io::stdout().lock();
    writeln!(out, "Amend options for '{name}':")?;
    options_help::print_list(&mut out, amendable.amend_options())?;
    Ok(ExitCode::SUCCESS)
}
