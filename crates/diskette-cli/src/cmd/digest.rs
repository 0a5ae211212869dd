//! `diskette digest`: one number for what a disk holds.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use diskette::core::BlockReader;
use diskette::engine::{self, Digests};
use serde_json::{Value as Json, json};

use crate::args::{Opening, Output, Work};
use crate::failure::Outcome;
use crate::{human, json as print, progress};

/// Print the SHA-256 and the BLAKE3 of what the guest reads, whatever the format
///
/// They are those of the raw image: two images with the same digest hold the same disk. Holes and zeros are not read.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  diskette digest disk.vmdk disk.qcow2
  diskette digest --output=json disk.vhdx")]
pub(crate) struct Digest {
    /// The images
    #[arg(required = true, value_name = "FILENAME")]
    filenames: Vec<PathBuf>,

    /// The images' format; without it, the content tells
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// How to print it
    #[arg(long, value_enum, default_value_t = Output::Human)]
    output: Output,

    #[command(flatten)]
    work: Work,

    #[command(flatten)]
    opening: Opening,
}

pub(crate) fn run(args: &Digest) -> Outcome {
    let mut objects = Vec::new();
    for path in &args.filenames {
        let (path, options) = args.opening.image(path, args.format.as_deref())?;
        let disk = diskette::open_with(&path, &options)?;
        let progress = progress::Meter::new(args.work.progress);
        let tell = |at| progress.tell(at);
        let digests = engine::digest(&disk, &args.work.control(&tell));
        progress.end();
        let digests = digests?;
        let name = path.display().to_string();
        match args.output {
            Output::Human => print_lines(&name, &digests)?,
            Output::Json => objects.push(json!({
                "filename": name,
                "format": disk.top().info.format,
                "virtual-size": disk.size(),
                "sha256": digests.sha256_hex().to_string(),
                "blake3": digests.blake3_hex().to_string(),
            })),
        }
    }
    if args.output == Output::Json {
        print::print(&mut io::stdout(), &Json::Array(objects))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// As `sha256sum --tag` and `b3sum --tag` print.
fn print_lines(name: &str, digests: &Digests) -> io::Result<()> {
    let name = human::plain(name);
    let mut out = io::stdout().lock();
    writeln!(out, "SHA256 ({name}) = {}", digests.sha256_hex())?;
    writeln!(out, "BLAKE3 ({name}) = {}", digests.blake3_hex())
}
