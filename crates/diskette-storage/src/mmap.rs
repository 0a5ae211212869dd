//! A file mapped into memory. The only room of the house with `unsafe` in it.
#![allow(unsafe_code)]

use std::io;
use std::path::Path;

use diskette_core::{Result, Run, Storage};
use memmap2::Mmap;

use crate::FileStorage;
use crate::file::failed;

/// A file mapped into memory: its bytes can be looked at where they lie.
#[derive(Debug)]
pub struct MappedStorage {
    file: FileStorage,
    map: Mmap,
}

impl MappedStorage {
    /// Maps the file at `path`.
    ///
    /// # Safety
    ///
    /// Nobody may change or cut the file while it is mapped: neither this process nor another one. Only the caller can
    /// see to that.
    pub unsafe fn open(path: impl AsRef<Path>) -> Result<Self> {
        let file = FileStorage::open(path)?;
        // SAFETY: the caller promises that the file stays as it is, by this function's own contract.
        let map = unsafe { Mmap::map(file.file()) };
        match map {
            Ok(map) => Ok(Self { file, map }),
            Err(source) => Err(failed("map", file.name().to_owned(), source)),
        }
    }
}

impl Storage for MappedStorage {
    fn name(&self) -> &str {
        self.file.name()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.map.len() as u64)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let bytes = self.map.get(start..).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        self.file.run_at(offset)
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        Some(&self.map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_reads_like_any_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"0123456789").unwrap();
        // SAFETY: the file is this test's own.
        let mapped = unsafe { MappedStorage::open(&path) }.unwrap();
        let mut bytes = [0; 3];
        mapped.read_at(&mut bytes, 4).unwrap();
        assert_eq!(&bytes, b"456");
        assert!(mapped.read_at(&mut bytes, 8).is_err());
        assert!(mapped.read_at(&mut bytes, u64::MAX).is_err());
        assert_eq!(mapped.as_bytes(), Some(&b"0123456789"[..]));
    }
}
