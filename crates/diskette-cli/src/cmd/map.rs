//! `diskette map`: what is where.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use diskette::MapEntry;
use diskette::core::BlockReader;

use crate::args::{Opening, Output, size};
use crate::failure::{Failure, Outcome};
use crate::human;

/// Show which parts of the disk hold data, and where it lies
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  diskette map disk.qcow2
  diskette map --output=json --start-offset=1G --max-length=64M disk.qcow2")]
pub(crate) struct Map {
    /// The image
    filename: PathBuf,

    /// The image's format; without it, the content tells
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// Begin at this offset of the disk
    #[arg(short, long, value_name = "OFFSET", value_parser = size, default_value = "0")]
    start_offset: u64,

    /// Show no more than this
    #[arg(short = 'l', long, value_name = "LENGTH", value_parser = size)]
    max_length: Option<u64>,

    /// How to print it
    #[arg(long, value_enum, default_value_t = Output::Human)]
    output: Output,

    /// Take what is lost of a damaged image for zeros
    #[arg(long)]
    salvage: bool,

    #[command(flatten)]
    opening: Opening,
}

pub(crate) fn run(args: &Map) -> Outcome {
    let (path, mut options) = args.opening.image(&args.filename, args.format.as_deref())?;
    options.salvage = args.salvage;
    let chain = diskette::open_with(&path, &options)?;
    let start = args.start_offset;
    let len = args.max_length.unwrap_or(u64::MAX);
    let entries = diskette::map(&chain, start, start.saturating_add(len));
    let mut out = BufWriter::new(io::stdout().lock());
    match args.output {
        Output::Human => print_text(&mut out, entries)?,
        Output::Json => print_json(&mut out, entries, start, chain.size())?,
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn print_json(
    out: &mut dyn Write,
    entries: diskette::Map<'_>,
    start: u64,
    size: u64,
) -> Result<(), Failure> {
    let mut before = "[";
    for entry in entries {
        write!(out, "{before}{}", json_line(&entry?))?;
        before = ",\n";
    }
    if start >= size {
        // There is nothing to be told, and qemu-img tells it in these words.
        write!(out, "{before}{}", json_line(&nothing_at(start)))?;
    }
    writeln!(out, "]")?;
    Ok(())
}

fn nothing_at(offset: u64) -> MapEntry {
    MapEntry {
        offset,
        len: 0,
        depth: 0,
        present: false,
        zero: false,
        data: false,
        compressed: false,
        at: None,
        file: None,
    }
}

/// One line an entry, as qemu-img prints it.
fn json_line(entry: &MapEntry) -> String {
    let at = entry.at.map(|at| format!(", \"offset\": {at}"));
    format!(
        "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": {}, \
         \"compressed\": {}{}}}",
        entry.offset,
        entry.len,
        entry.depth,
        entry.present,
        entry.zero,
        entry.data,
        entry.compressed,
        at.unwrap_or_default()
    )
}

fn print_text(out: &mut dyn Write, entries: diskette::Map<'_>) -> Result<(), Failure> {
    writeln!(
        out,
        "{:<16}{:<16}{:<16}File",
        "Offset", "Length", "Mapped to"
    )?;
    for entry in entries {
        let entry = entry?;
        if !entry.data || entry.zero {
            continue;
        }
        let Some(at) = entry.at else {
            out.flush()?;
            return Err(Failure::new(
                "there are compressed or encrypted parts, which lie nowhere as they are; --output=json shows them",
            ));
        };
        writeln!(
            out,
            "{:<16}{:<16}{:<16}{}",
            hexadecimal(entry.offset),
            hexadecimal(entry.len),
            hexadecimal(at),
            human::plain(entry.file.as_deref().unwrap_or_default())
        )?;
    }
    Ok(())
}

/// As C's `%#x`: zero has no prefix.
fn hexadecimal(number: u64) -> String {
    match number {
        0 => "0".to_owned(),
        _ => format!("{number:#x}"),
    }
}
