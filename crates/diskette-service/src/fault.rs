//! The library's errors, as problems: each with the code that tells who is to act.

use std::io;

use diskette::core::{Error, Role};

use crate::problem::{
    BACKING_FILE_REFUSED, BAD_REQUEST, CANCELLED, CORRUPT, DATA_FILE_REFUSED, DISK_FULL, ENCRYPTED,
    EXTENT_REFUSED, NESTED_FORMAT, PARENT_REFUSED, Problem, SEVERAL_DISKS, TOO_LARGE, TRUNCATED,
    UNSUPPORTED_FORMAT,
};

/// What the error of an image's is to whoever has sent it.
pub(crate) fn of_image(error: &Error) -> Problem {
    let code = match error {
        Error::Malformed {
            truncated: true, ..
        } => TRUNCATED,
        Error::Malformed { .. } | Error::OutOfRange { .. } => CORRUPT,
        Error::Unsupported { feature, .. } if feature.contains("encrypt") => ENCRYPTED,
        Error::Unsupported { .. } | Error::UnknownFormat { .. } => UNSUPPORTED_FORMAT,
        Error::LimitExceeded { .. } => TOO_LARGE,
        Error::Refused { role, .. } | Error::UnnamedFormat { role, .. } => match role {
            Role::Backing => BACKING_FILE_REFUSED,
            Role::Part => EXTENT_REFUSED,
            Role::DataFile => DATA_FILE_REFUSED,
        },
        Error::WrongBacking { .. } => PARENT_REFUSED,
        Error::Ambiguous { .. } => NESTED_FORMAT,
        Error::SeveralDisks { .. } => SEVERAL_DISKS,
        Error::InvalidOption { .. } | Error::NotFound { .. } => BAD_REQUEST,
        Error::Cancelled => CANCELLED,
        Error::Io { source, op, .. } => return of_io(source, error, *op == "unpack"),
        Error::File { source, .. } => return of_io(source, error, false),
        _ => return Problem::internal(chain(error)),
    };
    Problem::new(code, error.to_string())
}

/// What the machine's error is.
pub(crate) fn of_machine(what: &str, error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Problem::new(DISK_FULL, format!("{what}: {error}"))
        }
        io::ErrorKind::ConnectionAborted => Problem::new(CANCELLED, error.to_string()),
        _ => Problem::internal(format!("{what}: {error}")),
    }
}

fn of_io(source: &io::Error, error: &Error, unpacking: bool) -> Problem {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => Problem::new(TRUNCATED, chain(error)),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            Problem::new(CORRUPT, chain(error))
        }
        io::ErrorKind::Other if unpacking => Problem::new(CORRUPT, chain(error)),
        _ => of_machine(&error.to_string(), source),
    }
}

/// An error with what is behind it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}
