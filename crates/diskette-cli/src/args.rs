//! The arguments that all subcommands share.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use diskette::core::{FormatChoice, OpenOptions, parse_size};
use diskette::engine::{Control, Progress};

use crate::cmd;

/// Inspects, makes and converts disk images, in qemu-img's words.
#[derive(Debug, Parser)]
#[command(
    name = "diskette",
    version,
    propagate_version = false,
    infer_long_args = true
)]
pub(crate) struct Diskette {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Check(cmd::check::Check),
    Compare(cmd::compare::Compare),
    Info(cmd::info::Info),
    Map(cmd::map::Map),
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

/// What opening an image may lead to.
#[derive(Args, Debug)]
#[command(next_help_heading = "Safety")]
pub(crate) struct Opening {
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

    /// Accepted for qemu-img's sake: images are never locked
    #[arg(short = 'U', long)]
    pub(crate) force_share: bool,
}

impl Opening {
    /// How the image at `path` is to be opened. Its format is found out where it is not named.
    pub(crate) fn options(
        &self,
        path: &Path,
        format: Option<&str>,
    ) -> diskette::core::Result<OpenOptions> {
        let mut options = diskette::options_for(path)?;
        if let Some(format) = format {
            options.format = FormatChoice::Named(format.to_owned());
        }
        options.probe_backing = self.probe_backing;
        options.ignore_identity = self.ignore_parent_id;
        Ok(options)
    }
}
