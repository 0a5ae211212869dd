//! Bytes that came once, kept in a file without a name so that they can be read anywhere; and those that were written
//! anywhere, and go once.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use diskette_core::{ByteStream, Error, Limits, Result, Storage, StorageExt, StorageMut, is_zero};

use crate::{FileStorage, FileStorageMut};

/// All the bytes of `stream`, in a file that has no name and goes when nobody has it open any more. Zeros are holes in
/// it. The storage bears the stream's name.
///
/// The file lies in the folder that the environment's `TMPDIR` names, or in `/var/tmp`.
pub fn spool(stream: &mut dyn ByteStream, limits: &Limits) -> Result<Arc<dyn Storage>> {
    let file = unnamed_file()?;
    let size = fill(&file, stream, limits, |source| failed("write", source))?;
    file.set_len(size)
        .map_err(|source| failed("write", source))?;
    let storage = FileStorage::of(file, stream.name().to_owned());
    Ok(Arc::new(storage.map_err(|source| failed("open", source))?))
}

/// A file without a name that is written anywhere, and whose bytes then [`go`](Self::pass_on) from the first to the last:
/// where an image that cannot be written in order is to go into a stream. It lies where [`spool`] puts its own.
#[derive(Debug)]
pub struct OutgoingSpool {
    storage: Arc<FileStorageMut>,
}

impl OutgoingSpool {
    /// An empty one; error messages call it `name`.
    pub fn new(name: &str) -> Result<Self> {
        let storage = FileStorageMut::of(unnamed_file()?, name.to_owned());
        Ok(Self {
            storage: Arc::new(storage.map_err(|source| failed("open", source))?),
        })
    }

    /// Where its bytes are written.
    #[must_use]
    pub fn storage(&self) -> Arc<dyn StorageMut> {
        Arc::<FileStorageMut>::clone(&self.storage)
    }

    /// Passes all bytes on `to` a stream.
    pub fn pass_on(&self, to: &mut dyn Write) -> Result<()> {
        let size = self.storage.total_size()?;
        let mut piece = vec![0; PIECE];
        let mut at = 0;
        while at < size {
            let len = usize::try_from(size - at).map_or(PIECE, |left| left.min(PIECE));
            let bytes = &mut piece[..len];
            self.storage.read(bytes, at)?;
            let written = to.write_all(bytes);
            written.map_err(|source| self.storage.failed("write", at, len as u64, source))?;
            at += len as u64;
        }
        let flushed = to.flush();
        flushed.map_err(|source| self.storage.failed("write", at, 0, source))
    }
}

fn unnamed_file() -> Result<File> {
    tempfile::tempfile_in(folder()).map_err(|source| failed("create", source))
}

fn folder() -> PathBuf {
    let folder = std::env::var_os("TMPDIR").filter(|folder| !folder.is_empty());
    folder.map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

fn failed(op: &'static str, source: io::Error) -> Error {
    Error::File {
        op,
        path: format!("a spool in {}", folder().display()),
        source,
    }
}

/// Bytes that are looked at, and written, at once.
const PIECE: usize = 64 << 10;

fn fill(
    file: &File,
    stream: &mut dyn ByteStream,
    limits: &Limits,
    failed: impl Fn(io::Error) -> Error,
) -> Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut size = 0_u64;
    let mut written = 0_u64;
    loop {
        let came = stream.read(&mut piece)?;
        let bytes = &piece[..came];
        if !is_zero(bytes) {
            written = written.saturating_add(came as u64);
            limits.allow_spool(written)?;
            file.write_all_at(bytes, size).map_err(&failed)?;
        }
        size = size.saturating_add(came as u64);
        if came < PIECE {
            return Ok(size);
        }
    }
}
