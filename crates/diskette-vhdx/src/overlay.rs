//! A file with changes laid over it in memory. The file itself is never written.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use diskette_core::{Result, Run, RunKind, Storage, StorageExt, StorageMut};

/// The unit of change.
pub(crate) const SECTOR_LEN: u64 = 4096;

/// A storage with sectors and runs of zeros over it.
#[derive(Debug)]
pub(crate) struct Overlay {
    below: Arc<dyn Storage>,
    /// The size of what lies below.
    below_size: u64,
    /// The size with the changes.
    size: u64,
    /// By their offset; they do not overlap.
    changes: BTreeMap<u64, Change>,
    /// Sectors among them.
    sector_count: u64,
}

#[derive(Debug)]
struct Change {
    end: u64,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Zeros,
    /// A whole sector.
    Sector(Box<[u8]>),
}

impl Overlay {
    /// `below`, which has `size` bytes, unchanged.
    pub(crate) fn new(below: Arc<dyn Storage>, size: u64) -> Self {
        Self {
            below,
            below_size: size,
            size,
            changes: BTreeMap::new(),
            sector_count: 0,
        }
    }

    /// Lays zeros over a range. Offset and length are multiples of [`SECTOR_LEN`], and their sum is a `u64`.
    pub(crate) fn put_zeros(&mut self, offset: u64, len: u64) {
        self.put(offset, len, Content::Zeros);
    }

    /// Lays a sector over the one at `offset`, a multiple of [`SECTOR_LEN`].
    pub(crate) fn put_sector(&mut self, offset: u64, sector: Vec<u8>) {
        self.sector_count += 1;
        self.put(offset, SECTOR_LEN, Content::Sector(sector.into()));
    }

    /// Makes the storage `size` bytes long, if it is shorter.
    pub(crate) fn grow_to(&mut self, size: u64) {
        self.size = self.size.max(size);
    }

    /// Makes the changes in the file itself, which is the one that lies below, and returns when they are on stable storage.
    pub(crate) fn write_to(&self, file: &dyn StorageMut) -> Result<()> {
        for (&offset, change) in &self.changes {
            let len = change.end - offset;
            let written = match &change.content {
                Content::Sector(sector) => file.write_at(sector, offset),
                // What lies past the end is zeros once the file has grown.
                Content::Zeros if offset >= self.below_size => Ok(()),
                Content::Zeros => file.write_zeros(offset, len.min(self.below_size - offset)),
            };
            written.map_err(|source| file.failed("write", offset, len, source))?;
        }
        let grown = match file.total_size()? < self.size {
            true => file.set_size(self.size),
            false => Ok(()),
        };
        grown
            .and_then(|()| file.sync())
            .map_err(|source| file.failed("grow", self.size, 0, source))
    }

    /// About how many bytes of memory the changes take.
    pub(crate) fn memory(&self) -> u64 {
        const EACH: u64 = 64;
        self.changes.len() as u64 * EACH + self.sector_count * SECTOR_LEN
    }

    fn put(&mut self, offset: u64, len: u64, content: Content) {
        if len == 0 {
            return;
        }
        let end = offset + len;
        self.split_at(offset);
        self.split_at(end);
        while let Some((&start, _)) = self.changes.range(offset..end).next() {
            if let Some(Change {
                content: Content::Sector(_),
                ..
            }) = self.changes.remove(&start)
            {
                self.sector_count -= 1;
            }
        }
        self.changes.insert(offset, Change { end, content });
        self.grow_to(end);
    }

    /// Cuts a change in two that lies on both sides of `offset`. Only zeros can: all is aligned to sectors.
    fn split_at(&mut self, offset: u64) {
        let Some((_, change)) = self.changes.range_mut(..offset).next_back() else {
            return;
        };
        if change.end > offset {
            let behind = Change {
                end: change.end,
                content: change.content.clone(),
            };
            change.end = offset;
            self.changes.insert(offset, behind);
        }
    }

    /// The changes that overlap a range, in order.
    fn changes_in(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, &Change)> {
        let before = self.changes.range(..start).next_back();
        before
            .into_iter()
            .chain(self.changes.range(start..end))
            .map(|(&offset, change)| (offset, change))
            .filter(move |(_, change)| change.end > start)
    }

    /// What lies below, and zeros from its end on.
    fn read_below(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let there = usize::try_from(self.below_size.saturating_sub(offset))
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let (head, tail) = buf.split_at_mut(there);
        tail.fill(0);
        if head.is_empty() {
            return Ok(());
        }
        self.below.read_at(head, offset)
    }
}

impl Storage for Overlay {
    fn name(&self) -> &str {
        self.below.name()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.below.allocated()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset
            .checked_add(buf.len() as u64)
            .filter(|end| *end <= self.size)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        self.read_below(buf, offset)?;
        for (start, change) in self.changes_in(offset, end) {
            let from = start.max(offset);
            let until = change.end.min(end);
            let part = &mut buf[index(from - offset)..index(until - offset)];
            match &change.content {
                Content::Zeros => part.fill(0),
                Content::Sector(sector) => {
                    part.copy_from_slice(&sector[index(from - start)..index(until - start)]);
                }
            }
        }
        Ok(())
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        if offset >= self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut changes = self.changes_in(offset, self.size);
        let (len, kind) = match changes.next() {
            Some((start, change)) if start <= offset => {
                let kind = match change.content {
                    Content::Zeros => RunKind::Hole,
                    Content::Sector(_) => RunKind::Data,
                };
                (change.end - offset, kind)
            }
            change => {
                let next = change.map_or(self.size, |(start, _)| start);
                if offset < self.below_size {
                    let run = self.below.run_at(offset)?;
                    (run.len.min(next - offset), run.kind)
                } else {
                    (next - offset, RunKind::Hole)
                }
            }
        };
        Ok(Run { len, kind })
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        None
    }
}

/// An index into a buffer, of which it is known that it lies within.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use diskette_core::StorageExt;
    use diskette_storage::MemoryStorage;

    const S: u64 = SECTOR_LEN;

    fn overlay(sectors: usize) -> Overlay {
        let bytes = vec![1; sectors * index(S)];
        let size = bytes.len() as u64;
        Overlay::new(Arc::new(MemoryStorage::new(bytes)), size)
    }

    /// The first byte of each sector.
    fn sectors(overlay: &Overlay) -> Vec<u8> {
        let bytes = overlay.read_vec(index(overlay.size().unwrap()), 0).unwrap();
        bytes.chunks(index(S)).map(|sector| sector[0]).collect()
    }

    #[test]
    fn later_changes_hide_earlier_ones() {
        let mut overlay = overlay(8);
        overlay.put_sector(2 * S, vec![7; 4096]);
        overlay.put_zeros(S, 5 * S);
        overlay.put_sector(3 * S, vec![9; 4096]);
        assert_eq!(sectors(&overlay), [1, 0, 0, 9, 0, 0, 1, 1]);
        assert_eq!(overlay.sector_count, 1);
        assert_eq!(overlay.changes.len(), 3);
    }

    #[test]
    fn what_lies_past_the_old_end_is_zeros_and_holes() {
        let mut overlay = overlay(2);
        overlay.put_sector(4 * S, vec![5; 4096]);
        overlay.grow_to(6 * S);
        assert_eq!(sectors(&overlay), [1, 1, 0, 0, 5, 0]);
        let runs: Vec<_> = [0, S, 2 * S, 4 * S, 5 * S]
            .map(|at| overlay.run_at(at).unwrap())
            .map(|run| (run.len / S, run.kind))
            .into();
        assert_eq!(
            runs,
            [
                (2, RunKind::Data),
                (1, RunKind::Data),
                (2, RunKind::Hole),
                (1, RunKind::Data),
                (1, RunKind::Hole)
            ]
        );
        assert!(overlay.run_at(6 * S).is_err());
        assert!(overlay.read_vec(1, 6 * S).is_err());
    }

    #[test]
    fn reads_at_odd_offsets_see_parts_of_changes() {
        let mut overlay = overlay(3);
        overlay.put_sector(S, (2..=255).cycle().take(4096).collect());
        let bytes = overlay.read_vec(4, S - 2).unwrap();
        assert_eq!(bytes, [1, 1, 2, 3]);
        let bytes = overlay.read_vec(2, S + 10).unwrap();
        assert_eq!(bytes, [12, 13]);
    }
}
