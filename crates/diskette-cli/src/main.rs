//! The command `diskette`: disk images inspected, made and converted, in qemu-img's words.

mod args;
mod cmd;
mod container;
mod failure;
mod human;
mod image_opts;
mod json;
mod json_name;
mod options_help;
mod pipes;
mod progress;
mod report;
mod secrets;
mod sink;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Command;
use crate::failure::Outcome;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(failure) => failure.tell(),
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
