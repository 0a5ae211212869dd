//! What is where in a chain, as qemu-img's `map` tells it.

use diskette_core::{BlockReader, Chain, Extent, ExtentKind, HostOffset, Result};

/// A run of the disk, all of one kind and from one layer. Complete by nature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// Guest offset of its first byte.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// The layer that says so; 0 is the uppermost.
    pub depth: usize,
    /// Whether a layer says anything about it.
    pub present: bool,
    /// Whether it reads as zeros, as the map knows.
    pub zero: bool,
    /// Whether bytes are stored for it, be they zeros.
    pub data: bool,
    /// Whether what is stored is compressed.
    pub compressed: bool,
    /// Where it lies, if it lies there as it is.
    pub at: Option<u64>,
    /// The file in which it lies.
    pub file: Option<String>,
}

/// The entries of a map, one after another without a gap. Ends after an error.
#[derive(Debug)]
pub struct Map<'a> {
    chain: &'a Chain,
    next: u64,
    end: u64,
    /// Found, but perhaps to be joined with what follows.
    waiting: Option<MapEntry>,
}

/// The map of a disk from `start` up to `end` or to the disk's end, neighbours joined.
#[must_use]
pub fn map(chain: &Chain, start: u64, end: u64) -> Map<'_> {
    Map {
        chain,
        next: start,
        end: end.min(chain.size()),
        waiting: None,
    }
}

impl Iterator for Map<'_> {
    type Item = Result<MapEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.next < self.end {
            let entry = match self.entry_at(self.next) {
                Ok(entry) => entry,
                Err(error) => {
                    self.end = self.next;
                    self.waiting = None;
                    return Some(Err(error));
                }
            };
            self.next = entry.end();
            match &mut self.waiting {
                Some(waiting) if waiting.continues_into(&entry) => waiting.len += entry.len,
                waiting => {
                    if let Some(done) = waiting.replace(entry) {
                        return Some(Ok(done));
                    }
                }
            }
        }
        self.waiting.take().map(Ok)
    }
}

impl Map<'_> {
    fn entry_at(&self, offset: u64) -> Result<MapEntry> {
        let (depth, extent) = self.chain.find(offset)?;
        let extent = extent.clip(offset, self.end);
        let place = place(&extent);
        let files = &self.chain.layers()[depth].info.files;
        let file = place.and_then(|at| files.get(usize::from(at.file)));
        Ok(MapEntry {
            offset,
            len: extent.len,
            depth,
            present: !matches!(extent.kind, ExtentKind::Hole(_)),
            zero: extent.kind.reads_as_zeros(),
            data: match extent.kind {
                ExtentKind::Data(_)
                | ExtentKind::Encrypted(_)
                | ExtentKind::Compressed { .. }
                | ExtentKind::Unwritten(_) => true,
                ExtentKind::Zero(_) | ExtentKind::Hole(_) => false,
            },
            compressed: matches!(extent.kind, ExtentKind::Compressed { .. }),
            at: place.map(|at| at.offset),
            file: file.cloned(),
        })
    }
}

impl MapEntry {
    const fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    fn continues_into(&self, next: &Self) -> bool {
        let moved = Self {
            offset: next.offset,
            len: next.len,
            at: self.at.map(|at| at.wrapping_add(self.len)),
            ..self.clone()
        };
        self.end() == next.offset && moved == *next
    }
}

/// Where an extent lies, if it lies there as it is.
const fn place(extent: &Extent) -> Option<HostOffset> {
    match extent.kind {
        ExtentKind::Data(at) | ExtentKind::Unwritten(at) => Some(at),
        ExtentKind::Zero(at) | ExtentKind::Hole(at) => at,
        ExtentKind::Encrypted(_) | ExtentKind::Compressed { .. } => None,
    }
}
