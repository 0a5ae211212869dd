//! What the disk of an image that is being changed holds now.

use diskette_core::{Extent, ExtentKind, HostOffset, Result};

use super::files::{Piece, Source};
use super::image::Image;
use super::tables::Found;
use crate::entry::Subcluster;

impl Image {
    /// The extent that holds an offset, which lies within the disk.
    pub(super) fn extent_at(&mut self, offset: u64) -> Result<Extent> {
        let size = self.size;
        if !self.has_table(offset) && self.files.below.is_none() {
            let position = self.geometry.split(offset);
            let start = self.geometry.cluster_start(position.l1_index, 0);
            let end = start.saturating_add(self.geometry.l2_coverage());
            return Ok(Extent::hole(start, end.min(size) - start));
        }
        let found = self.find(offset)?;
        let (kind, start, end) = self.run_in(&found, offset - found.start);
        let (start, end) = (found.start + start, (found.start + end).min(size));
        let kind = match kind {
            Subcluster::Data if found.entry.is_compressed() => {
                let stream = self.geometry.stream(found.entry);
                ExtentKind::Compressed {
                    at: HostOffset::new(stream.offset),
                    len: stream.len,
                }
            }
            Subcluster::Data => {
                let at = HostOffset {
                    file: self.own_files() - 1,
                    offset: found.place.unwrap_or_default() + (start - found.start),
                };
                match self.files.sealed {
                    Some(_) => ExtentKind::Encrypted(at),
                    None => ExtentKind::Data(at),
                }
            }
            Subcluster::Zero => ExtentKind::Zero(None),
            Subcluster::Hole => return self.extent_below(offset, start, end),
        };
        Ok(Extent::new(start, end - start, kind))
    }

    /// What shows through a hole from `start` to `end`. The files of what lies below follow the image's own.
    fn extent_below(&self, offset: u64, start: u64, end: u64) -> Result<Extent> {
        let Some(below) = &self.files.below else {
            return Ok(Extent::hole(start, end - start));
        };
        let size = below.size();
        if offset >= size {
            let start = start.max(size);
            return Ok(Extent::hole(start, end - start));
        }
        let extent = below.extent_at(offset)?.clip(start, end);
        let moved = |at: HostOffset| HostOffset {
            file: at.file.saturating_add(self.own_files()),
            ..at
        };
        let kind = match extent.kind {
            ExtentKind::Data(at) => ExtentKind::Data(moved(at)),
            ExtentKind::Unwritten(at) => ExtentKind::Unwritten(moved(at)),
            ExtentKind::Encrypted(at) => ExtentKind::Encrypted(moved(at)),
            ExtentKind::Compressed { at, len } => ExtentKind::Compressed { at: moved(at), len },
            ExtentKind::Zero(at) => ExtentKind::Zero(at.map(moved)),
            ExtentKind::Hole(at) => ExtentKind::Hole(at.map(moved)),
        };
        Ok(Extent { kind, ..extent })
    }

    /// How many files the image itself has.
    fn own_files(&self) -> u16 {
        1 + u16::from(self.files.data_file.is_some())
    }

    /// The piece of the disk from an offset on, which lies within the disk; of `most` bytes at most.
    pub(super) fn piece_at(&mut self, offset: u64, most: u64) -> Result<Piece> {
        let found = self.find(offset)?;
        let mut piece = self.piece_of(&found, offset);
        // What lies in a row is read in one go.
        while piece.len < most
            && let Source::Stored(place) = piece.source
        {
            let at = offset + piece.len;
            let found = self.find(at)?;
            match self.piece_of(&found, at) {
                Piece {
                    source: Source::Stored(next),
                    len,
                    ..
                } if next == place + piece.len => piece.len += len,
                _ => break,
            }
        }
        piece.len = piece.len.min(most);
        Ok(piece)
    }

    /// The piece of a cluster from a guest offset within it on.
    pub(super) fn piece_of(&self, found: &Found, offset: u64) -> Piece {
        let within = offset - found.start;
        let (kind, _, end) = self.run_in(found, within);
        let source = match (kind, found.place) {
            (Subcluster::Data, Some(place)) => Source::Stored(place + within),
            (Subcluster::Data, None) if found.entry.is_compressed() => {
                Source::Stream(self.geometry.stream(found.entry))
            }
            (Subcluster::Data | Subcluster::Zero, _) => Source::Zeros,
            (Subcluster::Hole, _) => {
                let below = self.files.below.as_ref();
                Source::Below(below.map_or(0, |below| below.size()).min(self.size))
            }
        };
        Piece {
            start: offset,
            len: end - within,
            source,
        }
    }

    /// Reads a part of one cluster, from the byte `within` on. Behind the disk's end there are zeros.
    pub(super) fn read_cluster(&self, found: &Found, buf: &mut [u8], within: u64) -> Result<()> {
        let mut rest = buf;
        let mut at = found.start + within;
        while !rest.is_empty() {
            let piece = self.piece_of(found, at);
            let left = usize::try_from(piece.len).unwrap_or(usize::MAX);
            let (part, behind) = rest.split_at_mut(left.min(rest.len()));
            self.files.read(&piece, part)?;
            at += part.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    /// The run of subclusters alike that holds the byte `within` of a cluster: what they are, and from where to where.
    pub(super) fn run_in(&self, found: &Found, within: u64) -> (Subcluster, u64, u64) {
        if found.entry.is_compressed() || !self.geometry.extended_l2() {
            let (kind, _) = found.subclusters.run_at(0);
            return (kind, 0, self.geometry.cluster_size());
        }
        let size = self.geometry.subcluster_size();
        let index = within / size;
        // Below 32.
        let (kind, count) = found.subclusters.run_at(u32::try_from(index).unwrap_or(0));
        (kind, index * size, (index + u64::from(count)) * size)
    }
}
