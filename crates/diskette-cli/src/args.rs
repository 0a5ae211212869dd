//! The arguments that all subcommands share.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Parser, Subcommand, ValueEnum};
use diskette::core::{BackingImage, FormatChoice, OpenOptions, Options, Secrets, parse_size};
use diskette::engine::{Control, Progress};
use diskette::storage::FolderResolver;

use crate::cmd;
use crate::failure::Failure;
use crate::image_opts::ImageOpts;
use crate::limit::{self, Limit};
use crate::{json_name, secrets};

/// Inspects, makes and converts disk images, in qemu-img's words.
#[derive(Debug, Parser)]
#[command(
    name = "diskette",
    version,
    propagate_version = false,
    infer_long_args = true,
    after_help = "\
Examples:
  diskette info router.vmdk
  diskette convert -p -O qcow2 router.vmdk router.qcow2
  diskette compare router.vmdk router.qcow2

'diskette COMMAND --help' tells more, with examples."
)]
pub(crate) struct Diskette {
    /// Accepted for qemu-img's sake: nothing is traced
    #[arg(short = 'T', long, value_name = "TRACE")]
    trace: Vec<String>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Amend(cmd::amend::Amend),
    Bench(cmd::bench::Bench),
    Bitmap(cmd::bitmap::Bitmap),
    Check(cmd::check::Check),
    Commit(cmd::commit::Commit),
    #[command(visible_alias = "verify")]
    Compare(cmd::compare::Compare),
    Convert(cmd::convert::Convert),
    Create(cmd::create::Create),
    Dd(cmd::dd::Dd),
    Digest(cmd::digest::Digest),
    Info(cmd::info::Info),
    Inspect(cmd::inspect::Inspect),
    Map(cmd::map::Map),
    Measure(cmd::measure::Measure),
    Rebase(cmd::rebase::Rebase),
    Resize(cmd::resize::Resize),
    Snapshot(cmd::snapshot::Snapshot),
    Nbd(cmd::nbd::Nbd),
    Completions(cmd::completions::Completions),
}

/// How what is printed is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Text for people
    Human,
    /// JSON for programs, with qemu-img's field names
    Json,
}

/// The options of a new image's format.
#[derive(Args, Debug)]
pub(crate) struct FormatOptions {
    /// Options of the new image: 'name=value,name=value'; 'help' lists them
    #[arg(
        short = 'o',
        long = "options",
        visible_alias = "target-options",
        value_name = "OPTIONS"
    )]
    options: Vec<String>,
}

impl FormatOptions {
    /// Whether only help is wanted.
    pub(crate) fn help(&self) -> bool {
        self.pairs().any(|pair| pair == "help" || pair == "?")
    }

    /// The options one by one. A name alone means that it is on.
    pub(crate) fn parse(&self) -> Result<GivenOptions, Failure> {
        let mut given = GivenOptions::default();
        for pair in self.pairs() {
            let (name, value) = name_and_value(&pair);
            if name.is_empty() {
                return Err(Failure::new(format!(
                    "-o {pair}: the option's name is missing"
                )));
            }
            given.pairs.push((name.to_owned(), value.to_owned()));
        }
        Ok(given)
    }

    /// What stands between single commas; two commas stand for one.
    fn pairs(&self) -> impl Iterator<Item = String> {
        self.options.iter().flat_map(|text| split_at_commas(text))
    }
}

/// A name alone means that it is on.
fn name_and_value(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, "on"))
}

pub(crate) fn split_at_commas(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match parts.last_mut() {
            Some(_) if char == ',' && chars.next_if_eq(&',').is_none() => parts.push(String::new()),
            Some(part) => part.push(char),
            None => {}
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// Options as they were given, without those that the command itself heeds once it has taken them.
#[derive(Debug, Default)]
pub(crate) struct GivenOptions {
    pairs: Vec<(String, String)>,
}

impl GivenOptions {
    pub(crate) const fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Takes the option out; the last of a name counts.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let taken = self.pairs.extract_if(.., |(given, _)| given == name);
        taken.last().map(|(_, value)| value)
    }

    /// Takes the disk's size out.
    pub(crate) fn take_size(&mut self) -> Result<Option<u64>, Failure> {
        let text = self.take("size");
        let size = text.map(|text| size(&text)).transpose();
        size.map_err(|why| Failure::new(format!("-o size: {why}")))
    }

    /// What is left for the format.
    pub(crate) fn into_options(self) -> Options {
        self.pairs.into_iter().collect()
    }
}

/// What is below the new image, by arguments of its own (a file and its format) or by its options.
pub(crate) fn backing(
    file: Option<&str>,
    format: Option<&str>,
    options: &mut GivenOptions,
) -> Result<Option<BackingImage>, Failure> {
    let (also_file, also_format) = (options.take("backing_file"), options.take("backing_fmt"));
    let target = file.map(str::to_owned).or(also_file);
    let format = format.map(str::to_owned).or(also_format);
    if let Some(name) = &target {
        plain_name(name)?;
    }
    match (target.filter(|name| !name.is_empty()), format) {
        (Some(target), Some(format)) => Ok(Some(BackingImage::new(target, format))),
        (Some(_), None) => Err(Failure::new(
            "the format of the backing image must be named too, with -F",
        )),
        (None, _) => Ok(None),
    }
}

/// That an image is to have a name of its own, and not a description: a new one, or one that another image refers to.
pub(crate) fn plain_name(name: &str) -> Result<&str, Failure> {
    match name.starts_with(json_name::SOURCE) {
        true => Err(Failure::new(format!(
            "{name}: a new image, and what an image is to refer to, need a file's name"
        ))),
        false => Ok(name),
    }
}

/// A snapshot's id or name, as qemu-img's `-l` takes it.
pub(crate) fn snapshot_name(text: &str) -> String {
    let bare = text
        .split(',')
        .filter_map(|part| part.strip_prefix("snapshot."))
        .filter_map(|part| {
            part.strip_prefix("id=")
                .or_else(|| part.strip_prefix("name="))
        })
        .next();
    bare.unwrap_or(text).to_owned()
}

/// One of qemu-img's cache modes.
pub(crate) fn cache_mode(text: &str) -> Result<String, &'static str> {
    match text {
        "none" | "off" | "writeback" | "writethrough" | "directsync" | "unsafe" => {
            Ok(text.to_owned())
        }
        _ => Err("not one of none, writeback, writethrough, directsync, unsafe"),
    }
}

/// How many bytes a second may be done.
pub(crate) fn rate(text: &str) -> Result<NonZeroU64, &'static str> {
    NonZeroU64::new(size(text)?).ok_or("a rate of nothing would never end")
}

/// How long operations are run.
#[derive(Args, Debug)]
pub(crate) struct Work {
    /// Show how far it has come
    #[arg(short, long)]
    pub(crate) progress: bool,

    /// How many threads work at once; without it, one a core
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
}

impl Work {
    /// How the engine is to work; it tells `progress` how far it has come.
    pub(crate) fn control<'a>(&self, progress: &'a (dyn Fn(Progress) + Sync)) -> Control<'a> {
        let mut control = Control::default();
        control.threads = self.threads.map(NonZeroUsize::get);
        control.progress = self.progress.then_some(progress);
        control
    }
}

/// A size as qemu-img takes it.
pub(crate) fn size(text: &str) -> Result<u64, &'static str> {
    parse_size(text).ok_or("not a size: a number, and one of the suffixes k, M, G, T, P, E")
}

/// What is taken of a file that holds several disks.
#[derive(Args, Debug)]
#[command(next_help_heading = "Containers and compressed files")]
pub(crate) struct Container {
    /// Take this disk of an OVA: by its number from 0, the name of its file, or its identifier; 'info' lists them
    #[arg(long, value_name = "DISK")]
    pub(crate) disk: Option<String>,

    /// Hold an OVA's files against the digests in its manifest first
    #[arg(long)]
    pub(crate) verify_manifest: bool,

    /// The most that a compressed file may unpack to
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) unpack_limit: Option<u64>,

    /// The most that may be kept in an unnamed temporary file where an image cannot be read while it is unpacked
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) spool_limit: Option<u64>,
}

/// What is said of containers concerns sources alone.
pub(crate) fn without_containers(options: &mut OpenOptions) {
    options.containers = false;
    options.disk = None;
    options.verify_manifest = false;
}

impl Container {
    fn set(&self, options: &mut OpenOptions) {
        options.disk.clone_from(&self.disk);
        options.verify_manifest = self.verify_manifest;
        if let Some(limit) = self.unpack_limit {
            options.limits.unpacked_bytes = limit;
            options.limits.unpacked_ratio = u64::MAX;
        }
        if let Some(limit) = self.spool_limit {
            options.limits.spool_bytes = limit;
        }
    }
}

/// What opening an image may lead to.
#[derive(Args, Debug)]
#[command(next_help_heading = "Safety")]
pub(crate) struct Opening {
    #[command(flatten)]
    pub(crate) container: Container,

    /// What opens encrypted images: 'secret,id=ID,file=FILE' or 'secret,id=ID,data=TEXT', with format=base64 if it is
    #[arg(long, value_name = "OBJECT")]
    pub(crate) object: Vec<String>,

    /// Images are not named, but described: 'driver=qcow2,encrypt.key-secret=ID,file.filename=FILE'
    #[arg(long, visible_alias = "source-image-opts")]
    pub(crate) image_opts: bool,

    /// Open what images refer to (backing files, extents, data files) in this folder too, not only in the image's own
    #[arg(long, value_name = "DIR")]
    pub(crate) allow_reference: Vec<PathBuf>,

    /// Open any file that images refer to
    #[arg(long)]
    pub(crate) trust: bool,

    /// Find out the format of a backing image by its content where the overlay does not name it
    #[arg(long)]
    pub(crate) probe_backing: bool,

    /// Take a backing image that is not the one the overlay was made over, going by its identity
    #[arg(long)]
    pub(crate) ignore_parent_id: bool,

    /// How the format is to read its images: 'encrypt.key-secret=ID' for encrypted QCOW2, 'key-secret=ID' for LUKS,
    /// 'force_size_calc=chs' or 'force_size_calc=current_size' for VPC (VHD)
    #[arg(long, value_name = "OPTIONS")]
    pub(crate) open_options: Vec<String>,

    /// Read an image although another program writes it
    #[arg(short = 'U', long)]
    pub(crate) force_share: bool,

    /// Let an image cost so much and no more: 'table-bytes=64M', 'chain-depth=8', 'time=30' (seconds), ...; '--limit help='
    /// names them all
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) limit: Vec<Limit>,
}

impl Opening {
    /// How images are to be opened. The format of the first is found out where it is not named.
    pub(crate) fn options(&self, format: Option<&str>) -> diskette::core::Result<OpenOptions> {
        let mut options = diskette::safe_options();
        options.files = Arc::new(self.resolver()?);
        if let Some(format) = format {
            options.format = FormatChoice::Named(format.to_owned());
        }
        options.probe_backing = self.probe_backing;
        options.ignore_identity = self.ignore_parent_id;
        options.ignore_locks = self.force_share;
        options.format_options = self.format_options()?;
        limit::apply(&self.limit, &mut options.limits)?;
        self.container.set(&mut options);
        options.secrets = self.secrets()?;
        Ok(options)
    }

    /// The file of an image that is named or, with --image-opts, described; and how it is to be opened.
    pub(crate) fn image(
        &self,
        image: &Path,
        format: Option<&str>,
    ) -> diskette::core::Result<(PathBuf, OpenOptions)> {
        match self.image_opts {
            true => self.described(image),
            false => self.named(image, format),
        }
    }

    /// The file of an image that is named, by a `json:` name perhaps, and how it is to be opened.
    pub(crate) fn named(
        &self,
        image: &Path,
        format: Option<&str>,
    ) -> diskette::core::Result<(PathBuf, OpenOptions)> {
        match ImageOpts::of_json_name(&image.to_string_lossy()) {
            Some(image) => self.opening_of(image?, format),
            None => Ok((image.to_owned(), self.options(format)?)),
        }
    }

    /// The file of an image that is described, and how it is to be opened.
    pub(crate) fn described(&self, image: &Path) -> diskette::core::Result<(PathBuf, OpenOptions)> {
        self.opening_of(ImageOpts::parse(&image.to_string_lossy())?, None)
    }

    /// A format that is named besides a description goes before that.
    fn opening_of(
        &self,
        image: ImageOpts,
        format: Option<&str>,
    ) -> diskette::core::Result<(PathBuf, OpenOptions)> {
        let mut options = self.options(format.or(image.format.as_deref()))?;
        options.ignore_locks |= image.force_share;
        for (name, value) in image.options {
            options.format_options.set(name, value);
        }
        Ok((image.path, options))
    }

    /// What opens encrypted images.
    pub(crate) fn secrets(&self) -> diskette::core::Result<Secrets> {
        secrets::parse(&self.object)
    }

    fn format_options(&self) -> diskette::core::Result<Options> {
        let pairs = self.open_options.iter();
        let pairs: Vec<String> = pairs.flat_map(|text| split_at_commas(text)).collect();
        let given: Options = pairs.iter().map(|pair| name_and_value(pair)).collect();
        given.expect_only("--open-options", diskette::open_options())?;
        Ok(given)
    }

    fn resolver(&self) -> diskette::core::Result<FolderResolver> {
        if self.trust {
            return Ok(FolderResolver::trusting());
        }
        let mut folders = self.allow_reference.iter();
        folders.try_fold(FolderResolver::new(), FolderResolver::allow)
    }

    /// The size of the disk below the new image at `path`; `backing` learns what that image says of itself. The user has
    /// named it: it is opened wherever it is.
    pub(crate) fn backing_size(
        &self,
        path: &Path,
        backing: &mut BackingImage,
    ) -> Result<u64, Failure> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let below = folder.join(&backing.target);
        let mut options = self.options(Some(&backing.format))?;
        without_containers(&mut options); // A chain does not lead into one.
        let info = diskette::inspect(&below, options)?.info;
        backing.identity = info.identity;
        Ok(info.size)
    }
}
