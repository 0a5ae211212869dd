//! The few bytes of the header that a repair changes, each by one write within a sector.

use diskette_core::Result;
use zerocopy::IntoBytes;
use zerocopy::big_endian::{U32, U64};

use super::Mender;
use crate::check::Survey;
use crate::spec;

impl Mender<'_> {
    /// Clears what any writer has to clear before it changes anything: the bits of features that it does not know, and
    /// of bitmaps that cannot be kept.
    pub(super) fn clear_autoclear_bits(&mut self, found: &Survey) -> Result<()> {
        let features = self.header.features;
        let mut kept = features.autoclear & spec::AUTOCLEAR_BITMAPS;
        if features.data_file() {
            kept |= features.autoclear & spec::AUTOCLEAR_DATA_FILE_RAW;
        }
        if found.lost.bitmaps {
            kept &= !spec::AUTOCLEAR_BITMAPS;
            self.corruptions_fixed += 1;
        }
        if self.header.version < 3 || kept == features.autoclear {
            return Ok(());
        }
        self.switch(AUTOCLEAR_FEATURES, U64::new(kept).as_bytes())
    }

    /// Clears the dirty and the corrupt bit.
    pub(super) fn clear_damage_bits(&mut self) -> Result<()> {
        let features = self.header.features;
        let marks = spec::INCOMPATIBLE_DIRTY | spec::INCOMPATIBLE_CORRUPT;
        if self.header.version < 3 || features.incompatible & marks == 0 {
            return Ok(());
        }
        let kept = U64::new(features.incompatible & !marks);
        self.switch(INCOMPATIBLE_FEATURES, kept.as_bytes())
    }

    pub(super) fn switch_refcount_table(&mut self, offset: u64, clusters: u32) -> Result<()> {
        let offset = U64::new(offset);
        let fields = [offset.as_bytes(), U32::new(clusters).as_bytes()].concat();
        self.switch(REFCOUNT_TABLE, &fields)
    }

    pub(super) fn switch_snapshot_table(&mut self, offset: u64) -> Result<()> {
        self.switch(SNAPSHOTS_OFFSET, U64::new(offset).as_bytes())
    }

    /// Changes fields of the header once all that was written before is on stable storage.
    fn switch(&mut self, at: u64, fields: &[u8]) -> Result<()> {
        self.sync()?;
        self.write(at, fields)?;
        self.sync()?;
        self.reread_header()
    }
}

/// `refcount_table_offset` and `refcount_table_clusters`.
const REFCOUNT_TABLE: u64 = 48;
const SNAPSHOTS_OFFSET: u64 = 64;
const INCOMPATIBLE_FEATURES: u64 = 72;
const AUTOCLEAR_FEATURES: u64 = 88;
