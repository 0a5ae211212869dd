//! `diskette resize`: a disk of another size.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use diskette::core::Preallocation;

use crate::args::{Opening, size};
use crate::failure::{Failure, Outcome};

/// Give the disk in an image another size
///
/// What is new reads as zeros. What is cut off is lost, so that it takes --shrink; partitions and file systems are the
/// guest's affair.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  diskette resize disk.qcow2 40G
  diskette resize disk.qcow2 +10G
  diskette resize --shrink disk.qcow2 -2G")]
pub(crate) struct Resize {
    /// The image
    filename: PathBuf,

    /// The new size, or with + or - in front by how much it changes
    #[arg(value_name = "SIZE", allow_hyphen_values = true)]
    size: String,

    /// The image's format; without it, the content tells
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// Let the disk become smaller
    #[arg(long)]
    shrink: bool,

    /// What is done ahead for what is new: nothing (off), a place in the tables (metadata), space of the host (falloc),
    /// zeros written (full)
    #[arg(long, value_name = "MODE", default_value = "off")]
    preallocation: Mode,

    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    opening: Opening,
}

/// When what is new gets its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Off,
    Metadata,
    Falloc,
    Full,
}

impl Mode {
    const fn preallocation(self) -> Option<Preallocation> {
        match self {
            Self::Off => None,
            Self::Metadata => Some(Preallocation::Metadata),
            Self::Falloc => Some(Preallocation::Reserved),
            Self::Full => Some(Preallocation::Full),
        }
    }
}

pub(crate) fn run(args: &Resize) -> Outcome {
    let (path, options) = args.opening.image(&args.filename, args.format.as_deref())?;
    let disk = diskette::edit(&path, &options)?;
    let wanted = new_size(&args.size, disk.size())?;
    if wanted < disk.size() && !args.shrink {
        return Err(Failure::new(format!(
            "all data beyond {wanted} of {} bytes would be lost; --shrink allows it",
            disk.size()
        )));
    }
    let old = disk.size();
    let preallocation = args.preallocation.preallocation();
    if preallocation.is_some() && wanted <= old {
        return Err(Failure::new(
            "Preallocation can only be used for growing images",
        ));
    }
    disk.resize(wanted)?;
    if let Some(how) = preallocation {
        disk.preallocate(old, wanted - old, how)?;
    }
    disk.close()?;
    if !args.quiet {
        writeln!(io::stdout(), "Image resized.")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The size that is meant, now that the disk has `old` bytes.
fn new_size(text: &str, old: u64) -> Result<u64, Failure> {
    let wrong = |why: &str| Failure::new(format!("'{text}': {why}"));
    let (sign, number) = match text.split_at_checked(1) {
        Some((sign @ ("+" | "-"), number)) => (sign, number),
        _ => ("", text),
    };
    let number = size(number).map_err(wrong)?;
    let new = match sign {
        "+" => old.checked_add(number),
        "-" => old.checked_sub(number),
        _ => Some(number),
    };
    new.ok_or_else(|| wrong("there is no such size"))
}
