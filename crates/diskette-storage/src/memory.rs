//! Host bytes in memory.

use std::io;
use std::sync::{PoisonError, RwLock};

use diskette_core::{Run, RunKind, Storage, StorageMut};

/// Host bytes in memory: for tests, and for images that never see a disk.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    name: String,
    bytes: RwLock<Vec<u8>>,
    limit: Option<usize>,
}

impl MemoryStorage {
    /// A storage that holds `bytes`.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self::named("memory", bytes)
    }

    /// The same, with a name of its own.
    pub fn named(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            bytes: RwLock::new(bytes),
            limit: None,
        }
    }

    /// The same storage, which grows to `bytes` and no further: beyond, it is a full disk
    /// ([`StorageFull`](io::ErrorKind::StorageFull)). An image that is changed can ask for any size, so set a limit
    /// where it is not your own.
    #[must_use]
    pub fn at_most(mut self, bytes: usize) -> Self {
        self.limit = Some(bytes);
        self
    }

    /// A copy of all the bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.read_lock().clone()
    }

    // A panic elsewhere while the lock was held leaves whole bytes behind: go on.
    fn read_lock(&self) -> std::sync::RwLockReadGuard<'_, Vec<u8>> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// At least `end` bytes, or an error: no memory is no reason to abort.
    fn grow(&self, bytes: &mut Vec<u8>, end: usize) -> io::Result<()> {
        let Some(more) = end.checked_sub(bytes.len()) else {
            return Ok(());
        };
        if self.limit.is_some_and(|limit| end > limit) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        bytes
            .try_reserve(more)
            .map_err(|_| io::ErrorKind::OutOfMemory)?;
        bytes.resize(end, 0);
        Ok(())
    }

    fn write_lock(&self) -> std::sync::RwLockWriteGuard<'_, Vec<u8>> {
        self.bytes.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for MemoryStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.read_lock().len() as u64)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.read_lock();
        let range = range(offset, buf.len()).filter(|range| range.end <= bytes.len());
        let range = range.ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(&bytes[range]);
        Ok(())
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        let len = self.size()?.checked_sub(offset).filter(|len| *len > 0);
        Ok(Run {
            len: len.ok_or(io::ErrorKind::UnexpectedEof)?,
            kind: RunKind::Data,
        })
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        None // They can change, and grow.
    }
}

impl StorageMut for MemoryStorage {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let range = range(offset, buf.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        let mut bytes = self.write_lock();
        self.grow(&mut bytes, range.end)?;
        bytes[range].copy_from_slice(buf);
        Ok(())
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let range = range(offset, len).ok_or(io::ErrorKind::FileTooLarge)?;
        let mut bytes = self.write_lock();
        self.grow(&mut bytes, range.end)?;
        bytes[range].fill(0);
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).ok_or(io::ErrorKind::FileTooLarge)?;
        let end = usize::try_from(end).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.grow(&mut self.write_lock(), end)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let size = usize::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = self.write_lock();
        bytes.truncate(size);
        self.grow(&mut bytes, size)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn range(offset: u64, len: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    Some(start..start.checked_add(len)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_past_the_end_grows_the_storage_with_zeros() {
        let memory = MemoryStorage::new(vec![1, 2]);
        memory.write_at(&[3], 4).unwrap();
        assert_eq!(memory.to_vec(), [1, 2, 0, 0, 3]);
        memory.write_zeros(0, 2).unwrap();
        memory.set_size(3).unwrap();
        assert_eq!(memory.to_vec(), [0, 0, 0]);
    }

    #[test]
    fn growth_past_the_limit_or_all_memory_is_an_error_and_changes_nothing() {
        let memory = MemoryStorage::new(vec![1, 2]).at_most(4);
        memory.write_at(&[3], 3).unwrap();
        let full = io::ErrorKind::StorageFull;
        assert_eq!(memory.write_at(&[4], 4).unwrap_err().kind(), full);
        assert_eq!(memory.write_zeros(0, 5).unwrap_err().kind(), full);
        assert_eq!(memory.allocate(0, 5).unwrap_err().kind(), full);
        assert_eq!(memory.set_size(5).unwrap_err().kind(), full);
        assert_eq!(memory.to_vec(), [1, 2, 0, 3]);

        let memory = MemoryStorage::new(vec![1, 2]);
        let error = memory.set_size(1 << 62).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
        assert_eq!(memory.to_vec(), [1, 2]);
    }

    #[test]
    fn a_read_past_the_end_fails() {
        let memory = MemoryStorage::new(vec![1, 2]);
        let error = memory.read_at(&mut [0; 2], 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(memory.read_at(&mut [0; 2], u64::MAX).is_err());
    }
}
