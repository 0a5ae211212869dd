//! `diskette bitmap`: persistent bitmaps of an image.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use diskette::core::{BitmapWriter, NewBitmap, OpenOptions, Result as CoreResult};

use crate::args::{Opening, size, without_containers};
use crate::failure::{Failure, Outcome};

/// Change the persistent bitmaps of an image: what of its disk has changed since some time
///
/// Several acts are done in their order, each whole or not at all. A bitmap that is enabled learns of all that is written
/// into the image, by QEMU and by 'diskette'.
#[derive(Args, Debug)]
#[command(
    override_usage = "diskette bitmap (--merge SOURCE | --add | --remove | --clear | --enable | --disable).. [OPTIONS] <FILENAME> <BITMAP>",
    after_help = "\
Examples:
  diskette bitmap --add disk.qcow2 since-monday
  diskette bitmap --add --disable --merge since-monday disk.qcow2 copy
  diskette bitmap --merge top -b overlay.qcow2 -F qcow2 base.qcow2 all"
)]
pub(crate) struct Bitmap {
    /// The image
    filename: PathBuf,

    /// The bitmap's name
    #[arg(value_name = "BITMAP")]
    name: String,

    #[command(flatten)]
    acts: Acts,

    /// Take the bitmaps that are merged from this image
    #[arg(short = 'b', long, value_name = "FILE")]
    source_file: Option<PathBuf>,

    /// The format of that image
    #[arg(short = 'F', long, value_name = "FMT")]
    source_format: Option<String>,

    /// Bytes of the disk that one bit of the new bitmap stands for
    #[arg(short, long, value_name = "SIZE", value_parser = size)]
    granularity: Option<u64>,

    /// The image's format; without it, the content tells
    #[arg(short, long, value_name = "FMT", conflicts_with = "image_opts")]
    format: Option<String>,

    #[command(flatten)]
    opening: Opening,
}

/// What is done, in this order.
#[derive(Clone, Debug)]
struct Acts(Vec<Act>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Act {
    Add,
    Remove,
    Clear,
    Enable,
    Disable,
    Merge(String),
}

pub(crate) fn run(args: &Bitmap) -> Outcome {
    args.expect_sense()?;
    let (path, options) = args.opening.image(&args.filename, args.format.as_deref())?;
    let bitmaps = diskette::edit_bitmaps(&path, &options)?;
    for act in &args.acts.0 {
        args.run(act, &*bitmaps, &path, &options)
            .map_err(|error| args.failure(act, error.into()))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Bitmap {
    fn expect_sense(&self) -> Result<(), Failure> {
        let acts = &self.acts.0;
        let merges = acts.iter().any(|act| matches!(act, Act::Merge(_)));
        let why = if acts.is_empty() {
            "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge"
        } else if self.granularity.is_some() && !acts.contains(&Act::Add) {
            "granularity only supported with --add"
        } else if self.source_format.is_some() && self.source_file.is_none() {
            "-F only supported with -b"
        } else if self.source_file.is_some() && !merges {
            "Merge bitmap source file only supported with --merge"
        } else {
            return Ok(());
        };
        Err(Failure::new(why))
    }

    fn run(
        &self,
        act: &Act,
        bitmaps: &dyn BitmapWriter,
        path: &Path,
        options: &OpenOptions,
    ) -> CoreResult<()> {
        let name = &self.name;
        match act {
            Act::Add => {
                let mut new = NewBitmap::named(name);
                new.granularity = self.granularity;
                bitmaps.add(&new)
            }
            Act::Remove => bitmaps.remove(name),
            Act::Clear => bitmaps.clear(name),
            Act::Enable => bitmaps.set_enabled(name, true),
            Act::Disable => bitmaps.set_enabled(name, false),
            Act::Merge(source) => {
                let source = match &self.source_file {
                    Some(file) => {
                        let options = self.opening.options(self.source_format.as_deref())?;
                        diskette::open_bitmap(file, source, &options)?
                    }
                    None => {
                        let mut options = options.clone();
                        without_containers(&mut options);
                        options.ignore_locks = true; // The lock is our own.
                        diskette::open_bitmap(path, source, &options)?
                    }
                };
                bitmaps.merge(name, &*source)
            }
        }
    }

    fn failure(&self, act: &Act, failure: Failure) -> Failure {
        let name = &self.name;
        failure.after(&format!("Operation {} on bitmap {name} failed", act.name()))
    }
}

impl Act {
    const fn name(&self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
            Self::Clear => "clear",
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Merge(_) => "merge",
        }
    }
}

/// The acts that are but a word.
const WORDS: [(&str, Act, &str); 5] = [
    ("add", Act::Add, "Add the bitmap, enabled"),
    ("remove", Act::Remove, "Remove the bitmap"),
    ("clear", Act::Clear, "Let nothing have changed"),
    (
        "enable",
        Act::Enable,
        "Let it learn of what is written from now on",
    ),
    ("disable", Act::Disable, "Let it learn of nothing more"),
];

// clap tells of each option's places on the command line, but not of the order of several options.
impl FromArgMatches for Acts {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut acts = Vec::new();
        for (name, act, _) in WORDS {
            let places = matches.indices_of(name).into_iter().flatten();
            acts.extend(places.map(|at| (at, act.clone())));
        }
        let places = matches.indices_of("merge").into_iter().flatten();
        let sources = matches.get_many::<String>("merge").into_iter().flatten();
        acts.extend(places.zip(sources.map(|source| Act::Merge(source.clone()))));
        acts.sort_by_key(|(at, _)| *at);
        Ok(Self(acts.into_iter().map(|(_, act)| act).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Acts {
    fn augment_args(command: Command) -> Command {
        let words = WORDS.map(|(name, _, help)| {
            Arg::new(name)
                .long(name)
                .help(help)
                .action(ArgAction::Append)
                .num_args(0)
                .default_missing_value("")
        });
        let merge = Arg::new("merge")
            .long("merge")
            .value_name("SOURCE")
            .help("Let all have changed of which the bitmap SOURCE says so, too")
            .action(ArgAction::Append);
        command.args(words).arg(merge)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
