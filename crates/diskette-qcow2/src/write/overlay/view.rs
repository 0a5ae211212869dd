//! What the disk of an image that is being changed holds now.

use diskette_codec::{Codec, decode};
use diskette_core::{BlockReaderExt, Extent, ExtentKind, HostOffset, Result, StorageExt};

use super::image::{Found, Image};
use crate::entry::Subcluster;
use crate::header::field;

impl Image {
    /// The extent that holds an offset, which lies within the disk.
    pub(super) fn extent_at(&mut self, offset: u64) -> Result<Extent> {
        let size = self.size();
        if !self.has_table(offset) && self.below.is_none() {
            let position = self.geometry.split(offset);
            let start = self.geometry.cluster_start(position.l1_index, 0);
            let end = start.saturating_add(self.geometry.l2_coverage());
            return Ok(Extent::hole(start, end.min(size) - start));
        }
        let found = self.find(offset)?;
        let (kind, start, end) = self.piece(&found, offset - found.start);
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
                let place = found.place().unwrap_or_default();
                ExtentKind::Data(HostOffset::new(place + (start - found.start)))
            }
            Subcluster::Zero => ExtentKind::Zero(None),
            Subcluster::Hole => return self.extent_below(offset, start, end),
        };
        Ok(Extent::new(start, end - start, kind))
    }

    /// What shows through a hole from `start` to `end`. The files of what lies below follow the image's own.
    fn extent_below(&self, offset: u64, start: u64, end: u64) -> Result<Extent> {
        let Some(below) = &self.below else {
            return Ok(Extent::hole(start, end - start));
        };
        let size = below.size();
        if offset >= size {
            let start = start.max(size);
            return Ok(Extent::hole(start, end - start));
        }
        let extent = below.extent_at(offset)?.clip(start, end);
        let moved = |at: HostOffset| HostOffset {
            file: at.file.saturating_add(1),
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

    /// Reads what the disk holds. The range lies within it.
    pub(super) fn read(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        let cluster_size = self.geometry.cluster_size();
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let left = usize::try_from(cluster_size - at % cluster_size).unwrap_or(usize::MAX);
            let (part, behind) = rest.split_at_mut(left.min(rest.len()));
            let found = self.find(at)?;
            self.read_cluster(&found, part, at - found.start)?;
            at += part.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    /// Reads a part of one cluster, from the byte `within` on. Behind the disk's end there are zeros.
    pub(super) fn read_cluster(&self, found: &Found, buf: &mut [u8], within: u64) -> Result<()> {
        if found.entry.is_compressed() {
            return self.read_stream(found, buf, within);
        }
        let mut rest = buf;
        let mut at = within;
        while !rest.is_empty() {
            let (kind, _, end) = self.piece(found, at);
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let (part, behind) = rest.split_at_mut(left.min(rest.len()));
            match (kind, found.place()) {
                (Subcluster::Data, Some(place)) => {
                    self.storage.read_padded(part, place + at)?;
                }
                (Subcluster::Data | Subcluster::Zero, _) => part.fill(0),
                (Subcluster::Hole, _) => self.read_below(part, found.start + at)?,
            }
            at += part.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    /// The run of subclusters alike that holds the byte `within` of a cluster: what they are, and from where to where.
    pub(super) fn piece(&self, found: &Found, within: u64) -> (Subcluster, u64, u64) {
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

    fn read_below(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let size = self.below.as_ref().map_or(0, |below| below.size());
        let size = size.min(self.size());
        let there = size.saturating_sub(offset).min(buf.len() as u64);
        let (head, tail) = buf.split_at_mut(usize::try_from(there).unwrap_or(0));
        tail.fill(0);
        match &self.below {
            Some(below) if !head.is_empty() => below.read_at(head, offset),
            Some(_) | None => Ok(()),
        }
    }

    fn read_stream(&self, found: &Found, buf: &mut [u8], within: u64) -> Result<()> {
        let stream = self.geometry.stream(found.entry);
        let size = self.storage.total_size()?;
        let len = stream.len.min(size.saturating_sub(stream.offset));
        // At most two clusters.
        let mut packed = vec![0; usize::try_from(len).unwrap_or(0)];
        self.storage.read(&mut packed, stream.offset)?;
        let mut cluster = vec![0; self.geometry.cluster_len()];
        let claim = || {
            let name = format!(
                "length of the compressed cluster of guest offset {:#x}",
                found.start
            );
            field(name, stream.offset, len)
        };
        let decoded = decode(self.codec, &packed, &mut cluster)
            .map_err(|error| claim().malformed(error.to_string()))?;
        if decoded.len < cluster.len() || self.codec == Codec::Zstd && !decoded.finished {
            return Err(claim().malformed("it does not hold one whole cluster"));
        }
        let start = usize::try_from(within).unwrap_or(usize::MAX);
        if let Some(part) = cluster.get(start..start.saturating_add(buf.len())) {
            buf.copy_from_slice(part);
        }
        Ok(())
    }
}
