//! Entries that read the same before and after: bits that mean nothing, places of what nobody reads.

use diskette_core::Result;
use zerocopy::IntoBytes;
use zerocopy::big_endian::U64;

use super::Mender;
use super::trees::{L2Table, Leads, Trees};
use crate::check::Survey;
use crate::entry::{L1Entry, L2Entry, Subclusters};
use crate::spec;

impl Mender<'_> {
    /// Clears what must be zero, and gives up places of clusters of zeros that no cluster can have.
    pub(super) fn mend_entries(&mut self, found: &Survey) -> Result<()> {
        let trees = self.trees()?;
        let before = self.corruptions_fixed;
        self.mend_l1_entries(&trees, found)?;
        for (offset, uses) in &trees.l2s {
            let Some(mut table) = self.l2_table(*offset, *uses, &found.counted)? else {
                continue;
            };
            for index in 0..self.header.geometry.l2_entries() {
                self.mend_l2_entry(&mut table, index)?;
            }
            self.write_l2(&table)?;
        }
        if self.corruptions_fixed != before {
            self.sync()?;
        }
        Ok(())
    }

    fn mend_l1_entries(&mut self, trees: &Trees, found: &Survey) -> Result<()> {
        for l1 in &trees.l1s {
            if !self.is_alone(found, l1) {
                continue;
            }
            for (index, raw) in (0..).zip(self.read_l1(l1)?) {
                let entry = L1Entry(raw.get());
                if entry.reserved_bits() == 0
                    || self.sound_l2_table(entry.table_offset())?.is_none()
                {
                    continue;
                }
                let mended = U64::new(entry.0 & !spec::L1_RESERVED);
                self.write(l1.offset + 8 * index, mended.as_bytes())?;
                self.corruptions_fixed += 1;
            }
        }
        Ok(())
    }

    fn mend_l2_entry(&mut self, table: &mut L2Table, index: u64) -> Result<()> {
        let (entry, bitmap) = table.get(index);
        let mended = match self.leads(entry, bitmap) {
            Leads::Stream => (L2Entry(entry.0 & !spec::COPIED), Subclusters::HOLES),
            Leads::Spare if !self.is_place(entry)? => (without_place(entry, bitmap), bitmap),
            Leads::Nowhere | Leads::Data | Leads::Spare => {
                (L2Entry(entry.0 & !spec::L2_RESERVED), bitmap)
            }
        };
        if table.set(index, mended.0, mended.1) {
            self.corruptions_fixed += 1;
        }
        Ok(())
    }

    /// Whether a cluster can lie where the entry says.
    fn is_place(&self, entry: L2Entry) -> Result<bool> {
        let geometry = self.header.geometry;
        let inside = self.header.features.data_file()
            || self.is_inside(entry.offset(), geometry.cluster_size())?;
        Ok(geometry.is_aligned(entry.offset()) && inside)
    }
}

/// The entry of a cluster without data, once it has given up its place.
fn without_place(entry: L2Entry, bitmap: Subclusters) -> L2Entry {
    debug_assert_eq!(bitmap.data_bits(), 0, "a cluster without data");
    L2Entry(entry.0 & spec::L2_ZERO)
}
