//! Where an image holds data: on the disk as the guest sees it, and in its own file.

use diskette_core::{BlockReader, BlockReaderExt, ExtentKind, HostOffset, Result};

/// A disk and its file, each cut into equal parts.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Picture {
    /// Bytes of the disk.
    pub disk_size: u64,
    /// Bytes of the first file.
    pub file_size: u64,
    /// The disk, from its beginning to its end.
    pub disk: Vec<Cell>,
    /// The first file. What no extent lies in is the format's own: header, tables, or nothing.
    pub file: Vec<Cell>,
    /// The whole disk.
    pub total: Cell,
    /// Number of extents.
    pub extents: u64,
}

/// What is in one part: bytes by kind. They may be fewer than the part has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cell {
    /// Stored as it is.
    pub data: u64,
    /// Of the disk: bytes that are stored compressed. Of a file: the compressed bytes.
    pub compressed: u64,
    /// Reads as zeros because the image says so.
    pub zero: u64,
    /// The image says nothing.
    pub hole: u64,
}

/// The kinds of a [`Cell`], for showing. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Stored as it is.
    Data,
    /// Stored compressed.
    Compressed,
    /// Zeros.
    Zero,
    /// Nothing.
    Hole,
}

impl Picture {
    /// The picture of `disk`, whose first file has `file_size` bytes, in `cells` parts each. Walks the map.
    pub fn of(disk: &dyn BlockReader, file_size: u64, cells: usize) -> Result<Self> {
        let cells = cells.max(1);
        let disk_size = disk.size();
        let mut picture = Self {
            disk_size,
            file_size,
            disk: vec![Cell::default(); cells],
            file: vec![Cell::default(); cells],
            total: Cell::default(),
            extents: 0,
        };
        for extent in disk.extents() {
            let extent = extent?;
            let share = Share::of(&extent.kind);
            picture.extents += 1;
            *picture.total.of_mut(share) += extent.len;
            spread(
                &mut picture.disk,
                disk_size,
                extent.offset,
                extent.len,
                share,
            );
            let (at, len) = match extent.kind {
                ExtentKind::Data(at) => (at, extent.len),
                ExtentKind::Compressed { at, len } => (at, len),
                ExtentKind::Unwritten(_) | ExtentKind::Zero(_) | ExtentKind::Hole(_) => continue,
            };
            if let HostOffset { file: 0, offset } = at {
                spread(&mut picture.file, file_size, offset, len, share);
            }
        }
        Ok(picture)
    }

    /// One line for a terminal: a sign for each part of the disk, by what most of it is.
    #[must_use]
    pub fn bar(&self) -> String {
        self.disk.iter().map(|cell| cell.most().sign()).collect()
    }
}

/// Shares a run out among the parts that it touches.
fn spread(cells: &mut [Cell], size: u64, offset: u64, len: u64, share: Share) {
    let count = cells.len() as u128;
    if size == 0 || len == 0 || offset >= size {
        return;
    }
    let end = offset.saturating_add(len).min(size);
    let border =
        |index: usize| u64::try_from(u128::from(size) * index as u128 / count).unwrap_or(size);
    let first = usize::try_from(u128::from(offset) * count / u128::from(size)).unwrap_or(0);
    // The first border may lie behind `offset` by rounding: begin one part earlier.
    for (index, cell) in cells.iter_mut().enumerate().skip(first.saturating_sub(1)) {
        let (from, to) = (border(index), border(index + 1));
        if from >= end {
            break;
        }
        *cell.of_mut(share) += to.min(end).saturating_sub(from.max(offset));
    }
}

impl Cell {
    /// Bytes of one kind.
    #[must_use]
    pub const fn of(&self, share: Share) -> u64 {
        match share {
            Share::Data => self.data,
            Share::Compressed => self.compressed,
            Share::Zero => self.zero,
            Share::Hole => self.hole,
        }
    }

    const fn of_mut(&mut self, share: Share) -> &mut u64 {
        match share {
            Share::Data => &mut self.data,
            Share::Compressed => &mut self.compressed,
            Share::Zero => &mut self.zero,
            Share::Hole => &mut self.hole,
        }
    }

    /// The kind that has most of it; what is stored wins over what is not where both are there.
    #[must_use]
    pub fn most(&self) -> Share {
        let stored = self.data + self.compressed;
        if stored > 0 && stored >= (self.zero + self.hole) / 8 {
            return if self.data >= self.compressed {
                Share::Data
            } else {
                Share::Compressed
            };
        }
        if self.zero > self.hole {
            Share::Zero
        } else {
            Share::Hole
        }
    }
}

impl Share {
    /// All kinds, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Data, Self::Compressed, Self::Zero, Self::Hole];

    const fn of(kind: &ExtentKind) -> Self {
        match kind {
            ExtentKind::Data(_) => Self::Data,
            ExtentKind::Compressed { .. } => Self::Compressed,
            ExtentKind::Zero(_) | ExtentKind::Unwritten(_) => Self::Zero,
            ExtentKind::Hole(_) => Self::Hole,
        }
    }

    /// Its name, for a legend.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Compressed => "compressed",
            Self::Zero => "zero",
            Self::Hole => "hole",
        }
    }

    /// Its sign on a terminal.
    #[must_use]
    pub const fn sign(self) -> char {
        match self {
            Self::Data => '█',
            Self::Compressed => '▓',
            Self::Zero => '░',
            Self::Hole => '·',
        }
    }
}
