//! Pipes in place of files: `-` is the standard input or output; a named pipe is one, too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use diskette::core::Error;

use crate::failure::Failure;

/// The end of a pipe.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// For messages.
    pub(crate) name: String,
    pub(crate) file: File,
}

/// Whether images are written here from their first byte to their last.
pub(crate) fn is_output(path: &Path) -> bool {
    path == Path::new("-") || path == Path::new("/dev/stdout") || is_fifo(path)
}

/// Where the bytes of an image go.
pub(crate) fn output(path: &Path) -> Result<Pipe, Failure> {
    if is_fifo(path) && path != Path::new("/dev/stdout") {
        let file = OpenOptions::new().write(true).open(path);
        return opened(file, &path.display().to_string());
    }
    let out = io::stdout();
    if out.is_terminal() {
        return Err(Failure::new(
            "an image is not for a terminal: redirect the standard output",
        ));
    }
    let file = out.as_fd().try_clone_to_owned();
    opened(file.map(File::from), "standard output")
}

fn opened(file: io::Result<File>, name: &str) -> Result<Pipe, Failure> {
    let name = name.to_owned();
    let file = file.map_err(|source| Error::File {
        op: "open",
        path: name.clone(),
        source,
    })?;
    Ok(Pipe { name, file })
}

fn is_fifo(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|facts| facts.file_type().is_fifo())
}
