//! The files of an image in parts, as one storage.

use std::io;
use std::sync::Arc;

use diskette_core::{Run, RunKind, Storage, StorageMut};

/// Several storages, each with a room of its own: what lies at `stride` times its number, plus an offset within it.
#[derive(Debug)]
pub(super) struct Joined {
    name: String,
    stride: u64,
    parts: Vec<Arc<dyn StorageMut>>,
}

impl Joined {
    /// `parts` in rooms of `stride` bytes; under a name for messages.
    pub(super) const fn new(name: String, stride: u64, parts: Vec<Arc<dyn StorageMut>>) -> Self {
        Self {
            name,
            stride,
            parts,
        }
    }

    /// Calls `act` for each part that a range touches: with the part, the offset within it, and where of the range that is.
    fn by_parts(
        &self,
        offset: u64,
        len: u64,
        mut act: impl FnMut(&dyn StorageMut, u64, std::ops::Range<u64>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let part = usize::try_from(at / self.stride).ok();
            let part = part.and_then(|number| self.parts.get(number));
            let part = part.ok_or(io::ErrorKind::UnexpectedEof)?;
            let within = at % self.stride;
            let piece = (self.stride - within).min(len - done);
            act(&**part, within, done..done + piece)?;
            done += piece;
        }
        Ok(())
    }
}

fn slice(range: std::ops::Range<u64>) -> std::ops::Range<usize> {
    // Within a buffer.
    let index = |number| usize::try_from(number).unwrap_or(usize::MAX);
    index(range.start)..index(range.end)
}

impl Storage for Joined {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> io::Result<u64> {
        match self.parts.split_last() {
            Some((last, others)) => Ok(others.len() as u64 * self.stride + last.size()?),
            None => Ok(0),
        }
    }

    fn allocated(&self) -> io::Result<u64> {
        self.parts.iter().map(|part| part.allocated()).sum()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let len = buf.len() as u64;
        self.by_parts(offset, len, |part, at, range| {
            part.read_at(&mut buf[slice(range)], at)
        })
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        let mut found = None;
        self.by_parts(offset, 1, |part, at, _| {
            let size = part.size()?;
            found = Some(match at < size {
                true => part.run_at(at)?,
                // A room that is not filled.
                false => Run {
                    len: self.stride - at,
                    kind: RunKind::Hole,
                },
            });
            Ok(())
        })?;
        found.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        None
    }
}

impl StorageMut for Joined {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.by_parts(offset, buf.len() as u64, |part, at, range| {
            part.write_at(&buf[slice(range)], at)
        })
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        self.by_parts(offset, len, |part, at, range| {
            part.write_zeros(at, range.end - range.start)
        })
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.by_parts(offset, len, |part, at, range| {
            part.allocate(at, range.end - range.start)
        })
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let mut rest = size;
        for part in &self.parts {
            part.set_size(rest.min(self.stride))?;
            rest = rest.saturating_sub(self.stride);
        }
        match rest {
            0 => Ok(()),
            _ => Err(io::ErrorKind::FileTooLarge.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.parts.iter().try_for_each(|part| part.sync())
    }
}

#[cfg(test)]
mod tests {
    use diskette_storage::MemoryStorage;

    use super::*;

    #[test]
    fn what_crosses_from_one_part_into_the_next_is_parted() {
        let parts = [(); 3].map(|()| Arc::new(MemoryStorage::default()));
        let all = parts.clone().map(|part| part as Arc<dyn StorageMut>);
        let joined = Joined::new("all".to_owned(), 10, all.to_vec());
        joined.set_size(25).unwrap();
        joined.write_at(b"abcdefghijklmn", 8).unwrap();
        assert_eq!(parts[0].to_vec(), b"\0\0\0\0\0\0\0\0ab");
        assert_eq!(parts[1].to_vec(), b"cdefghijkl");
        assert_eq!(parts[2].to_vec(), b"mn\0\0\0");
        joined.write_zeros(9, 2).unwrap();
        let mut read = [0; 4];
        joined.read_at(&mut read, 8).unwrap();
        assert_eq!(&read, b"a\0\0d");
        assert_eq!(joined.size().unwrap(), 25);
        assert!(joined.write_at(b"x", 30).is_err());
        assert!(joined.set_size(31).is_err());
    }
}
