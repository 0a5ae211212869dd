//! `diskette convert`: a disk from one format, or several files, into another.

mod ova;

use std::io::{self, Write};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use diskette::core::{
    BitmapInfo, BitmapReader, BlockReader, Chain, Error, FormatChoice, OpenOptions,
};
use diskette::engine::{
    self, CompareOptions, Comparison, Concat, ConvertOptions, OnePass, PassingDigests, TopLayer,
};
use diskette::{Appliance, Arrived, Conversion, Incoming};

use crate::args::{
    FormatOptions, Opening, Work, backing, cache_mode, plain_name, rate, size, snapshot_name,
    without_containers,
};
use crate::failure::{Failure, Outcome, tell};
use crate::pipes::{self, Pipe};
use crate::sink::{self, Sink};
use crate::{human, options_help, progress};

/// Copy a disk into an image of another format
///
/// The new image is written beside its final name and gets it at the end: there is a whole image, or what was there
/// before. Several sources are put one after another. The target '-' is the standard output, 's3://BUCKET/KEY' an object:
/// raw images, streamOptimized VMDK and QCOW2 go there as they are made, all else is kept in an unnamed file first.
/// The source '-' is the standard input; streamOptimized VMDK is
/// read as it comes, all else is kept in an unnamed file first. Compressed sources (gzip, xz, zstd, bzip2) are unpacked on the way.
#[derive(Args, Debug)]
#[command(
    override_usage = "diskette convert [OPTIONS] <SOURCE>... <TARGET>",
    after_help = "\
Examples:
  diskette convert -p -O qcow2 router.vmdk router.qcow2
  diskette convert --disk 0 --verify-manifest -O qcow2 machine.ova machine.qcow2
  diskette convert -O qcow2 disk.raw.xz disk.qcow2
  diskette convert -c -O qcow2 -o compression_type=zstd disk.raw disk.qcow2
  ssh host 'cat router.vmdk' | diskette convert -O qcow2 - router.qcow2
  diskette convert -O vmdk router.qcow2 - | ssh host 'cat > router.vmdk'
  diskette convert -O qcow2 router.vmdk s3://images/router.qcow2
  diskette convert -O qcow2 -B base.qcow2 -F qcow2 overlay.qcow2 moved-overlay.qcow2
  diskette convert -O ova -o memory=4G,cpus=4,os=debian64 disk.qcow2 data.vhdx machine.ova
  diskette convert -O qcow2 -o help"
)]
pub(crate) struct Convert {
    /// The images to read, and at the end the one to write
    #[arg(required_unless_present = "options", value_names = ["SOURCE", "TARGET"])]
    filenames: Vec<PathBuf>,

    /// The sources' format; without it, the content tells
    #[arg(short = 'f', long, value_name = "FMT")]
    source_format: Option<String>,

    /// The target's format; 'ova' makes an appliance of which each source is a disk
    #[arg(short = 'O', long, value_name = "FMT", default_value = "raw")]
    target_format: String,

    #[command(flatten)]
    options: FormatOptions,

    /// Compress guest data
    #[arg(short, long)]
    compress: bool,

    /// The disk as it was when this snapshot was taken, by its id or name
    #[arg(short = 'l', long, value_name = "SNAPSHOT")]
    source_snapshot: Option<String>,

    /// Make the target an overlay on this image, as seen from the target's folder; only what the source's top layer
    /// has is copied
    #[arg(short = 'B', long, value_name = "FILE")]
    backing: Option<String>,

    /// The format of the image below
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<String>,

    /// Write into a target that is there already; what its disk has beyond the source's stays
    #[arg(short, long)]
    no_create: bool,

    /// The target of -n is not named, but described, as with --image-opts
    #[arg(long, requires = "no_create")]
    target_image_opts: bool,

    /// The target of -n reads as zeros: write none
    #[arg(long, requires = "no_create")]
    target_is_zero: bool,

    /// Leave out runs of zeros of at least this size; 0 writes all
    #[arg(short = 'S', long, value_name = "SIZE", value_parser = sparse_size, default_value = "4k")]
    sparse_size: u64,

    /// How the target is written: 'unsafe' leaves it to the host when it reaches the disk, all others wait for it
    #[arg(short = 't', long, value_name = "CACHE", value_parser = cache_mode, default_value = "unsafe")]
    target_cache: String,

    /// Accepted for qemu-img's sake
    #[arg(short = 'T', long, value_name = "CACHE", value_parser = cache_mode)]
    source_cache: Option<String>,

    /// Accepted for qemu-img's sake: see --threads
    #[arg(short = 'm', long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    parallel: Option<u8>,

    /// Accepted for qemu-img's sake: all cores work, and what is written is always the same
    #[arg(short = 'W', long)]
    oob_writes: bool,

    /// Accepted for qemu-img's sake
    #[arg(short = 'C', long)]
    copy_range_offloading: bool,

    /// Have the host keep space for all of the target's files, holes in them included: for fixed VDI, VHD, VHDX and flat
    /// VMDK, as preallocation=falloc is for raw images and QCOW2
    #[arg(long)]
    reserve: bool,

    /// How many bytes a second may be copied
    #[arg(short, long, value_name = "RATE", value_parser = rate)]
    rate: Option<NonZeroU64>,

    /// Take what is lost of a damaged source for zeros
    #[arg(long)]
    salvage: bool,

    /// Read the target back, and compare it with the source
    #[arg(long)]
    verify: bool,

    /// Copy the source's persistent bitmaps, too
    #[arg(long)]
    bitmaps: bool,

    /// Leave out bitmaps that are inconsistent
    #[arg(long, requires = "bitmaps")]
    skip_broken_bitmaps: bool,

    /// Print the SHA-256 of the disk, computed on the way: what 'digest' prints of the source and of the target
    #[arg(long)]
    digest: bool,

    /// The size of the raw disk that comes by a pipe: it need not be kept in a file then
    #[arg(long, value_name = "SIZE", value_parser = size)]
    source_size: Option<u64>,

    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    work: Work,

    #[command(flatten)]
    opening: Opening,
}

pub(crate) fn run(args: &Convert) -> Outcome {
    let options = match args.target_format.as_str() {
        ova::NAME => Appliance::options(),
        format => diskette::writable(format)?.options(),
    };
    if args.options.help() {
        options_help::print(&mut io::stdout(), &args.target_format, options)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some((target, sources)) = args
        .filenames
        .split_last()
        .filter(|(_, sources)| !sources.is_empty())
    else {
        return Err(Failure::new("a source and a target must be given"));
    };
    if args.target_format == ova::NAME {
        return args.write_ova(sources, target);
    }
    let mut conversion = args.conversion(target)?;
    conversion.bitmaps = args.open_bitmaps(sources, target)?;
    let has_backing = conversion.image.backing.is_some();
    let source = args.open_source(sources, target, has_backing)?;

    let wanted = args.work.progress && !args.quiet;
    let progress = match pipes::is_output(target) {
        true => progress::Meter::beside(wanted),
        false => progress::Meter::new(wanted),
    };
    let tell = |at| progress.tell(at);
    let digests = PassingDigests::new();
    let conversion = conversion.with_engine(args.engine(&tell, &digests));
    let done = match source {
        Source::Piped(disk) | Source::OnePass(disk) if sink::is_sink(target) => {
            args.pass_on(&conversion, disk, target)
        }
        Source::OnePass(disk) => match conversion.write_one_pass(disk, target) {
            // It turned out not to be in the disk's order: it takes a look from several sides.
            Err(Error::Unsupported { .. }) => args
                .open_chains(sources, target)
                .and_then(|chains| args.copy(&conversion, &chains, target)),
            done => done.map_err(Failure::from),
        },
        Source::Piped(disk) => conversion
            .write_one_pass(disk, target)
            .map_err(Failure::from),
        Source::Chains(chains) => args.copy(&conversion, &chains, target),
    };
    match &done {
        Ok(()) => progress.complete(),
        Err(_) => progress.end(),
    }
    done?;
    for digest in digests.take() {
        args.print_digest(target, digest, target)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is read.
enum Source {
    Chains(Vec<Chain>),
    /// What is compressed, and can be read while it is unpacked.
    OnePass(OnePass),
    /// What comes by a pipe.
    Piped(OnePass),
}

impl Convert {
    fn conversion(&self, target: &Path) -> Result<Conversion<'static>, Failure> {
        if pipes::is_output(target) && (self.no_create || self.verify) {
            return Err(Failure::new(
                "-n and --verify need a target that can be read, and a pipe cannot",
            ));
        }
        if sink::is_object(target) && self.no_create {
            return Err(Failure::new("-n: an object is put there whole"));
        }
        let mut options = self.options.parse()?;
        if !self.no_create {
            plain_name(&target.to_string_lossy())?;
        }
        if self.digest && self.backing.is_some() {
            return Err(Failure::new(
                "--digest: with -B the target is given what the source's top layer has, and not all of the disk",
            ));
        }
        if self.no_create && !options.is_empty() {
            return Err(Failure::new(
                "-o makes no sense with -n: the target is there already",
            ));
        }
        if options.take_size()?.is_some() {
            return Err(Failure::new("-o size: the target has the source's size"));
        }
        let mut conversion = Conversion::to(&self.target_format);
        let (file, format) = (self.backing.as_deref(), self.backing_format.as_deref());
        if let Some(mut backing) = backing(file, format, &mut options)? {
            let size = self.opening.backing_size(target, &mut backing)?;
            conversion = conversion.over(backing, size);
        }
        if self.reserve && (self.no_create || sink::is_sink(target)) {
            return Err(Failure::new("--reserve: the target is to be a new file"));
        }
        conversion.reserve = self.reserve;
        conversion.image.compress = self.compress;
        conversion.image.options = options.into_options();
        conversion.image.secrets = self.opening.secrets()?;
        conversion.sync = self.target_cache != "unsafe";
        Ok(conversion)
    }

    /// The source's bitmaps, if they are to be copied.
    fn open_bitmaps(
        &self,
        sources: &[PathBuf],
        target: &Path,
    ) -> Result<Vec<Arc<dyn BitmapReader>>, Failure> {
        if !self.bitmaps {
            return Ok(Vec::new());
        }
        let [source] = sources else {
            return Err(Failure::new(
                "Copying bitmaps only possible with single source",
            ));
        };
        let (path, options) = self.opening(source)?;
        let lacks = || Failure::new("Source lacks bitmap support");
        if pipes::input(&path)?.is_some() {
            return Err(lacks());
        }
        let info = diskette::inspect(&path, options.clone())?.info;
        let bitmaps = info.bitmaps.ok_or_else(lacks)?;
        let format = diskette::registry().get(&self.target_format)?;
        if format.bitmaps().is_none() || sink::is_sink(target) {
            return Err(Failure::new(format!(
                "Format driver '{}' does not support bitmaps here",
                self.target_format
            )));
        }
        let mut found = Vec::new();
        for BitmapInfo {
            name, consistent, ..
        } in bitmaps
        {
            match (consistent, self.skip_broken_bitmaps) {
                (true, _) => found.push(diskette::open_bitmap(&path, &name, &options)?.into()),
                (false, true) => {
                    eprintln!("diskette: warning: Skipping inconsistent bitmap '{name}'");
                }
                (false, false) => {
                    return Err(Failure::new(format!(
                        "Cannot copy inconsistent bitmap '{name}'\n\
                         Try --skip-broken-bitmaps, or use 'diskette bitmap --remove' to delete it"
                    )));
                }
            }
        }
        Ok(found)
    }

    fn open_source(
        &self,
        sources: &[PathBuf],
        target: &Path,
        has_backing: bool,
    ) -> Result<Source, Failure> {
        let at_once = !self.no_create && !has_backing && !self.verify;
        if let [only] = sources {
            let (path, options) = self.opening(only)?;
            if let Some(pipe) = pipes::input(&path)? {
                return self.receive(pipe, &options, at_once);
            }
            let path = pipes::input_path(&path);
            if at_once && let Some(disk) = diskette::open_one_pass(path, target, &options)? {
                return Ok(Source::OnePass(disk));
            }
        }
        if self.source_size.is_some() {
            return Err(Failure::new(
                "--source-size is for a source that comes by a pipe",
            ));
        }
        self.open_chains(sources, target).map(Source::Chains)
    }

    fn open_chains(&self, sources: &[PathBuf], target: &Path) -> Result<Vec<Chain>, Failure> {
        let chains = self.open_all(sources)?;
        match self.no_create {
            true => diskette::refuse_source_as_target(&chains, self.existing_target(target)?.0)?,
            false => diskette::refuse_source_as_target(&chains, target)?,
        }
        Ok(chains)
    }

    /// What comes by a pipe. Where it must be kept meanwhile, that is told.
    fn receive(&self, pipe: Pipe, options: &OpenOptions, at_once: bool) -> Result<Source, Failure> {
        let Pipe { name, file } = pipe;
        let incoming = Incoming::new(&name, Box::new(file), self.source_size, options)?;
        if at_once && incoming.is_one_pass() {
            return Ok(match incoming.open()? {
                Arrived::OnePass(disk) => Source::Piped(disk),
                Arrived::Spooled(chain) => Source::Chains(vec![chain]),
            });
        }
        if !self.quiet {
            let why = "cannot be read in one pass: it is kept in an unnamed file meanwhile";
            tell(format_args!("diskette: {name}: {why}\n"));
        }
        Ok(Source::Chains(vec![incoming.open_spooled()?]))
    }

    fn open_all(&self, sources: &[PathBuf]) -> Result<Vec<Chain>, Failure> {
        if self.source_snapshot.is_some() && sources.len() > 1 {
            return Err(Failure::new("a snapshot can be read of one source alone"));
        }
        sources.iter().map(|path| self.open(path)).collect()
    }

    fn open(&self, path: &Path) -> Result<Chain, Failure> {
        let (path, options) = self.opening(path)?;
        if pipes::input(&path)?.is_some() {
            return Err(Failure::new("what comes by a pipe must be the only source"));
        }
        Ok(diskette::open_with(pipes::input_path(&path), &options)?)
    }

    /// A source's file, and how it is opened.
    fn opening(&self, path: &Path) -> Result<(PathBuf, OpenOptions), Failure> {
        let (path, mut options) = self.opening.image(path, self.source_format.as_deref())?;
        options.snapshot = self.source_snapshot.as_deref().map(snapshot_name);
        options.salvage = self.salvage;
        Ok((path, options))
    }

    fn engine<'a>(
        &self,
        tell: &'a (dyn Fn(diskette::engine::Progress) + Sync),
        digests: &'a PassingDigests,
    ) -> ConvertOptions<'a> {
        let mut engine = ConvertOptions::default();
        engine.control = self.work.control(tell);
        engine.control.rate = self.rate;
        engine.sparse_size = self.sparse_size;
        engine.target_is_zero = self.target_is_zero;
        engine.digests = self.digest.then_some(digests);
        engine
    }

    /// As `digest` prints it; beside the image where that goes to the standard output.
    fn print_digest(&self, name: &Path, digest: [u8; 32], target: &Path) -> io::Result<()> {
        let name = name.display().to_string();
        let line = format!("SHA256 ({}) = {}", human::plain(&name), engine::hex(digest));
        match pipes::is_output(target) {
            true => writeln!(io::stderr(), "{line}"),
            false => writeln!(io::stdout(), "{line}"),
        }
    }

    /// From one pipe, or a compressed file, into another, or into an object.
    fn pass_on(
        &self,
        conversion: &Conversion<'_>,
        source: OnePass,
        target: &Path,
    ) -> Result<(), Failure> {
        let sink = Sink::open(target, source.size())?;
        let keeping = || self.tell_that_it_is_kept(&sink.name);
        conversion.write_one_pass_into_stream(source, &sink.name, sink.writer()?, &keeping)?;
        sink.finish()
    }

    fn tell_that_it_is_kept(&self, name: &str) {
        if !self.quiet {
            let why = "cannot be written in order: it is kept in an unnamed file meanwhile";
            tell(format_args!("diskette: {name}: {why}\n"));
        }
    }

    fn copy(
        &self,
        conversion: &Conversion<'_>,
        chains: &[Chain],
        target: &Path,
    ) -> Result<(), Failure> {
        let tops: Vec<_> = chains.iter().map(TopLayer::new).collect();
        let over_backing = conversion.image.backing.is_some();
        let disks: Vec<&dyn BlockReader> = match over_backing {
            true => tops.iter().map(|top| top as _).collect(),
            false => chains.iter().map(|chain| chain as _).collect(),
        };
        let joined;
        let source: &dyn BlockReader = match disks.as_slice() {
            [only] => *only,
            several => {
                joined = Concat::new(several.iter().copied())?;
                &joined
            }
        };
        let conversion = conversion.clone().keeping(chains);
        self.write(&conversion, source, target)?;
        self.tell_of_another_size(&conversion, source.size(), target)?;
        match self.verify {
            true => self.expect_equal(source, target),
            false => Ok(()),
        }
    }

    /// What the new disk's size is, where an option asks for another than the source's.
    fn tell_of_another_size(
        &self,
        conversion: &Conversion<'_>,
        size: u64,
        target: &Path,
    ) -> Result<(), Failure> {
        let mut image = conversion.image.clone();
        image.size = size;
        let settled = diskette::writable(&conversion.format)?.settled_options(&image)?;
        let told = settled.iter().find(|(name, _)| *name == "size");
        let told = told.and_then(|(_, told)| told.parse::<u64>().ok());
        if let Some(told) = told.filter(|told| *told != size && !self.no_create && !self.quiet) {
            let name = target.display();
            eprintln!(
                "diskette: {name}: the disk has {told} bytes, the source {size}: the rest is zeros"
            );
        }
        Ok(())
    }

    /// That the target reads as the source. It is left as it is: what is wrong with it may be worth a look.
    fn expect_equal(&self, source: &dyn BlockReader, target: &Path) -> Result<(), Failure> {
        let (target, options) = self.existing_target(target)?;
        let written = diskette::open_with(&target, &options)?;
        self.expect_same(source, &written, &format!("'{}'", target.display()))
    }

    fn expect_same(
        &self,
        source: &dyn BlockReader,
        written: &dyn BlockReader,
        name: &str,
    ) -> Result<(), Failure> {
        let mut options = CompareOptions::default();
        options.control.threads = self.work.threads.map(NonZeroUsize::get);
        let compared = engine::compare(source, written, &options);
        match compared.map_err(|error| Failure::of(&error))? {
            Comparison::ContentDiffers(offset) => Err(Failure::new(format!(
                "{name} was written, and does not read as the source at offset {offset}"
            ))),
            _ => Ok(()),
        }
    }

    /// The target's file, once it is there, and how it is to be opened.
    fn existing_target(&self, target: &Path) -> Result<(PathBuf, OpenOptions), Failure> {
        if self.target_image_opts {
            return Ok(self.opening.described(target)?);
        }
        let (target, mut options) = self.opening.named(target, Some(&self.target_format))?;
        without_containers(&mut options);
        for (name, value) in self.options.parse()?.into_options().iter() {
            if name.ends_with("key-secret") {
                options.format_options.set(name, value);
            }
        }
        Ok((target, options))
    }

    fn write(
        &self,
        conversion: &Conversion<'_>,
        source: &dyn BlockReader,
        target: &Path,
    ) -> Result<(), Failure> {
        if sink::is_sink(target) {
            let sink = Sink::open(target, source.size())?;
            let keeping = || self.tell_that_it_is_kept(&sink.name);
            conversion.write_into_stream(source, &sink.name, sink.writer()?, &keeping)?;
            return sink.finish();
        }
        if !self.no_create {
            return Ok(conversion.write(source, target)?);
        }
        let (target, options) = self.existing_target(target)?;
        let FormatChoice::Named(format) = &options.format else {
            return Err(Failure::new("--target-image-opts: the driver is not named"));
        };
        let mut conversion = conversion.clone();
        conversion.format.clone_from(format);
        Ok(conversion.write_into(source, &target, &options)?)
    }
}

fn sparse_size(text: &str) -> Result<u64, &'static str> {
    match size(text)? {
        fitting if fitting % 512 == 0 && fitting <= 16 << 20 => Ok(fitting),
        _ => Err("not a multiple of 512 up to 16M"),
    }
}
