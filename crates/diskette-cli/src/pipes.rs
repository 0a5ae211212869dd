//! Pipes in place of files: `-` is the standard input or output; a named pipe is one, too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Seek};
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

/// What comes by a pipe. `None` where `path` is a file, also one that is the standard input: it can be read anywhere.
pub(crate) fn input(path: &Path) -> Result<Option<Pipe>, Failure> {
    if path != Path::new("-") {
        return match is_fifo(path) {
            true => opened(File::open(path), &path.display().to_string()).map(Some),
            false => Ok(None),
        };
    }
    let file = io::stdin().as_fd().try_clone_to_owned();
    let Pipe { name, mut file } = opened(file.map(File::from), "standard input")?;
    if file.is_terminal() {
        return Err(Failure::new(
            "no image comes from a terminal: redirect the standard input",
        ));
    }
    let is_file = file.metadata().is_ok_and(|facts| facts.is_file());
    let is_whole = is_file && file.stream_position().is_ok_and(|at| at == 0);
    Ok((!is_whole).then_some(Pipe { name, file }))
}

/// The path of a source that is no pipe.
pub(crate) fn input_path(path: &Path) -> &Path {
    match path == Path::new("-") {
        true => Path::new("/dev/stdin"),
        false => path,
    }
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
