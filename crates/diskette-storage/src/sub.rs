//! A part of another storage: an image inside of a container.

use std::io;
use std::sync::Arc;

use diskette_core::{Error, Result, Run, Storage, StorageExt};

/// Some bytes of another storage, counted from 0.
#[derive(Debug)]
pub struct SubStorage {
    name: String,
    whole: Arc<dyn Storage>,
    start: u64,
    size: u64,
}

impl SubStorage {
    /// `size` bytes of `whole` from `start` on, which must be there.
    pub fn new(
        whole: Arc<dyn Storage>,
        start: u64,
        size: u64,
        name: impl Into<String>,
    ) -> Result<Self> {
        let there = whole.total_size()?;
        if start.checked_add(size).is_none_or(|end| end > there) {
            return Err(Error::OutOfRange {
                offset: start,
                len: size,
                size: there,
            });
        }
        Ok(Self {
            name: name.into(),
            whole,
            start,
            size,
        })
    }

    /// What is left from `offset` on; an error where that is less than `len`.
    fn left(&self, offset: u64, len: u64) -> io::Result<u64> {
        let left = self.size.checked_sub(offset).filter(|left| *left >= len);
        left.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl Storage for SubStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.size) // Nobody knows of a part.
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.left(offset, buf.len() as u64)?;
        self.whole.read_at(buf, self.start + offset)
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        let left = self.left(offset, 1)?;
        let run = self.whole.run_at(self.start + offset)?;
        Ok(Run {
            len: run.len.min(left),
            ..run
        })
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        let start = usize::try_from(self.start).ok()?;
        let size = usize::try_from(self.size).ok()?;
        self.whole.as_bytes()?.get(start..)?.get(..size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStorage;

    #[test]
    fn a_part_ends_where_it_ends() {
        let whole = Arc::new(MemoryStorage::new((0..10).collect()));
        let part = SubStorage::new(whole.clone(), 3, 4, "part").unwrap();
        let mut bytes = [0; 4];
        part.read_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [3, 4, 5, 6]);
        assert!(part.read_at(&mut bytes, 1).is_err());
        assert!(part.read_at(&mut bytes, u64::MAX).is_err());
        assert_eq!(part.run_at(1).unwrap().len, 3);
        assert!(SubStorage::new(whole, 8, 3, "too long").is_err());
    }
}
