//! How the command ends when it cannot do what it was asked to.

use std::error::Error as StdError;
use std::fmt::{self, Write};
use std::io;
use std::process::ExitCode;

use diskette::core::Error;

/// What a subcommand gives: its exit code, or why there is none.
pub(crate) type Outcome = Result<ExitCode, Failure>;

/// Why the command ends, and with which exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    what: What,
}

#[derive(Debug)]
enum What {
    /// One line for people.
    Text(String),
    /// The arguments could not be understood; or help was asked for.
    Arguments(clap::Error),
    /// Who read what we print went away.
    BrokenPipe,
}

/// What a shell reports of a program that a broken pipe ended.
const BROKEN_PIPE: u8 = 128 + 13;

/// Tells something on the error output. Where that cannot be written (a full disk) there is nothing to be done: the exit
/// code tells. (`eprintln!` would panic.)
pub(crate) fn tell(text: fmt::Arguments<'_>) {
    let _ = io::Write::write_fmt(&mut io::stderr(), text);
}

impl Failure {
    /// A failure that is told in these words.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            code: 1,
            what: What::Text(text.into()),
        }
    }

    /// A failure that is told as an error and its sources are.
    pub(crate) fn of(error: &dyn StdError) -> Self {
        Self::new(with_sources(error))
    }

    /// The words in which an error and its sources are told.
    pub(crate) fn text_of(error: &dyn StdError) -> String {
        with_sources(error)
    }

    /// The same, with what was tried in front.
    pub(crate) fn after(self, tried: &str) -> Self {
        match self.what {
            What::Text(text) => Self {
                what: What::Text(format!("{tried}: {text}")),
                ..self
            },
            What::Arguments(_) | What::BrokenPipe => self,
        }
    }

    /// The same, with another exit code than 1.
    pub(crate) fn with_code(self, code: u8) -> Self {
        match self.what {
            What::Text(_) => Self { code, ..self },
            What::Arguments(_) | What::BrokenPipe => self,
        }
    }

    /// Tells it on the error output, and gives the exit code.
    pub(crate) fn tell(self) -> ExitCode {
        match self.what {
            What::Text(text) => tell(format_args!("diskette: {text}\n")),
            What::Arguments(error) if error.use_stderr() => {
                let text = error.render().to_string();
                let text = text.strip_prefix("error: ").unwrap_or(&text);
                tell(format_args!("diskette: {text}"));
            }
            What::Arguments(help) => {
                // Where nobody listens there is nothing to be done.
                let _ = help.print();
            }
            What::BrokenPipe => {}
        }
        ExitCode::from(self.code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut text = with_sources(&error);
        if let Some(hint) = hint(&error) {
            text.push_str("; ");
            text.push_str(hint);
        }
        Self::new(text)
    }
}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        Self {
            // qemu-img knows no other.
            code: u8::from(error.use_stderr()),
            what: What::Arguments(error),
        }
    }
}

/// What we print could not be written.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self {
                code: BROKEN_PIPE,
                what: What::BrokenPipe,
            };
        }
        Self::new(format!("cannot print: {error}"))
    }
}

fn with_sources(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a string does not fail.
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

/// How the user may overrule us.
fn hint(error: &Error) -> Option<&'static str> {
    match error {
        Error::UnnamedFormat { .. } => Some("--probe-backing goes by its content"),
        Error::Refused { .. } => {
            Some("--allow-reference DIR allows the files of a folder, --trust allows all")
        }
        Error::WrongBacking { .. } => Some("--ignore-parent-id takes it all the same"),
        Error::InvalidOption { name, why, .. }
            if name.ends_with("key-secret") && why.starts_with("not given") =>
        {
            Some("--object secret,id=ID,file=FILE gives it, and --open-options or -o names its ID")
        }
        Error::Ambiguous { .. } => Some("-f does so"),
        Error::SeveralDisks { .. } => Some("--disk chooses one"),
        Error::LimitExceeded { what, .. } if what.contains("spool") => {
            Some("--spool-limit allows more")
        }
        Error::LimitExceeded { what, .. } if what.contains("unpacked") => {
            Some("--unpack-limit allows more")
        }
        Error::Io { source, .. } | Error::File { source, .. }
            if source.kind() == io::ErrorKind::FileTooLarge =>
        {
            Some("the file system or the limit of the process (ulimit -f) takes no file as large")
        }
        _ => None,
    }
}
