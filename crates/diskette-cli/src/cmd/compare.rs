//! `diskette compare`: whether two disks read the same.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use diskette::core::{BlockReader, Chain};
use diskette::engine::{CompareError, CompareOptions, Comparison};

use crate::args::{Opening, Work};
use crate::failure::{Failure, Outcome};
use crate::progress;

/// Compare what two images hold
///
/// Exit status: 0 if they hold the same, 1 if not, 2 if one could not be opened, 3 if a map could not be read,
/// 4 if data could not be read.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  diskette compare disk.vmdk disk.qcow2
  diskette compare --disk 0 machine.ova disk.qcow2
  diskette compare -s -f raw -F qcow2 disk.raw disk.qcow2")]
pub(crate) struct Compare {
    /// The first image
    filename1: PathBuf,

    /// The second image
    filename2: PathBuf,

    /// The first image's format; without it, the content tells
    #[arg(short = 'f', long = "a-format", value_name = "FMT")]
    a_format: Option<String>,

    /// The second image's format; without it, the content tells
    #[arg(short = 'F', long = "b-format", value_name = "FMT")]
    b_format: Option<String>,

    /// The sizes, and what is allocated, must be the same, too
    #[arg(short, long)]
    strict: bool,

    /// Accepted for qemu-img's sake
    #[arg(short = 'T', long, value_name = "CACHE")]
    cache: Option<String>,

    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    work: Work,

    #[command(flatten)]
    opening: Opening,
}

const DIFFERENT: u8 = 1;
const CANNOT_OPEN: u8 = 2;
const CANNOT_MAP: u8 = 3;
const CANNOT_READ: u8 = 4;

pub(crate) fn run(args: &Compare) -> Outcome {
    let left = args.open(&args.filename1, args.a_format.as_deref())?;
    let right = args.open(&args.filename2, args.b_format.as_deref())?;
    let progress = progress::Meter::new(args.work.progress && !args.quiet);
    let mut options = CompareOptions::default();
    options.strict = args.strict;
    let tell = |at| progress.tell(at);
    options.control = args.work.control(&tell);
    let compared = diskette::engine::compare(&left, &right, &options);
    match &compared {
        Ok(Comparison::Identical) => progress.complete(),
        Ok(_) | Err(_) => progress.end(),
    }
    let compared = compared.map_err(failure)?;
    // What both have is compared first: of the sizes is told where it holds the same.
    let common = left.size().min(right.size());
    let differs_within = matches!(compared, Comparison::ContentDiffers(offset) if offset < common);
    if left.size() != right.size() && !args.strict && !differs_within {
        args.say("Warning: Image size mismatch!")?;
    }
    match compared {
        Comparison::Identical => {
            args.say("Images are identical.")?;
            return Ok(ExitCode::SUCCESS);
        }
        Comparison::ContentDiffers(offset) => {
            args.say(&format!("Content mismatch at offset {offset}!"))?;
        }
        Comparison::AllocationDiffers(offset) => {
            args.say(&format!(
                "Strict mode: Offset {offset} block status mismatch!"
            ))?;
        }
        Comparison::SizesDiffer => args.say("Strict mode: Image size mismatch!")?,
    }
    Ok(ExitCode::from(DIFFERENT))
}

impl Compare {
    fn open(&self, path: &Path, format: Option<&str>) -> Result<Chain, Failure> {
        let opened = self
            .opening
            .image(path, format)
            .and_then(|(path, mut options)| {
                // What is said of a container concerns the file that is one.
                if !diskette::is_container(&path, &options)? {
                    options.disk = None;
                    options.verify_manifest = false;
                }
                diskette::open_with(&path, &options)
            });
        opened.map_err(|error| Failure::from(error).with_code(CANNOT_OPEN))
    }

    fn say(&self, line: &str) -> io::Result<()> {
        match self.quiet {
            true => Ok(()),
            false => writeln!(io::stdout(), "{line}"),
        }
    }
}

fn failure(error: CompareError) -> Failure {
    let code = match &error {
        CompareError::Map { .. } => CANNOT_MAP,
        _ => CANNOT_READ,
    };
    Failure::of(&error).with_code(code)
}
