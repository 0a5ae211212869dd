//! The command `diskette`: disk images inspected, made and converted, in qemu-img's words.

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

use std::process::ExitCode;

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::args::Command;
use crate::failure::Outcome;

fn main() -> ExitCode {
    allow_many_files();
    match run() {
        Ok(code) => code,
        Err(failure) => failure.tell(),
    }
}

/// An image may have thousands of parts, each of which is a file that is open: as many as the system allows may be.
fn allow_many_files() {
    if let Ok((now, most)) = getrlimit(Resource::RLIMIT_NOFILE)
        && now < most
    {
        // Where it is not allowed, few parts can be read all the same.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

fn run() -> Outcome {
    match args::Diskette::try_parse()?.command {
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
