//! What is written from its first byte to its last: a pipe, a socket, a file in an archive.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use diskette_core::{Result, Run, RunKind, Storage, StorageExt, StorageMut};

/// A storage that takes bytes in ascending order and passes them on, with zeros for what was passed over. It cannot be
/// read, and what has passed cannot be changed. [`finish`](Self::finish) it: the end may be zeros, which are still to come.
pub struct SequentialStorage {
    name: String,
    sink: Mutex<Sink>,
}

/// Where the bytes go.
struct Sink {
    to: Box<dyn Write + Send>,
    /// Bytes that were passed on.
    passed: u64,
    /// Bytes that there will be at least.
    size: u64,
}

impl SequentialStorage {
    /// Passes bytes on `to`; error messages call it `name`.
    pub fn new(name: impl Into<String>, to: Box<dyn Write + Send>) -> Self {
        Self {
            name: name.into(),
            sink: Mutex::new(Sink {
                to,
                passed: 0,
                size: 0,
            }),
        }
    }

    /// Passes on what there is still to come. Gives the number of bytes in all.
    pub fn finish(&self) -> Result<u64> {
        let mut sink = self.sink();
        let passed = sink.passed;
        let size = sink.size;
        sink.zeros_up_to(size)
            .and_then(|()| sink.to.flush())
            .map_err(|source| self.failed("write", passed, size - passed, source))?;
        Ok(size)
    }

    /// A panic elsewhere ends all writing; the counts are whole.
    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the storage end at `end` or behind it.
    fn grow(&self, end: Option<u64>) -> io::Result<()> {
        let end = end.ok_or(ErrorKind::InvalidInput)?;
        let mut sink = self.sink();
        sink.size = sink.size.max(end);
        Ok(())
    }
}

impl Sink {
    fn zeros_up_to(&mut self, end: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        while self.passed < end {
            let len = usize::try_from(end - self.passed).unwrap_or(usize::MAX);
            let piece = &ZEROS[..len.min(ZEROS.len())];
            self.to.write_all(piece)?;
            self.passed += piece.len() as u64;
        }
        Ok(())
    }

    /// That nothing before `offset` is still to be changed.
    fn expect_ahead(&self, offset: u64) -> io::Result<()> {
        match offset >= self.passed {
            true => Ok(()),
            false => Err(io::Error::new(
                ErrorKind::NotSeekable,
                "what is written in order cannot be changed behind",
            )),
        }
    }
}

impl Storage for SequentialStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.sink().size)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.size()
    }

    fn read_at(&self, buf: &mut [u8], _offset: u64) -> io::Result<()> {
        match buf.is_empty() {
            true => Ok(()),
            false => Err(ErrorKind::NotSeekable.into()),
        }
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        Ok(Run {
            len: self.size()?.saturating_sub(offset).max(1),
            kind: RunKind::Data,
        })
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        None
    }
}

impl StorageMut for SequentialStorage {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        let end = offset.checked_add(buf.len() as u64);
        let end = end.ok_or(ErrorKind::InvalidInput)?;
        let mut sink = self.sink();
        sink.expect_ahead(offset)?;
        sink.zeros_up_to(offset)?;
        sink.to.write_all(buf)?;
        sink.passed = end;
        sink.size = sink.size.max(end);
        Ok(())
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        self.sink().expect_ahead(offset)?;
        self.grow(offset.checked_add(len))
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.grow(offset.checked_add(len))
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let mut sink = self.sink();
        sink.expect_ahead(size)?;
        sink.size = size;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.sink().to.flush()
    }
}

impl fmt::Debug for SequentialStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SequentialStorage")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Bytes that a test looks at while they are written.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<u8>>>);

    impl Write for Seen {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(buf);
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_passed_over_becomes_zeros() {
        let seen = Seen::default();
        let storage = SequentialStorage::new("pipe", Box::new(seen.clone()));
        storage.set_size(0).unwrap();
        storage.write_at(b"ab", 1).unwrap();
        storage.write_zeros(3, 2).unwrap();
        storage.write_at(b"c", 6).unwrap();
        storage.set_size(10).unwrap();
        assert_eq!(*seen.0.lock().unwrap(), b"\0ab\0\0\0c");
        assert_eq!(
            (storage.size().unwrap(), storage.finish().unwrap()),
            (10, 10)
        );
        assert_eq!(*seen.0.lock().unwrap(), b"\0ab\0\0\0c\0\0\0");
    }

    #[test]
    fn what_has_passed_cannot_be_changed() {
        let storage = SequentialStorage::new("pipe", Box::new(io::sink()));
        storage.write_at(b"abcd", 0).unwrap();
        assert!(storage.write_at(b"x", 3).is_err());
        assert!(storage.write_zeros(0, 1).is_err());
        assert!(storage.set_size(3).is_err());
        assert!(storage.read_at(&mut [0], 0).is_err());
        storage.write_at(b"x", 4).unwrap();
        assert_eq!(storage.finish().unwrap(), 5);
    }
}
