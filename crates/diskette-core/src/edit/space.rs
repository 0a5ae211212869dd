//! Where new blocks get their place in the file.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::{Result, StorageExt, StorageMut, round_up};

/// A place for a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewPlace {
    /// Host offset of its data.
    pub at: u64,
    /// Whether zeros are read there.
    pub is_zero: bool,
}

/// The places of an image's blocks that are free: some amid the file, and all behind its end.
///
/// A place that is given up is not free before the table on the disk leads there no more.
#[derive(Debug)]
pub struct Space {
    /// Behind all that has a place.
    end: u64,
    /// From here on nothing was ever written.
    zeros_from: u64,
    /// Bytes of a block's data.
    len: u64,
    /// Bytes before them that are the block's, too.
    lead: u64,
    /// Data begin at multiples of this, a power of two.
    alignment: u64,
    /// Free places, by the host offset of their data, that hold anything.
    used_before: BTreeSet<u64>,
    /// Places that were given up, which the disk may still lead to.
    given_up: BTreeSet<u64>,
    /// The last host offset that data of a block may have.
    last: u64,
}

impl Space {
    /// Places for blocks of `len` bytes from `end` on, where the file has, or may yet have, nothing that counts. It has
    /// `file_size` bytes.
    #[must_use]
    pub const fn new(end: u64, file_size: u64, len: u64) -> Self {
        Self {
            end,
            zeros_from: file_size,
            len,
            lead: 0,
            alignment: 1,
            used_before: BTreeSet::new(),
            given_up: BTreeSet::new(),
            last: u64::MAX - len,
        }
    }

    /// The same, but that each block has `lead` bytes before its data.
    #[must_use]
    pub const fn with_lead(mut self, lead: u64) -> Self {
        self.lead = lead;
        self
    }

    /// The same, but that data begin at multiples of `alignment`, a power of two.
    #[must_use]
    pub const fn aligned_to(mut self, alignment: u64) -> Self {
        self.alignment = alignment;
        self
    }

    /// The same, but that no data lie behind `last`: the table has no number for it.
    #[must_use]
    pub const fn up_to(mut self, last: u64) -> Self {
        self.last = last;
        self
    }

    /// Behind all that has a place.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Makes all places from `end` on free, for the file ends there, and none before it.
    pub fn cut(&mut self, end: u64) {
        self.end = end;
        self.zeros_from = end;
        self.used_before.clear();
    }

    /// Puts something else than a block at the end, at a multiple of `alignment`. Gives its host offset.
    pub fn append(&mut self, len: u64, alignment: u64) -> Option<u64> {
        let at = round_up(self.end, alignment)?;
        self.end = at.checked_add(len)?;
        Some(at)
    }

    /// Notes that a place holds nothing that counts.
    pub fn add_free(&mut self, at: u64) {
        self.used_before.insert(at);
    }

    /// Notes that a range amid the file holds nothing that counts: as many places as it has room for.
    pub fn add_gap(&mut self, gap: &Range<u64>) {
        let mut start = gap.start;
        while let Some(at) = start
            .checked_add(self.lead)
            .and_then(|at| round_up(at, self.alignment))
            .filter(|at| at.saturating_add(self.len) <= gap.end && *at <= self.last)
        {
            self.used_before.insert(at);
            start = at + self.len; // at most the gap's end
        }
    }

    /// Free places amid the file, by the host offset of their data.
    pub fn free_places(&self) -> impl Iterator<Item = u64> + '_ {
        self.used_before.iter().copied()
    }

    /// Takes a place, the first that is free. `None` where the format can have no more. The file reaches up to its end
    /// afterwards.
    pub fn take(&mut self, storage: &dyn StorageMut) -> Result<Option<NewPlace>> {
        if let Some(at) = self.used_before.pop_first() {
            return Ok(Some(NewPlace { at, is_zero: false }));
        }
        let at = self.end.checked_add(self.lead);
        let at = at.and_then(|at| round_up(at, self.alignment));
        let Some(at) = at.filter(|at| *at <= self.last) else {
            return Ok(None);
        };
        let end = at + self.len; // by the check above
        if storage.total_size()? < end {
            storage
                .set_size(end)
                .map_err(|source| storage.failed("grow", end, 0, source))?;
        }
        self.end = end;
        let is_zero = at >= self.zeros_from;
        Ok(Some(NewPlace { at, is_zero }))
    }

    /// Takes back a place to which nothing on the disk ever led.
    pub fn release(&mut self, at: u64) {
        self.used_before.insert(at);
    }

    /// Gives up a place, which is free once the table has been stored.
    pub fn give_up(&mut self, at: u64) {
        self.given_up.insert(at);
    }

    /// Whether places were given up that are not free yet.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.given_up.is_empty()
    }

    /// Makes free what was given up, for the table on stable storage leads there no more. The host gets its space back.
    pub fn stored(&mut self, storage: &dyn StorageMut) -> Result<()> {
        for at in std::mem::take(&mut self.given_up) {
            self.used_before.insert(at);
            storage
                .write_zeros(at, self.len)
                .map_err(|source| storage.failed("free", at, self.len, source))?;
        }
        Ok(())
    }
}
