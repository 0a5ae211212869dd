//! From a guest offset to the part that holds it, and to an extent there.

use diskette_core::{Extent, Result};

use crate::flat::Flat;
use crate::grains::Grains;
use crate::sesparse::SeSparseEntries;
use crate::sparse::SectorEntries;

/// What VMDK calls an extent: a run of the disk that is kept in its own way, mostly in its own file.
#[derive(Debug)]
pub(crate) struct Part {
    /// Guest offset of its first byte.
    pub start: u64,
    /// Its bytes; never 0.
    pub size: u64,
    /// The number of its file.
    pub file: u16,
    /// The word for its kind in the descriptor; empty for an extent that bears the descriptor itself.
    pub word: String,
    /// How it is kept.
    pub kept: Kept,
}

/// How a part is kept.
#[derive(Debug)]
pub(crate) enum Kept {
    /// Not at all: zeros.
    Zero,
    /// As it is.
    Flat(Flat),
    /// In grains of a hosted sparse extent, or of COWD.
    Sparse(Grains<SectorEntries>),
    /// In grains of a seSparse extent.
    SeSparse(Grains<SeSparseEntries>),
}

/// The parts of a disk, in its order, without gaps.
#[derive(Debug, Default)]
pub(crate) struct Map {
    parts: Vec<Part>,
    size: u64,
}

impl Map {
    /// Puts one more part behind the others. One of no bytes is left out. `None`, and nothing is done, where the disk
    /// would be larger than any.
    pub(crate) fn push(&mut self, size: u64, file: u16, word: &str, kept: Kept) -> Option<()> {
        let end = self.size.checked_add(size).filter(|end| *end < 1 << 63)?;
        if size > 0 {
            self.parts.push(Part {
                start: self.size,
                size,
                file,
                word: word.to_owned(),
                kept,
            });
        }
        self.size = end;
        Some(())
    }

    /// Bytes of the disk.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// All parts.
    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The part that holds `offset`, if the disk does.
    pub(crate) fn part_at(&self, offset: u64) -> Option<&Part> {
        let index = self.parts.partition_point(|part| part.end() <= offset);
        self.parts.get(index)
    }
}

impl Part {
    /// Guest offset of the first byte behind it.
    const fn end(&self) -> u64 {
        self.start.saturating_add(self.size)
    }

    /// The extent that holds guest offset `offset` of the disk.
    pub(crate) fn extent_at(&self, offset: u64) -> Result<Extent> {
        let within = offset.saturating_sub(self.start);
        let extent = match &self.kept {
            Kept::Zero => Extent::zero(0, self.size),
            Kept::Flat(flat) => flat.extent_at(within)?,
            Kept::Sparse(grains) => grains.extent_at(within)?,
            Kept::SeSparse(grains) => grains.extent_at(within)?,
        };
        Ok(Extent {
            offset: self.start.saturating_add(extent.offset),
            len: extent.len,
            kind: extent.kind.in_files(|_| self.file),
        })
    }

    /// Bytes of a grain, where there are grains.
    pub(crate) const fn grain_size(&self) -> Option<u64> {
        match &self.kept {
            Kept::Zero | Kept::Flat(_) => None,
            Kept::Sparse(grains) => Some(grains.grain_size),
            Kept::SeSparse(grains) => Some(grains.grain_size),
        }
    }

    /// Whether its grains are compressed.
    pub(crate) const fn is_compressed(&self) -> bool {
        match &self.kept {
            Kept::Sparse(grains) => grains.compressed,
            Kept::Zero | Kept::Flat(_) | Kept::SeSparse(_) => false,
        }
    }
}
