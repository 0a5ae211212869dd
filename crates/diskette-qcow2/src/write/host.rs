//! Where the clusters and streams of a new image lie in its file.

use std::ops::Range;

use diskette_core::{Error, Result};

use super::refcounts::Counts;
use crate::FORMAT;
use crate::geometry::Geometry;

/// Hands out the file's clusters, from its beginning to its end.
///
/// Streams are packed back to back, and so need clusters that follow one another. Where plain clusters come between
/// them, some clusters are left free for the streams that come next:
///
/// ```text
///  stream stream str|eam ....|........|........|plain   |plain   |
///                        ▲                     ▲                 ▲
///                   next_stream            streams_end          end
/// ```
#[derive(Debug)]
pub(super) struct HostSpace {
    geometry: Geometry,
    /// The first cluster that was not handed out.
    end: u64,
    /// Where the next stream begins if there is room: in bytes.
    next_stream: u64,
    /// The first cluster behind those for streams.
    streams_end: u64,
    /// Clusters for streams so far.
    stream_clusters: u64,
    counts: Counts,
}

impl HostSpace {
    /// All space but the header's.
    pub(super) fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            end: 1,
            next_stream: 0,
            streams_end: 0,
            stream_clusters: 0,
            counts: Counts::default(),
        }
    }

    /// The first cluster that was not handed out.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    /// How often each cluster is used.
    pub(super) const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The host offset of `count` clusters in a row.
    pub(super) fn clusters(&mut self, count: u64) -> Result<u64> {
        if self.streams_end == self.end {
            self.leave_room_for_streams()?;
        }
        let first = self.end;
        self.end = self.checked_end(first, count)?;
        self.counts.use_once(first..self.end);
        Ok(first << self.geometry.cluster_bits())
    }

    /// The host offset of a stream of `len` bytes, less than a cluster's.
    pub(super) fn stream(&mut self, len: u64) -> Result<u64> {
        let cluster_bits = self.geometry.cluster_bits();
        let mut at = self.next_stream;
        let begun = !self.geometry.is_aligned(at);
        if begun && self.counts.get(at >> cluster_bits) >= self.most_streams() {
            at = self.geometry.clusters(at) << cluster_bits;
        }
        if self.geometry.clusters(at + len) > self.streams_end {
            if self.streams_end != self.end {
                at = self.end << cluster_bits;
            }
            let first = self.end;
            self.end = self.checked_end(0, self.geometry.clusters(at + len))?;
            self.streams_end = self.end;
            self.stream_clusters += self.end - first;
        }
        self.next_stream = at + len;
        self.counts
            .use_more(at >> cluster_bits..=(at + len - 1) >> cluster_bits);
        Ok(at)
    }

    /// No more streams will come: the clusters that were left free for them.
    pub(super) fn end_streams(&mut self) -> Range<u64> {
        let free = self.geometry.clusters(self.next_stream)..self.streams_end;
        self.streams_end = 0;
        if free.end == self.end {
            self.end = free.start;
            return 0..0;
        }
        free
    }

    /// The same space with `clusters` more, used once, between the header and all that was handed out.
    pub(super) fn moved_by(mut self, clusters: u64) -> Result<Self> {
        self.end = self.checked_end(self.end, clusters)?;
        self.counts.insert_once(1, clusters);
        Ok(self)
    }

    /// Takes one of the clusters that were left free, and gives its host offset.
    pub(super) fn take_free(&mut self, cluster: u64) -> u64 {
        self.counts.use_more(cluster..=cluster);
        cluster << self.geometry.cluster_bits()
    }

    /// Some clusters that will, if no more streams come, hold the tables; and more where there are many streams, so
    /// that little is lost where streams and plain clusters alternate.
    fn leave_room_for_streams(&mut self) -> Result<()> {
        const TABLES: u64 = 4;
        const MOST: u64 = 64;
        let room = TABLES + (self.stream_clusters / 64).min(MOST);
        self.end = self.checked_end(self.end, room)?;
        self.streams_end = self.end;
        self.stream_clusters += room;
        Ok(())
    }

    /// How many streams may share a cluster.
    fn most_streams(&self) -> u64 {
        self.geometry.refcount_max().min(Counts::MOST)
    }

    fn checked_end(&self, first: u64, count: u64) -> Result<u64> {
        let most = crate::spec::HOST_OFFSET_END >> self.geometry.cluster_bits();
        first
            .checked_add(count)
            .filter(|end| *end <= most)
            .ok_or_else(|| Error::unsupported(FORMAT, "a file of 64 PiB or more"))
    }
}
