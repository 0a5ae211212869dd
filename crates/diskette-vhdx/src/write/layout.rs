//! Where things lie in a new image: in Hyper-V's order.
//!
//! ```text
//!  0        1 MiB                          all at multiples of 1 MiB
//!  headers │ log │ metadata │ BAT │ blocks, as they come
//! ```

use diskette_core::MIB;

use super::options::Settings;
use crate::spec::{ALIGNMENT, HEADER_SECTION_LEN, SECTORS_PER_CHUNK};

/// Where things lie. All of it is bounded by the size that an image can have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    size: u64,
    block_size: u64,
    log_len: u64,
    /// Payload blocks of a chunk.
    chunk_ratio: u64,
    differencing: bool,
}

impl Layout {
    /// Bytes of the metadata region.
    pub(super) const METADATA_LEN: u64 = MIB;
    /// Where the log lies.
    pub(super) const LOG_OFFSET: u64 = HEADER_SECTION_LEN;

    pub(super) fn new(settings: &Settings) -> Self {
        let sector_size = u64::from(settings.logical_sector_size);
        Self {
            size: settings.size,
            block_size: settings.block_size,
            log_len: settings.log_size.into(),
            chunk_ratio: SECTORS_PER_CHUNK * sector_size / settings.block_size,
            differencing: settings.parent.is_some(),
        }
    }

    /// Where the metadata region lies.
    pub(super) const fn metadata_offset(&self) -> u64 {
        Self::LOG_OFFSET + self.log_len
    }

    /// Where the BAT region lies.
    pub(super) const fn bat_offset(&self) -> u64 {
        self.metadata_offset() + Self::METADATA_LEN
    }

    /// Bytes of the BAT region. A disk without blocks has one, too: a region cannot be empty.
    pub(super) const fn bat_len(&self) -> u64 {
        match self.entry_count() {
            0 => ALIGNMENT,
            count => (8 * count).next_multiple_of(ALIGNMENT),
        }
    }

    /// Payload blocks of the disk.
    pub(super) const fn block_count(&self) -> u64 {
        self.size.div_ceil(self.block_size)
    }

    /// Entries of the BAT. Behind each whole chunk that is followed by another stands one for its sector bitmap; in a
    /// differencing disk each chunk is whole.
    pub(super) const fn entry_count(&self) -> u64 {
        let blocks = self.block_count();
        if self.differencing {
            return blocks.div_ceil(self.chunk_ratio) * (self.chunk_ratio + 1);
        }
        blocks + blocks.saturating_sub(1) / self.chunk_ratio
    }

    /// Whether an entry of the BAT is a sector bitmap's.
    pub(super) const fn is_bitmap_entry(&self, index: u64) -> bool {
        index % (self.chunk_ratio + 1) == self.chunk_ratio
    }

    /// Where the block lies that has so many before it.
    pub(super) const fn block_offset(&self, place: u64) -> u64 {
        self.bat_offset() + self.bat_len() + place * self.block_size
    }
}
