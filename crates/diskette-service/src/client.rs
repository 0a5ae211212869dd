//! The verbs of the command line, for a service that runs: each is a call or some of its HTTP interface.
//!
//! Nothing here looks into the service's records or files; what the verbs can, any client can. `detect` alone looks at a
//! file of this machine, by the library.

mod base;
mod console;
mod detect;
mod download;
mod http;
mod images;
mod mark;
mod meter;
mod nodes;
mod operations;
mod show;
mod stop;
mod tokens;
mod upload;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

pub(crate) use http::Client;

/// What is done by calling a service.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Images of a service: list, add, get, download, change, verify, remove
    #[command(after_help = images::EXAMPLES)]
    Images {
        #[command(flatten)]
        service: Service,
        #[command(subcommand)]
        verb: images::Verb,
    },
    /// Base images: what publishers offer, and a service fetches by itself
    #[command(after_help = base::EXAMPLES)]
    Base {
        #[command(flatten)]
        service: Service,
        #[command(subcommand)]
        verb: base::Verb,
    },
    /// Nodes of a service: machines that run images
    #[command(after_help = nodes::EXAMPLES)]
    Nodes {
        #[command(flatten)]
        service: Service,
        #[command(subcommand)]
        verb: nodes::Verb,
    },
    /// A node's serial console, in this terminal; Ctrl-] leaves
    #[command(after_help = console::EXAMPLES)]
    Console {
        #[command(flatten)]
        service: Service,
        #[command(flatten)]
        asked: console::Asked,
    },
    /// What a file is, by its content: looked at here, without a service
    #[command(after_help = detect::EXAMPLES)]
    Detect(detect::Asked),
    /// Tokens of a service: list, create, revoke
    #[command(after_help = tokens::EXAMPLES)]
    Token {
        #[command(flatten)]
        service: Service,
        #[command(subcommand)]
        verb: tokens::Verb,
    },
}

/// Which service, and how it is spoken with.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Service")]
pub(crate) struct Service {
    /// Where the service listens
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "DISKETTE_SERVER",
        default_value = "http://127.0.0.1:3001"
    )]
    server: String,
    /// The token; other users of this machine see what is written on a command line, so rather by the environment
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "DISKETTE_TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
    /// A file with the token [default: diskette/token in the user's configuration folder, if it is there]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "DISKETTE_TOKEN_FILE",
        conflicts_with = "token"
    )]
    token_file: Option<PathBuf>,
    /// Print what the service answers, as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Tell nothing on the way
    #[arg(long, short, global = true)]
    quiet: bool,
}

/// Why a verb was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Refused(Box<Refusal>),
    #[error("{server} does not answer: {why}")]
    Unreachable { server: String, why: String },
    #[error("{what}: {source}")]
    Machine { what: String, source: io::Error },
    #[error("{0}")]
    Told(String),
    #[error("interrupted{0}")]
    Interrupted(String),
}

/// What the service has said no to.
#[derive(Debug, thiserror::Error)]
#[error("{} ({code}). {hint}", show::plain(detail))]
pub(crate) struct Refusal {
    status: u16,
    code: String,
    detail: String,
    hint: String,
    /// All of what was answered.
    body: Value,
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// What the shell is told: 1 where it was refused, 3 where nobody answers, 130 as after Ctrl-C.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Unreachable { .. } => 3,
            Self::Interrupted(_) => 130,
            _ => 1,
        })
    }

    fn of(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Machine { what, source }
    }

    /// Whether the service has said no by this code.
    fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == wanted)
    }
}

/// Does what a verb says.
pub(crate) fn run(verb: &Verb) -> Result<ExitCode> {
    match verb {
        Verb::Images { service, verb } => images::run(&Client::new(service)?, verb),
        Verb::Base { service, verb } => base::run(&Client::new(service)?, verb),
        Verb::Nodes { service, verb } => nodes::run(&Client::new(service)?, verb),
        Verb::Console { service, asked } => console::run(&Client::new(service)?, asked),
        Verb::Detect(asked) => detect::run(asked),
        Verb::Token { service, verb } => tokens::run(&Client::new(service)?, verb),
    }
}
