//! A disk, as its guest sees it.

use std::fmt::Debug;

use crate::{Error, Extent, ExtentKind, Result};

/// A disk, as its guest sees it: one image, or a [`Chain`](crate::Chain) of them.
///
/// A format's author writes two things: the map ([`extent_at`](Self::extent_at)), and how to fill a buffer from one
/// extent ([`read_extent`](Self::read_extent)). Reads at any offset and of any length are cut at the extents' edges by
/// [`BlockReaderExt::read_at`], once for all. All offsets are guest offsets.
pub trait BlockReader: Debug + Send + Sync {
    /// The disk's size in bytes.
    fn size(&self) -> u64;

    /// The extent that holds `offset`. It may begin before `offset`; it is never empty, and ends at the disk's size
    /// or before. [`Error::OutOfRange`] at the disk's size and beyond.
    ///
    /// An extent need not be as long as it could be: a map is looked at one table at a time.
    fn extent_at(&self, offset: u64) -> Result<Extent>;

    /// Fills `buf` with the bytes from guest offset `offset` on, all of which lie in `extent`.
    ///
    /// `extent` is one that this reader's [`extent_at`](Self::extent_at) gave, or a part of one
    /// ([`Extent::clip`]). In a single image a hole reads as zeros.
    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()>;
}

/// What is handy on any [`BlockReader`].
pub trait BlockReaderExt: BlockReader {
    /// Fills `buf` whole with the bytes from `offset` on, or fails.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        by_extents(
            buf,
            offset,
            |at| self.extent_at(at),
            |extent, part, at| self.read_extent(extent, part, at),
        )
    }

    /// `len` bytes from `offset` on.
    fn read_vec(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        check_range(self.size(), offset, len as u64)?;
        let mut bytes = vec![0; len];
        self.read_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// The extents from the one that holds `start` up to the end, neighbours joined, the first cut to begin at `start`.
    fn extents_from(&self, start: u64) -> Extents<'_, Self> {
        Extents {
            reader: self,
            next: start,
            failed: false,
        }
    }

    /// All extents of the disk, neighbours joined.
    fn extents(&self) -> Extents<'_, Self> {
        self.extents_from(0)
    }
}

impl<R: BlockReader + ?Sized> BlockReaderExt for R {}

/// Iterates over a disk's extents: they follow one another without a gap, and cover the disk. Ends after an error.
#[derive(Debug)]
pub struct Extents<'a, R: ?Sized> {
    reader: &'a R,
    next: u64,
    failed: bool,
}

impl<R: BlockReader + ?Sized> Iterator for Extents<'_, R> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.next >= self.reader.size() {
            return None;
        }
        let joined = self.joined_at(self.next);
        match &joined {
            Ok(extent) => self.next = extent.end(),
            Err(_) => self.failed = true,
        }
        Some(joined)
    }
}

impl<R: BlockReader + ?Sized> Extents<'_, R> {
    fn joined_at(&self, start: u64) -> Result<Extent> {
        let size = self.reader.size();
        let mut joined = self.reader.extent_at(start)?.clip(start, size);
        while joined.end() < size && !matches!(joined.kind, ExtentKind::Compressed { .. }) {
            // An error behind the run is told when the run has been handed out.
            let Ok(next) = self.reader.extent_at(joined.end()) else {
                break;
            };
            let next = next.clip(joined.end(), size);
            if !joined.continues_into(&next) {
                break;
            }
            joined.len += next.len;
        }
        Ok(joined)
    }
}

/// That `len` bytes at `offset` lie within a disk of `size` bytes; [`Error::OutOfRange`] if not.
pub fn check_range(size: u64, offset: u64, len: u64) -> Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::OutOfRange { offset, len, size }),
    }
}

/// Fills `buf` extent by extent. `fill` gets an extent, a part of the buffer that lies in it, and that part's guest
/// offset.
pub(crate) fn by_extents<E>(
    buf: &mut [u8],
    offset: u64,
    find: impl Fn(u64) -> Result<E>,
    fill: impl Fn(&E, &mut [u8], u64) -> Result<()>,
) -> Result<()>
where
    E: AsRef<Extent>,
{
    let mut rest = buf;
    let mut at = offset;
    while !rest.is_empty() {
        let found = find(at)?;
        let left = found.as_ref().end().saturating_sub(at);
        debug_assert!(
            found.as_ref().offset <= at && left > 0,
            "an extent holds the offset it was asked for"
        );
        let len = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .clamp(1, rest.len());
        let (part, behind) = rest.split_at_mut(len);
        fill(&found, part, at)?;
        rest = behind;
        at += len as u64;
    }
    Ok(())
}

impl AsRef<Self> for Extent {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// Whether `bytes` are all zero. As fast as memory: the compiler makes wide compares of it.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // Most data differs from zero at once; a first look spares the wide loop its start.
    const LANES: usize = 64;
    let mut chunks = bytes.chunks_exact(LANES * 4);
    for chunk in &mut chunks {
        let mut lanes = [0_u8; LANES];
        for part in chunk.chunks_exact(LANES) {
            for (lane, byte) in lanes.iter_mut().zip(part) {
                *lane |= byte;
            }
        }
        if lanes.iter().fold(0, |all, lane| all | lane) != 0 {
            return false;
        }
    }
    chunks.remainder().iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HostOffset;

    /// 4 bytes of data, 4 of zeros, and so on, reported 2 bytes at a time.
    #[derive(Debug)]
    struct Striped(u64);

    impl BlockReader for Striped {
        fn size(&self) -> u64 {
            self.0
        }

        fn extent_at(&self, offset: u64) -> Result<Extent> {
            check_range(self.0, offset, 1)?;
            let start = offset & !1;
            let kind = if start & 4 == 0 {
                ExtentKind::Data(HostOffset::new(start))
            } else {
                ExtentKind::Zero(None)
            };
            Ok(Extent::new(start, 2.min(self.0 - start), kind))
        }

        fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
            for (at, byte) in (offset..).zip(buf) {
                *byte = if extent.kind.reads_as_zeros() {
                    0
                } else {
                    u8::try_from(at).unwrap()
                };
            }
            Ok(())
        }
    }

    #[test]
    fn a_read_is_put_together_from_extents() {
        assert_eq!(
            Striped(12).read_vec(1, 10).unwrap(),
            [1, 2, 3, 0, 0, 0, 0, 8, 9, 10]
        );
    }

    #[test]
    fn a_read_past_the_end_is_refused() {
        assert!(matches!(
            Striped(12).read_vec(11, 2),
            Err(Error::OutOfRange {
                offset: 11,
                len: 2,
                size: 12
            })
        ));
        assert!(matches!(
            Striped(12).read_at(&mut [0; 2], u64::MAX),
            Err(Error::OutOfRange { .. })
        ));
        assert!(Striped(12).read_at(&mut [], 12).is_ok());
    }

    #[test]
    fn neighbours_are_joined_when_extents_are_listed() {
        let found: Vec<_> = Striped(11)
            .extents_from(1)
            .map(|extent| extent.unwrap())
            .map(|e| (e.offset, e.len))
            .collect();
        assert_eq!(found, [(1, 3), (4, 4), (8, 3)]);
    }

    #[test]
    fn one_byte_anywhere_is_not_zero() {
        for len in [0, 1, 63, 64, 255, 256, 257, 1000] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in 0..len {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "byte {at} of {len}");
                bytes[at] = 0;
            }
        }
    }
}
