//! Clusters that are compressed where they get a new place.

use std::ops::Range;

use diskette_codec::{EncoderPool, Encoding};
use diskette_core::{Error, Result};

use super::cache::write;
use super::image::Image;
use super::tables::Found;
use crate::FORMAT;
use crate::entry::{L2Entry, Subclusters};

/// How clusters are compressed, and where the next stream can lie.
#[derive(Debug)]
pub(super) struct Streams {
    encoders: EncoderPool,
    /// Host offset behind the last stream.
    next: u64,
}

impl Streams {
    /// Host bytes that nobody uses now may be another's when the next stream comes.
    pub(super) const fn forget(&mut self, freed: &Range<u64>) {
        if self.next >= freed.start && self.next < freed.end {
            self.next = 0;
        }
    }
}

impl Image {
    /// From now on whole clusters that get a new place are compressed, where that makes them shorter.
    pub(super) fn compress(&mut self) -> Result<()> {
        let why = if self.files.sealed.is_some() {
            "compression in an encrypted image"
        } else if self.files.data_file.is_some() {
            "compression in an image with a data file"
        } else {
            let encoding = Encoding {
                codec: self.files.codec,
                level: None,
                window_bits: WINDOW_BITS,
            };
            let encoders = EncoderPool::new(encoding)
                .map_err(|error| Error::unsupported(FORMAT, error.to_string()))?;
            self.streams = Some(Streams { encoders, next: 0 });
            return Ok(());
        };
        Err(Error::unsupported(FORMAT, why))
    }

    /// Writes a whole cluster as a stream. `false` where it is not whole, or is not to be compressed.
    pub(super) fn write_stream(&mut self, found: &Found, part: &[u8], offset: u64) -> Result<bool> {
        let cluster_size = self.geometry.cluster_size();
        let whole = cluster_size.min(self.size - found.start);
        let is_whole = offset == found.start && part.len() as u64 == whole;
        let Some(streams) = self.streams.as_ref().filter(|_| is_whole) else {
            return Ok(false);
        };
        // A stream expands to a whole cluster, also where the disk ends within it.
        let mut cluster = part.to_vec();
        cluster.resize(self.geometry.cluster_len(), 0);
        let mut stream = Vec::new();
        let shorter = streams
            .encoders
            .encode(&cluster, &mut stream, cluster.len() - 1)
            .map_err(|error| Error::unsupported(FORMAT, format!("compressing this ({error})")))?;
        if !shorter {
            return Ok(false);
        }
        let len = stream.len() as u64;
        let place = self.place_of_stream(len)?;
        let entry = self.geometry.compressed(place, len);
        let entry = entry.unwrap_or(L2Entry::HOLE);
        let written = match entry {
            L2Entry::HOLE => Err(Error::unsupported(
                FORMAT,
                "a compressed image of this size",
            )),
            _ => write(&*self.files.storage, place, &stream),
        };
        let written = written.and_then(|()| self.set(found.start, entry, Subclusters::HOLES));
        self.release(if written.is_ok() { found.entry } else { entry });
        written.map(|()| true)
    }

    /// A place for a stream that is shorter than a cluster: behind the last one, if it can be. Its clusters are counted.
    fn place_of_stream(&mut self, len: u64) -> Result<u64> {
        let next = self.streams.as_ref().map_or(0, |streams| streams.next);
        let place = match self.continues_at(next, len)? {
            true => next,
            false => self.allocate(1)?,
        };
        if let Some(streams) = &mut self.streams {
            streams.next = place + len;
        }
        Ok(place)
    }

    /// Whether a stream can begin within the cluster in which the last one ended; if so its clusters are counted.
    fn continues_at(&mut self, next: u64, len: u64) -> Result<bool> {
        let storage = self.storage();
        if self.geometry.is_aligned(next) {
            return Ok(false);
        }
        let users = self.allocator.count(&*storage, next)?;
        if users == 0 || users >= self.geometry.refcount_max() {
            return Ok(false);
        }
        let end = next.next_multiple_of(self.geometry.cluster_size());
        if next + len > end && !self.allocator.allocate_at(&*storage, end)? {
            return Ok(false);
        }
        self.allocator.use_more(&*storage, next)?;
        Ok(true)
    }
}

/// What every reader takes.
const WINDOW_BITS: u8 = 12;
