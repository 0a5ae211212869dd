//! What the command `diskette` is made of: disk images inspected, made and converted, in qemu-img's words.
//!
//! It is a library so that tests and fuzzers can run the command within their own process. Programs that work with images
//! depend on the crate `diskette`.

#![forbid(unsafe_code)]

mod args;
mod cmd;
mod container;
mod failure;
mod human;
mod image_opts;
mod json;
mod json_name;
mod limit;
mod options_help;
mod pipes;
mod progress;
mod report;
mod secrets;
mod sink;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::args::Command;
use crate::failure::Outcome;

/// Runs the command with these words, the first of which is its name. What it prints goes to the process's own output.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    match outcome(words) {
        Ok(code) => code,
        Err(failure) => failure.tell(),
    }
}

/// Whether the words are a command that [`run`] would begin with. Nothing is run.
pub fn understands(words: impl IntoIterator<Item = OsString>) -> bool {
    args::Diskette::try_parse_from(words).is_ok()
}

fn outcome(words: impl IntoIterator<Item = OsString>) -> Outcome {
    match args::Diskette::try_parse_from(words)?.command {
        Command::Amend(args) => cmd::amend::run(&args),
        Command::Bench(args) => cmd::bench::run(&args),
        Command::Bitmap(args) => cmd::bitmap::run(&args),
        Command::Check(args) => cmd::check::run(&args),
        Command::Commit(args) => cmd::commit::run(&args),
        Command::Compare(args) => cmd::compare::run(&args),
        Command::Convert(args) => cmd::convert::run(&args),
        Command::Create(args) => cmd::create::run(&args),
        Command::Dd(args) => cmd::dd::run(&args),
        Command::Digest(args) => cmd::digest::run(&args),
        Command::Info(args) => cmd::info::run(&args),
        Command::Inspect(args) => cmd::inspect::run(&args),
        Command::Map(args) => cmd::map::run(&args),
        Command::Measure(args) => cmd::measure::run(&args),
        Command::Rebase(args) => cmd::rebase::run(&args),
        Command::Resize(args) => cmd::resize::run(&args),
        Command::Snapshot(args) => cmd::snapshot::run(&args),
        Command::Nbd(args) => cmd::nbd::run(&args),
        Command::Completions(args) => cmd::completions::run(&args),
    }
}
