//! `diskette check`: whether an image is consistent; and making it so.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use diskette::core::{CheckReport, Error, OpenOptions, Repair};
use serde_json::{Map, Value as Json};

use crate::args::{Opening, Output};
use crate::failure::{Failure, Outcome, tell};
use crate::{human, json};

/// Check an image's consistency; without -r, the image is not changed
///
/// Exit status: 0 if nothing is wrong, 1 if the check could not be done, 2 if data may be lost or wrong, 3 if only
/// space is lost, 63 if the format has nothing to be checked.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  diskette check disk.qcow2
  diskette check --output=json disk.vmdk
  diskette check -r all disk.qcow2")]
pub(crate) struct Check {
    /// The image
    filename: PathBuf,

    /// The image's format; without it, the content tells
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// Mend what is wrong, in place
    #[arg(short, long, value_enum, value_name = "WHAT")]
    repair: Option<What>,

    /// Accepted for qemu-img's sake
    #[arg(short = 'T', long, value_name = "CACHE")]
    cache: Option<String>,

    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,

    /// How to print it
    #[arg(long, value_enum, default_value_t = Output::Human)]
    output: Output,

    #[command(flatten)]
    opening: Opening,
}

/// What a repair may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Space that is lost; no guest data can change
    Leaks,
    /// All that can be mended
    All,
}

const CORRUPT: u8 = 2;
const LEAKING: u8 = 3;
const NO_CHECK: u8 = 63;

pub(crate) fn run(args: &Check) -> Outcome {
    let (path, options) = args.opening.image(&args.filename, args.format.as_deref())?;
    let mended = args.repair.map(|what| repair(args, &path, what, &options));
    let mended = mended.transpose()?;
    let checked = diskette::check(&path, &options);
    let (format, mut report) = checked.map_err(no_check)?;
    if let Some(mended) = mended {
        report.corruptions_fixed = mended.corruptions_fixed;
        report.leaks_fixed = mended.leaks_fixed;
    }
    for finding in &report.findings {
        tell(format_args!("{}\n", human::plain(&finding.text)));
    }
    if !args.quiet {
        let mut out = io::stdout().lock();
        match args.output {
            Output::Human => print_text(&mut out, &report)?,
            Output::Json => {
                let name = args.filename.display().to_string();
                json::print(&mut out, &object(name, format, &report))?;
            }
        }
        out.flush()?;
    }
    Ok(ExitCode::from(exit_code(&report)))
}

/// Mends the image, and tells what was wrong; what is still wrong is told by the check that follows.
fn repair(
    args: &Check,
    path: &Path,
    what: What,
    options: &OpenOptions,
) -> Result<CheckReport, Failure> {
    let what = match what {
        What::Leaks => Repair::Leaks,
        What::All => Repair::All,
    };
    let repaired = diskette::repair(path, what, options);
    let (_, report) = repaired.map_err(no_check)?;
    if report.corruptions_fixed + report.leaks_fixed == 0 {
        return Ok(report);
    }
    for finding in &report.findings {
        tell(format_args!("{}\n", human::plain(&finding.text)));
    }
    if args.output == Output::Human && !args.quiet {
        writeln!(
            io::stdout(),
            "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    {} corruptions\n\n\
             Double checking the fixed image now...",
            report.leaks_fixed,
            report.corruptions_fixed
        )?;
    }
    Ok(report)
}

fn no_check(error: Error) -> Failure {
    match error {
        Error::Unsupported { .. } => Failure::from(error).with_code(NO_CHECK),
        _ => Failure::from(error),
    }
}

fn exit_code(report: &CheckReport) -> u8 {
    match report {
        _ if report.check_errors > 0 => 1,
        _ if report.corruptions > 0 => CORRUPT,
        _ if report.leaks > 0 => LEAKING,
        _ => 0,
    }
}

fn object(name: String, format: &str, report: &CheckReport) -> Json {
    let mut object = Map::new();
    let mut put = |name: &str, number: u64| {
        if number > 0 {
            object.insert(name.to_owned(), number.into());
        }
    };
    put("image-end-offset", report.image_end_offset.unwrap_or(0));
    put("total-clusters", report.total_granules);
    put("corruptions", report.corruptions);
    put("leaks", report.leaks);
    put("corruptions-fixed", report.corruptions_fixed);
    put("leaks-fixed", report.leaks_fixed);
    put("fragmented-clusters", report.fragmented_granules);
    put("allocated-clusters", report.allocated_granules);
    put("compressed-clusters", report.compressed_granules);
    object.insert("check-errors".to_owned(), report.check_errors.into());
    object.insert("filename".to_owned(), name.into());
    object.insert("format".to_owned(), format.into());
    object.into()
}

fn print_text(out: &mut dyn Write, report: &CheckReport) -> io::Result<()> {
    if report.corruptions + report.leaks + report.check_errors == 0 {
        writeln!(out, "No errors were found on the image.")?;
    }
    if report.corruptions > 0 {
        writeln!(
            out,
            "\n{} errors were found on the image.",
            report.corruptions
        )?;
        writeln!(
            out,
            "Data may be corrupted, or further writes to the image may corrupt it."
        )?;
    }
    if report.leaks > 0 {
        writeln!(
            out,
            "\n{} leaked clusters were found on the image.",
            report.leaks
        )?;
        writeln!(out, "This means waste of disk space, but no harm to data.")?;
    }
    if report.check_errors > 0 {
        let count = report.check_errors;
        writeln!(
            out,
            "\n{count} internal errors have occurred during the check."
        )?;
    }
    if report.total_granules > 0 && report.allocated_granules > 0 {
        let (allocated, total) = (report.allocated_granules, report.total_granules);
        writeln!(
            out,
            "{allocated}/{total} = {} allocated, {} fragmented, {} compressed clusters",
            percent(allocated, total),
            percent(report.fragmented_granules, allocated),
            percent(report.compressed_granules, allocated),
        )?;
    }
    if let Some(end) = report.image_end_offset.filter(|end| *end > 0) {
        writeln!(out, "Image end offset: {end}")?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
fn percent(part: u64, whole: u64) -> String {
    format!("{:.2}%", part as f64 * 100.0 / whole as f64)
}
