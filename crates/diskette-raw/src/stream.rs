//! A raw image that comes as a stream. Zeros are left out, so that what was a hole before it was packed is one again.

use std::sync::Arc;

use diskette_core::{
    ByteStream, DiskStream, Error, KIB, OpenContext, Passes, Result, RunDecoder, SECTOR, StoredRun,
    StreamFormat, is_zero, round_up,
};

use crate::{FORMAT, Raw};

impl StreamFormat for Raw {
    fn passes(&self, _head: &[u8], _cx: &OpenContext<'_>) -> Passes {
        Passes::OneOfKnownLen // Nobody knows the disk's size before the end.
    }

    fn open_stream(
        &self,
        _head: &[u8],
        bytes: Box<dyn ByteStream>,
        len: Option<u64>,
        _cx: &OpenContext<'_>,
    ) -> Result<Box<dyn DiskStream>> {
        let unknown = || Error::unsupported(FORMAT, "a stream whose length is not known");
        let len = len.ok_or_else(unknown)?;
        let size = round_up(len, SECTOR)
            .ok_or_else(|| Error::unsupported(FORMAT, "a size of 2^64 bytes"))?;
        Ok(Box::new(Stream {
            bytes,
            len,
            size,
            at: 0,
        }))
    }
}

/// Bytes of a run.
const RUN: u64 = 512 * KIB;

#[derive(Debug)]
struct Stream {
    bytes: Box<dyn ByteStream>,
    /// Bytes that the stream must have.
    len: u64,
    /// The disk's: whole sectors.
    size: u64,
    at: u64,
}

impl DiskStream for Stream {
    fn size(&self) -> u64 {
        self.size
    }

    fn next_run(&mut self, mut buffer: Vec<u8>) -> Result<Option<StoredRun>> {
        while self.at < self.len {
            let offset = self.at;
            let wanted = usize::try_from((self.len - offset).min(RUN)).unwrap_or(0);
            buffer.resize(wanted, 0);
            let came = self.bytes.read(&mut buffer)?;
            if came < wanted {
                return Err(self.odd(offset + came as u64, "the stream ends too early"));
            }
            self.at += wanted as u64;
            if is_zero(&buffer) {
                continue;
            }
            let len = round_up(wanted as u64, SECTOR).unwrap_or(RUN);
            buffer.resize(usize::try_from(len).unwrap_or(wanted), 0);
            return Ok(Some(StoredRun {
                offset,
                len,
                bytes: buffer,
                compressed: false,
            }));
        }
        match self.bytes.read(&mut [0; 1])? {
            0 => Ok(None),
            _ => Err(self.odd(self.len, "the stream goes on behind its end")),
        }
    }

    fn decoder(&self) -> Arc<dyn RunDecoder> {
        Arc::new(AsItIs)
    }
}

impl Stream {
    fn odd(&self, offset: u64, why: &'static str) -> Error {
        Error::malformed(FORMAT, "stream", offset, self.bytes.name(), why)
    }
}

#[derive(Debug)]
struct AsItIs;

impl RunDecoder for AsItIs {
    fn decode(&self, run: &StoredRun, buf: &mut [u8], within: u64) -> Result<()> {
        let from = usize::try_from(within).unwrap_or(usize::MAX);
        let bytes = run.bytes.get(from..).and_then(|rest| rest.get(..buf.len()));
        let bytes = bytes.ok_or(Error::OutOfRange {
            offset: run.offset.saturating_add(within),
            len: buf.len() as u64,
            size: run.offset.saturating_add(run.len),
        })?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}
