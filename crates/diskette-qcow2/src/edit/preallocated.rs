//! Places for clusters ahead of what will be written there.

use diskette_core::{Error, Preallocation, Result, StorageExt, StorageMut};

use super::cache::{write, write_zeros};
use super::image::Image;
use super::tables::Found;
use crate::FORMAT;
use crate::entry::{L2Entry, Subclusters};

impl Image {
    /// Gives the first clusters of a range their places, if they have none and read as zeros, and gives their end.
    pub(super) fn preallocate_some(
        &mut self,
        start: u64,
        end: u64,
        how: Preallocation,
    ) -> Result<u64> {
        if self.files.sealed.is_some() {
            let why = "preallocation in an encrypted image";
            return Err(Error::unsupported(FORMAT, why));
        }
        let first = self.find(start)?;
        let cluster_size = self.geometry.cluster_size();
        if !self.can_have_place(&first) {
            return Ok(first.start + cluster_size);
        }
        let mut run = vec![first];
        while (run.len() as u64) < self.most_at_once() {
            let next = first.start + cluster_size * run.len() as u64;
            if next >= end {
                break;
            }
            let found = self.find(next)?;
            if !self.can_have_place(&found) {
                break;
            }
            run.push(found);
        }
        let len = cluster_size * run.len() as u64;
        let place = match self.files.data_file {
            Some(_) => first.start,
            None => self.allocate(run.len() as u64)?,
        };
        self.take_space(place, len.min(self.size - first.start), len, how)?;
        for (at, found) in (place..).step_by(self.geometry.cluster_len()).zip(&run) {
            let subclusters = match (self.geometry.extended_l2(), how) {
                (true, Preallocation::Metadata | Preallocation::Reserved) => found.subclusters,
                (true, Preallocation::Full) | (false, _) => Subclusters::DATA,
            };
            self.set(found.start, L2Entry::data(at, true), subclusters)?;
        }
        Ok(first.start + len)
    }

    /// Whether a cluster has no place, and reads as zeros.
    fn can_have_place(&self, found: &Found) -> bool {
        let below = self.files.below.as_ref().map_or(0, |below| below.size());
        let shows = found.subclusters != Subclusters::ZEROS && found.start < below;
        !found.entry.is_compressed()
            && found.place.is_none()
            && !shows
            && found.subclusters.data_bits() == 0
    }

    /// As many as one refcount block counts, and no more than a few MiB.
    const fn most_at_once(&self) -> u64 {
        const MOST: u64 = 4 << 20;
        let few = MOST >> self.geometry.cluster_bits();
        if few == 0 { 1 } else { few }
    }

    /// Makes new clusters read as zeros: what has been given up may lie there. `on_disk` of their bytes belong to the disk.
    fn take_space(&self, place: u64, on_disk: u64, len: u64, how: Preallocation) -> Result<()> {
        let payload = self.files.payload();
        let len = match self.files.data_file {
            Some(_) => on_disk,
            None => len,
        };
        match how {
            Preallocation::Metadata => write_zeros(payload, place, len),
            Preallocation::Reserved => {
                write_zeros(payload, place, len)?;
                payload
                    .allocate(place, len)
                    .map_err(|source| payload.failed("allocate", place, len, source))
            }
            // At most a few MiB.
            Preallocation::Full => write_bytes(payload, place, len),
        }
    }
}

fn write_bytes(payload: &dyn StorageMut, place: u64, len: u64) -> Result<()> {
    write(payload, place, &vec![0; usize::try_from(len).unwrap_or(0)])
}
