//! `diskette bench`: an image under load.

use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use diskette::engine::{self, Load, Requests};

use crate::args::{Opening, cache_mode, size};
use crate::failure::{Failure, Outcome};

/// Measure how fast an image is read or written
///
/// Requests of one size are made one after another, several at once; behind the disk's end they go on from its beginning.
/// With -w guest data is overwritten.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  diskette bench disk.qcow2
  diskette bench -c 10000 -d 16 -s 64k disk.vmdk
  diskette bench -w --pattern 170 --flush-interval 64 -f qcow2 scratch.qcow2")]
pub(crate) struct Bench {
    /// The image
    filename: PathBuf,

    /// How many requests are made
    #[arg(short, long, value_name = "COUNT", default_value = "75000")]
    count: String,

    /// How many of them at once
    #[arg(short, long, value_name = "DEPTH", default_value = "64")]
    depth: String,

    /// The image's format; without it, the content tells
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// Accepted for qemu-img's sake: threads make the requests
    #[arg(short = 'i', long, value_enum, value_name = "AIO")]
    aio: Option<Aio>,

    /// Accepted for qemu-img's sake
    #[arg(short, long)]
    native: bool,

    /// Where the first request begins
    #[arg(short, long, value_name = "OFFSET", value_parser = size, default_value = "0")]
    offset: u64,

    /// Bytes of a request
    #[arg(short = 's', long, value_name = "SIZE", value_parser = size, default_value = "4096")]
    buffer_size: u64,

    /// From where one request begins to where the next does; without it, their size
    #[arg(short = 'S', long, value_name = "SIZE", value_parser = size)]
    step_size: Option<u64>,

    /// Accepted for qemu-img's sake: the host's cache is used
    #[arg(short = 't', long, value_name = "CACHE", value_parser = cache_mode)]
    cache: Option<String>,

    /// Write, and do not read
    #[arg(short, long)]
    write: bool,

    /// The byte that is written
    #[arg(long, value_name = "BYTE", default_value = "0")]
    pattern: String,

    /// Flush after so many writes
    #[arg(long, value_name = "COUNT", default_value = "0")]
    flush_interval: String,

    /// Do not wait for writes under way before a flush
    #[arg(long)]
    no_drain: bool,

    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    opening: Opening,
}

/// By what QEMU makes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Aio {
    /// Threads
    Threads,
    /// Linux's own way
    Native,
    /// Linux's newer way
    IoUring,
}

pub(crate) fn run(args: &Bench) -> Outcome {
    let load = args.load()?;
    let flush_every = args.flush_every(&load)?;
    let pattern = number("pattern byte", &args.pattern, 0..=255)?;
    let (path, options) = args.opening.image(&args.filename, args.format.as_deref())?;
    let taken = if args.write {
        let disk = diskette::edit(path, &options)?;
        args.announce(&load, flush_every)?;
        let requests = Requests::Writes {
            disk: &*disk,
            pattern: u8::try_from(pattern).unwrap_or(0),
            flush_every,
            drain: !args.no_drain,
        };
        let taken = engine::bench(&load, requests)?;
        disk.close()?;
        taken
    } else {
        let disk = diskette::open_with(path, &options)?;
        args.announce(&load, flush_every)?;
        engine::bench(&load, Requests::Reads(&disk))?
    };
    args.say(&format!(
        "Run completed in {:.3} seconds.",
        taken.as_secs_f64()
    ))?;
    Ok(ExitCode::SUCCESS)
}

impl Bench {
    fn load(&self) -> Result<Load, Failure> {
        let size = self.buffer_size;
        let size = usize::try_from(size)
            .ok()
            .filter(|_| (1..=MOST).contains(&size));
        let size = size.ok_or_else(|| outside("buffer size", 1..=MOST))?;
        let depth = number("queue depth", &self.depth, 1..=MOST)?;
        Ok(Load {
            count: number("request count", &self.count, 1..=MOST)?,
            depth: usize::try_from(depth)
                .unwrap_or(MOST_THREADS)
                .min(MOST_THREADS),
            size,
            offset: self.offset,
            step: self
                .step_size
                .filter(|step| *step > 0)
                .unwrap_or(size as u64),
        })
    }

    fn flush_every(&self, load: &Load) -> Result<Option<u64>, Failure> {
        let every = number("flush interval", &self.flush_interval, 0..=MOST)?;
        if every == 0 {
            return Ok(None);
        }
        if !self.write {
            return Err(Failure::new(
                "--flush-interval is only available in write tests",
            ));
        }
        if every < load.depth as u64 {
            return Err(Failure::new("Flush interval can't be smaller than depth"));
        }
        Ok(Some(every))
    }

    fn announce(&self, load: &Load, flush_every: Option<u64>) -> io::Result<()> {
        self.say(&format!(
            "Sending {} {} requests, {} bytes each, {} in parallel (starting at offset {}, step size {})",
            load.count,
            if self.write { "write" } else { "read" },
            load.size,
            self.depth,
            load.offset,
            load.step
        ))?;
        match flush_every {
            Some(every) => self.say(&format!("Sending flush every {every} requests")),
            None => Ok(()),
        }
    }

    fn say(&self, line: &str) -> io::Result<()> {
        match self.quiet {
            true => Ok(()),
            false => writeln!(io::stdout(), "{line}"),
        }
    }
}

/// The greatest number that qemu-img takes.
const MOST: u64 = i32::MAX as u64;
/// More requests at once are made by no more threads than these.
const MOST_THREADS: usize = 1024;

fn number(what: &str, text: &str, range: RangeInclusive<u64>) -> Result<u64, Failure> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| outside(what, range))
}

fn outside(what: &str, range: RangeInclusive<u64>) -> Failure {
    let (first, last) = range.into_inner();
    Failure::new(format!(
        "Invalid {what} specified. Must be between {first} and {last}."
    ))
}
