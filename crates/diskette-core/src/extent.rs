//! Runs of the disk, and where their bytes lie.

/// A byte of an image's own files. `file` 0 is the one that was opened; the others are its parts or its data file,
/// in the order of [`ImageInfo::files`](crate::ImageInfo::files). In a [`Chain`](crate::Chain) the files of deeper
/// layers follow those of the upper ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostOffset {
    /// Which of the image's files.
    pub file: u16,
    /// Bytes from its beginning.
    pub offset: u64,
}

impl HostOffset {
    /// A byte of the file that was opened.
    #[must_use]
    pub const fn new(offset: u64) -> Self {
        Self { file: 0, offset }
    }

    /// The byte `len` bytes further on. Wraps where an image's numbers do; reading there fails.
    #[must_use]
    pub const fn plus(self, len: u64) -> Self {
        Self {
            file: self.file,
            offset: self.offset.wrapping_add(len),
        }
    }
}

/// A run of the disk, all of one kind. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Guest offset of its first byte.
    pub offset: u64,
    /// Its bytes; never 0, and never beyond the disk's size.
    pub len: u64,
    /// What is there.
    pub kind: ExtentKind,
}

/// What is in a run of the disk. Complete by nature: a new kind is a new thing to think about in every room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// Stored as it is, from this host offset on.
    Data(HostOffset),
    /// Has its place at this host offset, but the host holds no bytes there (a hole in a sparse file): reads as zeros.
    Unwritten(HostOffset),
    /// Stored, but to be had only whole, through a codec. The whole extent is one granule.
    Compressed {
        /// Where the stored bytes begin.
        at: HostOffset,
        /// How many there are, at the most.
        len: u64,
    },
    /// Stored from this host offset on, byte for byte, but enciphered: only the image's reader can tell what it says.
    Encrypted(HostOffset),
    /// Reads as zeros because this image says so; hides what lies behind. Space may be kept for it.
    Zero(Option<HostOffset>),
    /// This image says nothing; what lies behind shows through, or zeros. Space may be kept for it.
    Hole(Option<HostOffset>),
}

impl Extent {
    /// A run of this kind.
    #[must_use]
    pub const fn new(offset: u64, len: u64, kind: ExtentKind) -> Self {
        Self { offset, len, kind }
    }

    /// A run of which the image says nothing.
    #[must_use]
    pub const fn hole(offset: u64, len: u64) -> Self {
        Self::new(offset, len, ExtentKind::Hole(None))
    }

    /// A run of zeros.
    #[must_use]
    pub const fn zero(offset: u64, len: u64) -> Self {
        Self::new(offset, len, ExtentKind::Zero(None))
    }

    /// Guest offset of the first byte behind it.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    /// The part of it between `start` and `end`, which must overlap it. A compressed extent keeps its place: it can
    /// be decoded only whole.
    #[must_use]
    pub fn clip(&self, start: u64, end: u64) -> Self {
        let offset = self.offset.max(start);
        let len = self.end().min(end).saturating_sub(offset);
        Self {
            offset,
            len,
            kind: self.kind.advanced(offset - self.offset),
        }
    }

    /// Whether `next` continues this extent, so that both are one run.
    #[must_use]
    pub fn continues_into(&self, next: &Self) -> bool {
        use ExtentKind::{Compressed, Data, Encrypted, Hole, Unwritten, Zero};
        self.end() == next.offset
            && match (self.kind, next.kind) {
                (Data(_), Data(_))
                | (Unwritten(_), Unwritten(_))
                | (Encrypted(_), Encrypted(_))
                | (Zero(_), Zero(_))
                | (Hole(_), Hole(_)) => self.kind.advanced(self.len) == next.kind,
                (
                    Compressed { .. } | Data(_) | Encrypted(_) | Unwritten(_) | Zero(_) | Hole(_),
                    _,
                ) => false,
            }
    }
}

impl ExtentKind {
    /// Whether a guest reads zeros here in an image that stands alone, without a look at any byte.
    #[must_use]
    pub const fn reads_as_zeros(&self) -> bool {
        match self {
            Self::Unwritten(_) | Self::Zero(_) | Self::Hole(_) => true,
            Self::Data(_) | Self::Encrypted(_) | Self::Compressed { .. } => false,
        }
    }

    /// The same kind, with its file renumbered.
    #[must_use]
    pub fn in_files(self, renumber: impl Fn(u16) -> u16) -> Self {
        let moved = |at: HostOffset| HostOffset {
            file: renumber(at.file),
            ..at
        };
        match self {
            Self::Data(at) => Self::Data(moved(at)),
            Self::Unwritten(at) => Self::Unwritten(moved(at)),
            Self::Encrypted(at) => Self::Encrypted(moved(at)),
            Self::Compressed { at, len } => Self::Compressed { at: moved(at), len },
            Self::Zero(at) => Self::Zero(at.map(moved)),
            Self::Hole(at) => Self::Hole(at.map(moved)),
        }
    }

    /// The same kind, for what lies `len` bytes further on.
    #[must_use]
    pub fn advanced(self, len: u64) -> Self {
        match self {
            Self::Data(at) => Self::Data(at.plus(len)),
            Self::Unwritten(at) => Self::Unwritten(at.plus(len)),
            Self::Encrypted(at) => Self::Encrypted(at.plus(len)),
            Self::Compressed { .. } => self,
            Self::Zero(at) => Self::Zero(at.map(|at| at.plus(len))),
            Self::Hole(at) => Self::Hole(at.map(|at| at.plus(len))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clipped_extent_points_to_its_own_bytes() {
        let extent = Extent::new(100, 50, ExtentKind::Data(HostOffset::new(1000)));
        assert_eq!(
            extent.clip(110, 120),
            Extent::new(110, 10, ExtentKind::Data(HostOffset::new(1010)))
        );
        assert_eq!(extent.clip(0, 1000), extent);
    }

    #[test]
    fn only_neighbours_on_both_sides_are_one_run() {
        let data = |offset, at| Extent::new(offset, 10, ExtentKind::Data(HostOffset::new(at)));
        assert!(data(0, 100).continues_into(&data(10, 110)));
        assert!(!data(0, 100).continues_into(&data(10, 120)));
        assert!(!data(0, 100).continues_into(&data(20, 110)));
        assert!(Extent::zero(0, 10).continues_into(&Extent::zero(10, 10)));
        assert!(!Extent::zero(0, 10).continues_into(&Extent::hole(10, 10)));
    }
}
