//! Bytes that come once: out of a pipe, or of anything that reads.

use std::fmt;
use std::io::{self, ErrorKind, Read};

use diskette_core::{ByteStream, Error, Result};

/// What a reader gives, as a [`ByteStream`].
pub struct ReadStream {
    name: String,
    from: Box<dyn Read + Send>,
    at: u64,
}

impl ReadStream {
    /// The bytes that come `from` there; error messages call them `name`.
    pub fn new(name: impl Into<String>, from: Box<dyn Read + Send>) -> Self {
        Self {
            name: name.into(),
            from,
            at: 0,
        }
    }
}

impl ByteStream for ReadStream {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut came = 0;
        while came < buf.len() {
            match self.from.read(&mut buf[came..]) {
                Ok(0) => break,
                Ok(len) => came += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(self.failed(came, buf.len(), source)),
            }
        }
        self.at = self.at.saturating_add(came as u64);
        Ok(came)
    }
}

impl ReadStream {
    fn failed(&self, came: usize, wanted: usize, source: io::Error) -> Error {
        Error::Io {
            storage: self.name.clone(),
            op: "read",
            offset: self.at.saturating_add(came as u64),
            len: (wanted - came) as u64,
            source,
        }
    }
}

impl fmt::Debug for ReadStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadStream")
            .field("name", &self.name)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// Another stream of which the first bytes have been looked at: they come again.
#[derive(Debug)]
pub struct HeadStream {
    head: Vec<u8>,
    /// How many of them have come again.
    again: usize,
    rest: Box<dyn ByteStream>,
}

impl HeadStream {
    /// Looks at up to `len` bytes of `stream`.
    pub fn new(mut stream: Box<dyn ByteStream>, len: usize) -> Result<Self> {
        let mut head = vec![0; len];
        let came = stream.read(&mut head)?;
        head.truncate(came);
        Ok(Self {
            head,
            again: 0,
            rest: stream,
        })
    }

    /// The first bytes.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head
    }
}

impl ByteStream for HeadStream {
    fn name(&self) -> &str {
        self.rest.name()
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let left = &self.head[self.again..];
        let len = left.len().min(buf.len());
        let (from_head, behind) = buf.split_at_mut(len);
        from_head.copy_from_slice(&left[..len]);
        self.again += len;
        match behind.is_empty() {
            true => Ok(len),
            false => Ok(len + self.rest.read(behind)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_a_stream_comes_again() {
        let bytes: Vec<u8> = (0..100).collect();
        let from = ReadStream::new("pipe", Box::new(io::Cursor::new(bytes.clone())));
        let mut stream = HeadStream::new(Box::new(from), 16).unwrap();
        assert_eq!(stream.head(), &bytes[..16]);
        let mut all = Vec::new();
        loop {
            let mut piece = [0; 7];
            let came = stream.read(&mut piece).unwrap();
            all.extend_from_slice(&piece[..came]);
            if came < piece.len() {
                break;
            }
        }
        assert_eq!(all, bytes);
    }

    #[test]
    fn a_stream_that_is_shorter_than_its_head_is_all_head() {
        let from = ReadStream::new("pipe", Box::new(io::Cursor::new(b"abc")));
        let mut stream = HeadStream::new(Box::new(from), 16).unwrap();
        assert_eq!(stream.head(), b"abc");
        let mut piece = [0; 8];
        assert_eq!(stream.read(&mut piece).unwrap(), 3);
        assert_eq!(stream.read(&mut piece).unwrap(), 0);
    }
}
