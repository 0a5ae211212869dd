//! The words of the program `diskette-service`.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use tracing_subscriber::EnvFilter;

use crate::client;
use crate::launch::arguments::OpenFile;
use crate::launch::jail::{self, Jail};
use crate::settings::{Given, Settings};
use crate::{base, boot, doctor, server};

/// Disk images in any format go in; verified QCOW2 comes out.
#[derive(Debug, Parser)]
#[command(
    version,
    name = "diskette-service",
    after_help = "\
Examples:
  diskette-service serve --data data
  diskette-service images add router.vmdk
  diskette-service nodes create one router --start
  diskette-service console one

Verbs that speak with a service find it by --server (DISKETTE_SERVER) and a token (DISKETTE_TOKEN, DISKETTE_TOKEN_FILE)."
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until a signal ends it.
    Serve {
        /// A TOML file of settings.
        #[arg(long, value_name = "FILE", env = "DISKETTE_CONFIG")]
        config: Option<std::path::PathBuf>,
        #[command(flatten)]
        given: Box<Given>,
    },
    /// Look whether this machine has what is needed, and say what works without.
    Doctor {
        /// A TOML file of settings.
        #[arg(long, value_name = "FILE", env = "DISKETTE_CONFIG")]
        config: Option<std::path::PathBuf>,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        given: Box<Given>,
    },
    /// Boot an image for some seconds on an overlay, and say whether it speaks on its serial console.
    #[command(after_help = "\
Exit code: 0 it boots, 1 it does not, 2 that could not be found out.

Example:
  diskette-service boot-test disk.vmdk --expect login: --timeout 120")]
    BootTest {
        #[command(flatten)]
        asked: boot::Asked,
        #[command(flatten)]
        given: Box<Given>,
    },
    #[command(flatten)]
    Service(Box<client::Verb>),
    /// Print what makes a shell complete these words.
    #[command(after_help = "\
Examples:
  diskette-service completions bash > ~/.local/share/bash-completion/completions/diskette-service
  diskette-service completions zsh > ~/.zfunc/_diskette-service
  diskette-service completions fish > ~/.config/fish/completions/diskette-service.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the description of the HTTP interface, as OpenAPI 3.1.
    Openapi,
    /// Print the error codes, each with its cause and its remedy.
    Codes,
    /// Open the files, give up all rights, and become the program named: each machine is started by it.
    #[command(name = jail::COMMAND, hide = true)]
    BecomeMachine {
        #[arg(long)]
        user: Option<u32>,
        #[arg(long)]
        group: Option<u32>,
        #[arg(long)]
        ends_with: Option<u32>,
        #[arg(long)]
        open: Vec<OpenFile>,
        #[arg(last = true, required = true)]
        line: Vec<OsString>,
    },
}

/// Runs the program with these words, the first of which is its name.
pub fn run(words: impl Iterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(words) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    match done(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("diskette-service: {error}");
            ExitCode::FAILURE
        }
    }
}

fn done(args: Args) -> Result<ExitCode, server::Failure> {
    match args.command {
        Command::Serve { config, given } => {
            let settings = Settings::load(*given, config.as_deref())?;
            log(&settings);
            server::serve(settings)?;
        }
        Command::Doctor {
            config,
            json,
            given,
        } => return doctor(&Settings::load(*given, config.as_deref())?, json),
        Command::BootTest { asked, given } => {
            let settings = Settings::load(*given, None)?;
            let passed = server::runtime()?.block_on(boot::run(&asked, &settings));
            return Ok(ExitCode::from(match passed {
                Ok(passed) => u8::from(!passed),
                Err(problem) => {
                    eprintln!("diskette-service: {}", server::Failure::from(problem));
                    2
                }
            }));
        }
        Command::Service(verb) => {
            return Ok(client::run(&verb).unwrap_or_else(|failure| {
                eprintln!("diskette-service: {failure}");
                failure.code()
            }));
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "diskette-service", &mut script);
            let printed = std::io::stdout().write_all(&script);
            printed.map_err(|source| server::Failure::Machine {
                what: "the standard output".to_owned(),
                source,
            })?;
        }
        Command::Openapi => {
            println!("{}", crate::api::description());
        }
        Command::Codes => {
            print!("{}", crate::problem::as_markdown());
        }
        Command::BecomeMachine {
            user,
            group,
            ends_with,
            open,
            line,
        } => {
            let jail = Jail {
                user: user.zip(group),
                ends_with,
            };
            let (program, arguments) = line.split_first().ok_or_else(nothing_to_become)?;
            let Err(source) = jail.enter(&open, program, arguments);
            return Err(server::Failure::Machine {
                what: format!("becoming {}", program.display()),
                source,
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn doctor(settings: &Settings, json: bool) -> Result<ExitCode, server::Failure> {
    let found = server::runtime()?.block_on(doctor::examine(settings));
    if json {
        println!("{}", serde_json::json!(found));
    } else {
        for finding in &found {
            println!("{:8} {}: {}", finding.verdict, finding.what, finding.detail);
        }
    }
    let broken = found.iter().any(|finding| finding.verdict == "broken");
    Ok(ExitCode::from(u8::from(broken)))
}

fn log(settings: &Settings) {
    let filter = EnvFilter::try_new(&settings.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter);
    let lines = lines.with_writer(|| base::LogWriter);
    // A second logger is refused: the first stays.
    let _ = match settings.log_json {
        true => lines.json().flatten_event(true).try_init(),
        false => lines.try_init(),
    };
}

fn nothing_to_become() -> server::Failure {
    server::Failure::Start("no program is named".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_words_are_the_same() {
        Args::command().debug_assert();
    }
}
