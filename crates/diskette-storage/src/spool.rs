//! Bytes that came once, kept in a file without a name so that they can be read anywhere.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use diskette_core::{ByteStream, Error, Limits, Result, Storage, is_zero};

use crate::FileStorage;

/// All the bytes of `stream`, in a file that has no name and goes when nobody has it open any more. Zeros are holes in
/// it. The storage bears the stream's name.
///
/// The file lies in the folder that the environment's `TMPDIR` names, or in `/var/tmp`.
pub fn spool(stream: &mut dyn ByteStream, limits: &Limits) -> Result<Arc<dyn Storage>> {
    let folder = std::env::var_os("TMPDIR").filter(|folder| !folder.is_empty());
    let folder = folder.map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let failed = |op, source| Error::File {
        op,
        path: format!("a spool in {}", folder.display()),
        source,
    };
    let file = tempfile::tempfile_in(&folder).map_err(|source| failed("create", source))?;
    let size = fill(&file, stream, limits, |source| failed("write", source))?;
    file.set_len(size)
        .map_err(|source| failed("write", source))?;
    let storage = FileStorage::of(file, stream.name().to_owned());
    Ok(Arc::new(storage.map_err(|source| failed("open", source))?))
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
