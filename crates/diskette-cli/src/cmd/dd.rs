//! `diskette dd`: a part of a disk, into a new image.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use diskette::Conversion;
use diskette::core::BlockReader;
use diskette::engine::{ConvertOptions, Slice};

use crate::args::{Opening, Work, plain_name, size};
use crate::failure::{Failure, Outcome};
use crate::progress;

/// Copy some blocks of a disk into a new image
///
/// 'count' blocks are copied, from 'skip' on.
#[derive(Args, Debug)]
#[command(
    override_usage = "diskette dd [OPTIONS] if=SOURCE of=TARGET [bs=SIZE] [count=BLOCKS] [skip=BLOCKS]",
    after_help = "\
Examples:
  diskette dd if=disk.vmdk of=boot-sector.raw count=1
  diskette dd -O qcow2 bs=1M skip=1 count=128 if=disk.vhdx of=part.qcow2"
)]
pub(crate) struct Dd {
    /// if=SOURCE of=TARGET, bs=SIZE of a block (512 without it), count= and skip= of blocks
    #[arg(required = true, value_name = "OPERAND")]
    operands: Vec<String>,

    /// The source's format; without it, the content tells
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// The target's format
    #[arg(
        short = 'O',
        long,
        visible_alias = "target-format",
        value_name = "FMT",
        default_value = "raw"
    )]
    output_format: String,

    #[command(flatten)]
    work: Work,

    #[command(flatten)]
    opening: Opening,
}

pub(crate) fn run(args: &Dd) -> Outcome {
    let operands = Operands::parse(&args.operands)?;
    let (Some(source), Some(target)) = (operands.source, operands.target) else {
        return Err(Failure::new(
            "both a source (if=) and a target (of=) must be given",
        ));
    };
    plain_name(&target.to_string_lossy())?;
    let (path, options) = args
        .opening
        .image(source.as_ref(), args.format.as_deref())?;
    let disk = diskette::open_with(&path, &options)?;
    diskette::refuse_source_as_target(std::slice::from_ref(&disk), target)?;
    let (start, len) = operands.range(disk.size(), source)?;
    let progress = progress::Meter::new(args.work.progress);
    let tell = |at| progress.tell(at);
    let mut engine = ConvertOptions::default();
    engine.control = args.work.control(&tell);
    let conversion = Conversion::to(&args.output_format).with_engine(engine);
    let written = conversion.write(&Slice::new(&disk, start, len)?, target);
    match &written {
        Ok(()) => progress.complete(),
        Err(_) => progress.end(),
    }
    written?;
    Ok(ExitCode::SUCCESS)
}

/// What stands as NAME=VALUE.
#[derive(Debug)]
struct Operands<'a> {
    source: Option<&'a Path>,
    target: Option<&'a Path>,
    block: u64,
    count: Option<u64>,
    skip: u64,
}

impl<'a> Operands<'a> {
    fn parse(texts: &'a [String]) -> Result<Self, Failure> {
        let mut found = Self {
            source: None,
            target: None,
            block: 512,
            count: None,
            skip: 0,
        };
        for text in texts {
            let unknown = || Failure::new(format!("unrecognized operand {text}"));
            let (name, value) = text.split_once('=').ok_or_else(unknown)?;
            let number = || size(value).map_err(|why| Failure::new(format!("{text}: {why}")));
            match name {
                "if" => found.source = Some(Path::new(value)),
                "of" => found.target = Some(Path::new(value)),
                "bs" => found.block = number()?,
                "count" => found.count = Some(number()?),
                "skip" => found.skip = number()?,
                _ => return Err(unknown()),
            }
        }
        if !(1..=MOST_BLOCK).contains(&found.block) {
            return Err(Failure::new(format!(
                "bs={}: a block has 1 to {MOST_BLOCK} bytes",
                found.block
            )));
        }
        Ok(found)
    }

    /// Which bytes of a disk are meant. As with dd, nothing is there to be copied behind its end.
    fn range(&self, size: u64, source: &Path) -> Result<(u64, u64), Failure> {
        let start = self.skip.saturating_mul(self.block);
        if start > size {
            return Err(Failure::new(format!(
                "{}: cannot skip {start} bytes of {size}",
                source.display()
            )));
        }
        let wanted = self
            .count
            .map_or(u64::MAX, |count| count.saturating_mul(self.block));
        Ok((start, wanted.min(size - start)))
    }
}

const MOST_BLOCK: u64 = i32::MAX as u64;
