//! Where an image holds data: on the disk as the guest sees it, and in its files.

use std::ops::Range;

use diskette_core::{BlockReader, BlockReaderExt, ExtentKind, HostOffset, Result};

/// A disk and its files, each cut into equal parts.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Picture {
    /// Bytes of the disk.
    pub disk_size: u64,
    /// The disk, from its beginning to its end.
    pub disk: Vec<Cell>,
    /// The files, by their numbers in [`HostOffset`].
    pub files: Vec<FilePicture>,
    /// The whole disk.
    pub total: Cell,
    /// Number of extents.
    pub extents: u64,
}

/// A file of an image: what of it the guest sees, and where.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FilePicture {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub size: u64,
    /// The file, from its beginning to its end. What no extent lies in is the format's own (header, tables), or not
    /// used.
    pub cells: Vec<Cell>,
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
    /// Of the disk: the image says nothing. Of a file: no data lies there.
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
    /// The picture of `disk`, which lies in `files` (names and sizes in bytes), in `cells` parts each. Walks the map.
    pub fn of(disk: &dyn BlockReader, files: &[(String, u64)], cells: usize) -> Result<Self> {
        Self::part(disk, files, cells, 0..u64::MAX, 0..u64::MAX)
    }

    /// The same, of a part of the disk, and of a part of each file: the cells are of these parts, the sizes and the total of
    /// the whole. What lies behind an end is left out.
    pub fn part(
        disk: &dyn BlockReader,
        files: &[(String, u64)],
        cells: usize,
        of_disk: Range<u64>,
        of_file: Range<u64>,
    ) -> Result<Self> {
        let blank = vec![Cell::default(); cells.max(1)];
        let disk_size = disk.size();
        let files = files.iter().map(|(name, size)| FilePicture {
            name: name.clone(),
            size: *size,
            cells: blank.clone(),
        });
        let mut picture = Self {
            disk_size,
            files: files.collect(),
            disk: blank.clone(),
            total: Cell::default(),
            extents: 0,
        };
        for extent in disk.extents() {
            let extent = extent?;
            let share = Share::of(&extent.kind);
            picture.extents += 1;
            *picture.total.of_mut(share) += extent.len;
            let run = (extent.offset, extent.len);
            spread(&mut picture.disk, &up_to(&of_disk, disk_size), run, share);
            let (at, len) = match extent.kind {
                ExtentKind::Data(at) | ExtentKind::Encrypted(at) => (at, extent.len),
                ExtentKind::Compressed { at, len } => (at, len),
                ExtentKind::Unwritten(_) | ExtentKind::Zero(_) | ExtentKind::Hole(_) => continue,
            };
            let HostOffset { file, offset } = at;
            if let Some(file) = picture.files.get_mut(usize::from(file)) {
                let part = up_to(&of_file, file.size);
                spread(&mut file.cells, &part, (offset, len), share);
            }
        }
        for file in &mut picture.files {
            count_rest(&mut file.cells, &up_to(&of_file, file.size));
        }
        Ok(picture)
    }

    /// One line for a terminal: a sign for each part of the disk, by what most of it is.
    #[must_use]
    pub fn bar(&self) -> String {
        bar(&self.disk)
    }
}

impl FilePicture {
    /// One line for a terminal: a sign for each part of the file, by what most of it is.
    #[must_use]
    pub fn bar(&self) -> String {
        bar(&self.cells)
    }
}

fn bar(cells: &[Cell]) -> String {
    cells.iter().map(|cell| cell.most().sign()).collect()
}

/// What of a part there is.
fn up_to(part: &Range<u64>, size: u64) -> Range<u64> {
    let end = part.end.min(size);
    part.start.min(end)..end
}

/// Where a cell begins, of so many.
fn border(part: &Range<u64>, index: usize, cells: usize) -> u64 {
    let size = part.end - part.start;
    let offset = u128::from(size) * index as u128 / cells as u128;
    part.start + u64::try_from(offset).unwrap_or(size)
}

/// Shares a run (offset and length) out among the cells that it touches.
fn spread(cells: &mut [Cell], part: &Range<u64>, (offset, len): (u64, u64), share: Share) {
    let count = cells.len();
    let start = offset.max(part.start);
    let end = offset.saturating_add(len).min(part.end);
    if start >= end {
        return;
    }
    let size = part.end - part.start;
    let first = u128::from(start - part.start) * count as u128 / u128::from(size);
    // The first border may lie behind `start` by rounding: begin one cell earlier.
    let first = usize::try_from(first).unwrap_or(0).saturating_sub(1);
    for (index, cell) in cells.iter_mut().enumerate().skip(first) {
        let (from, to) = (border(part, index, count), border(part, index + 1, count));
        if from >= end {
            break;
        }
        *cell.of_mut(share) += to.min(end).saturating_sub(from.max(start));
    }
}

/// Counts what nothing lies in as a hole. Runs of a file may overlap, be it by a lie.
fn count_rest(cells: &mut [Cell], part: &Range<u64>) {
    let count = cells.len();
    for (index, cell) in cells.iter_mut().enumerate() {
        let len = border(part, index + 1, count) - border(part, index, count);
        cell.hole = len.saturating_sub(cell.data.saturating_add(cell.compressed));
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
            ExtentKind::Data(_) | ExtentKind::Encrypted(_) => Self::Data,
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
