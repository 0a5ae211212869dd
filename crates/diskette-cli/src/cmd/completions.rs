//! `diskette completions`: what makes a shell complete this command's words.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use crate::args::Diskette;
use crate::failure::Outcome;

/// Print what makes a shell complete this command's words
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  diskette completions bash > ~/.local/share/bash-completion/completions/diskette
  diskette completions zsh > ~/.zfunc/_diskette
  diskette completions fish > ~/.config/fish/completions/diskette.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &Completions) -> Outcome {
    let mut script = Vec::new();
    generate(
        args.shell,
        &mut Diskette::command(),
        "diskette",
        &mut script,
    );
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
