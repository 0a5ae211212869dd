//! Host bytes: where an image's own bytes lie.

use std::fmt::Debug;
use std::io;

use crate::{Error, Result};

/// Host bytes at host offsets: a file, memory, an HTTP object, a part of another storage.
///
/// All calls are positional and take `&self`: any number of threads may read at once.
pub trait Storage: Debug + Send + Sync {
    /// For messages, and to tell one storage from another: a path, a URL, "memory".
    fn name(&self) -> &str;

    /// How many bytes there are now.
    fn size(&self) -> io::Result<u64>;

    /// How many bytes the host keeps for them: fewer where there are holes, more where space is reserved. All of them
    /// where nobody knows.
    fn allocated(&self) -> io::Result<u64>;

    /// Fills `buf` whole, or fails; past the end with [`io::ErrorKind::UnexpectedEof`].
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// The run that holds `offset`, from `offset` on, and whether the host holds bytes for it.
    /// `offset` lies before the end.
    fn run_at(&self, offset: u64) -> io::Result<Run>;

    /// All the bytes, where they lie in memory already.
    fn as_bytes(&self) -> Option<&[u8]>;
}

/// Host bytes that can be changed.
pub trait StorageMut: Storage {
    /// Writes `buf` whole, or fails. Grows the storage where it ends before `offset + buf.len()`.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Makes a range read as zeros, and frees the host's space where it can. Grows like [`write_at`](Self::write_at).
    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Reserves the host's space for a range, without changing what is read there. Grows like
    /// [`write_at`](Self::write_at); what is new reads as zeros.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Cuts or grows the storage. What is new reads as zeros.
    fn set_size(&self, size: u64) -> io::Result<()>;

    /// Returns when all that was written is on stable storage.
    fn sync(&self) -> io::Result<()>;
}

/// A run of host bytes, all of one kind. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its bytes; never 0.
    pub len: u64,
    /// What is there.
    pub kind: RunKind,
}

/// Whether the host holds bytes. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunKind {
    /// The host holds bytes.
    Data,
    /// The host holds none; zeros are read.
    Hole,
}

/// What is handy on any [`Storage`], with the library's own error.
pub trait StorageExt: Storage {
    /// [`size`](Storage::size), with an error that names the storage.
    fn total_size(&self) -> Result<u64> {
        self.size()
            .map_err(|source| self.failed("size", 0, 0, source))
    }

    /// [`read_at`](Storage::read_at), with an error that names storage, offset and length.
    fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let len = buf.len() as u64;
        self.read_at(buf, offset)
            .map_err(|source| self.failed("read", offset, len, source))
    }

    /// `len` bytes from `offset` on. The caller has bounded `len`.
    fn read_vec(&self, len: usize, offset: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.read(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Fills `buf` with what there is from `offset` on, and with zeros from the storage's end on. Gives the number of
    /// bytes that were there.
    fn read_padded(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let there = usize::try_from(self.total_size()?.saturating_sub(offset))
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let (head, tail) = buf.split_at_mut(there);
        if !head.is_empty() {
            self.read(head, offset)?;
        }
        tail.fill(0);
        Ok(there)
    }

    /// [`run_at`](Storage::run_at), with an error that names the storage.
    fn run(&self, offset: u64) -> Result<Run> {
        self.run_at(offset)
            .map_err(|source| self.failed("find data or hole in", offset, 0, source))
    }

    /// The library's error for an operation of this storage that failed.
    fn failed(&self, op: &'static str, offset: u64, len: u64, source: io::Error) -> Error {
        Error::Io {
            storage: self.name().to_owned(),
            op,
            offset,
            len,
            source,
        }
    }
}

impl<S: Storage + ?Sized> StorageExt for S {}
