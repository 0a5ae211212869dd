//! The arguments that all subcommands share.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use diskette::core::{FormatChoice, OpenOptions, Result};

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
    Info(cmd::info::Info),
}

/// How what is printed is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Text for people
    Human,
    /// JSON for programs, with qemu-img's field names
    Json,
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
    pub(crate) fn options(&self, path: &Path, format: Option<&str>) -> Result<OpenOptions> {
        let mut options = diskette::options_for(path)?;
        if let Some(format) = format {
            options.format = FormatChoice::Named(format.to_owned());
        }
        options.probe_backing = self.probe_backing;
        options.ignore_identity = self.ignore_parent_id;
        Ok(options)
    }
}
