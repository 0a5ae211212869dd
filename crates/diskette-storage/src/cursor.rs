//! A storage as the standard library's readers want it.

use std::io::{self, Read, Seek, SeekFrom};

use diskette_core::Storage;

/// Reads a storage from a position of its own: for libraries that know [`Read`] and [`Seek`] alone.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    storage: &'a dyn Storage,
    size: u64,
    at: u64,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(storage: &'a dyn Storage) -> io::Result<Self> {
        Ok(Self {
            storage,
            size: storage.size()?,
            at: 0,
        })
    }
}

impl Read for Cursor<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let len = buf.len().min(left);
        self.storage.read_at(&mut buf[..len], self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

impl Seek for Cursor<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
