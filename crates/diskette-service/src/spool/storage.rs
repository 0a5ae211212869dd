//! A spool as the library reads it: what has not come yet is waited for.

use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use diskette::core::{Run, RunKind, Storage};
use rustix::fs::{SeekFrom, seek};

use super::Spool;

/// Host bytes that may still be on their way. A read above the watermark waits for them, or fails where they will not come.
#[derive(Debug)]
pub(crate) struct WatermarkStorage {
    spool: Arc<Spool>,
    name: String,
}

impl WatermarkStorage {
    /// The bytes of `spool`, under a name for messages.
    pub(crate) fn new(spool: Arc<Spool>, name: impl Into<String>) -> Self {
        Self {
            spool,
            name: name.into(),
        }
    }
}

impl Storage for WatermarkStorage {
    fn name(&self) -> &str {
        &self.name
    }

    /// Waits until that is known.
    fn size(&self) -> io::Result<u64> {
        self.spool.wait_for_total()
    }

    fn allocated(&self) -> io::Result<u64> {
        const BLOCK: u64 = 512;
        Ok(self.spool.file.metadata()?.blocks().saturating_mul(BLOCK))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let there = self.spool.wait_for(end)?;
        if there >= end {
            return self.spool.file.read_exact_at(buf, offset);
        }
        if !self.spool.is_presumed_to_have(end) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Whoever was told of more bytes than there are may ask for some of them: behind the last grain, say.
        let left = usize::try_from(there.saturating_sub(offset)).unwrap_or(0);
        let (real, behind) = buf.split_at_mut(left.min(buf.len()));
        self.spool.file.read_exact_at(real, offset)?;
        behind.fill(0);
        Ok(())
    }

    /// Of what has come. Zeros were left out, and are holes.
    fn run_at(&self, offset: u64) -> io::Result<Run> {
        let first = offset.checked_add(1).ok_or(io::ErrorKind::UnexpectedEof)?;
        let there = self.spool.wait_for(first)?;
        let left = there.checked_sub(offset).filter(|left| *left > 0);
        let left = left.ok_or(io::ErrorKind::UnexpectedEof)?;
        let file = &self.spool.file;
        let next = |whence, none| match seek(file, whence) {
            Ok(at) if at >= offset => at.min(there),
            _ => none,
        };
        let data = next(SeekFrom::Data(offset), there);
        let (end, kind) = match data > offset {
            true => (data, RunKind::Hole),
            false => (next(SeekFrom::Hole(offset), there), RunKind::Data),
        };
        let len = end.saturating_sub(offset).clamp(1, left);
        Ok(Run { len, kind })
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        None
    }
}

/// The same bytes from the first to the last, for what reads them once.
#[derive(Debug)]
pub(crate) struct SpoolReader {
    spool: Arc<Spool>,
    at: u64,
}

impl SpoolReader {
    pub(crate) const fn new(spool: Arc<Spool>) -> Self {
        Self { spool, at: 0 }
    }
}

impl Read for SpoolReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let there = self.spool.wait_for(self.at.saturating_add(1))?;
        let left = usize::try_from(there.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let len = left.min(buf.len());
        self.spool.file.read_exact_at(&mut buf[..len], self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}
