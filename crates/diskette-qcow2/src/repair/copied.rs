//! The flags that say of a table or a cluster that its refcount is exactly 1, in the active tree.

use diskette_core::{Error, Result};
use zerocopy::IntoBytes;
use zerocopy::big_endian::U64;

use super::Mender;
use super::trees::{Leads, Trees};
use crate::check::Survey;
use crate::entry::{L1Entry, L2Entry};
use crate::spec;

impl Mender<'_> {
    /// Makes the flags agree with the stored refcounts. To clear one is always safe; none is set while references are
    /// lost.
    pub(super) fn mend_copied_flags(&mut self, found: &Survey) -> Result<()> {
        let trees = self.trees()?;
        let before = self.corruptions_fixed;
        self.mend_flags_of_l1(found)?;
        for (offset, uses) in self.active_tables(&trees)? {
            let Some(mut table) = self.l2_table(offset, uses, &found.counted)? else {
                continue;
            };
            for index in 0..self.header.geometry.l2_entries() {
                let (entry, bitmap) = table.get(index);
                if !matches!(self.leads(entry, bitmap), Leads::Data | Leads::Spare) {
                    continue;
                }
                let refcount = if self.header.features.data_file() {
                    Some(1)
                } else {
                    self.stored_refcount(found, entry.offset())?
                };
                let mended = L2Entry(with_flag(entry.0, refcount, found));
                self.corruptions_fixed += u64::from(table.set(index, mended, bitmap));
            }
            self.write_l2(&table)?;
        }
        if self.corruptions_fixed != before {
            self.sync()?;
        }
        Ok(())
    }

    fn mend_flags_of_l1(&mut self, found: &Survey) -> Result<()> {
        let l1 = self.header.l1.clone();
        if !self.is_alone(found, &l1) {
            return Ok(());
        }
        for (index, raw) in (0..).zip(self.read_l1(&l1)?) {
            let entry = L1Entry(raw.get());
            let offset = entry.table_offset();
            if self.sound_l2_table(offset)?.is_none() {
                continue;
            }
            let refcount = self.stored_refcount(found, offset)?;
            let mended = with_flag(entry.0, refcount, found);
            if mended != entry.0 {
                self.write(l1.offset + 8 * index, U64::new(mended).as_bytes())?;
                self.corruptions_fixed += 1;
            }
        }
        Ok(())
    }

    /// The L2 tables of the active tree, and how often all trees use them.
    fn active_tables(&self, trees: &Trees) -> Result<Vec<(u64, u64)>> {
        let mut tables = Vec::new();
        for entry in self.read_l1(&self.header.l1)? {
            let offset = L1Entry(entry.get()).table_offset();
            if let Some(uses) = trees.l2s.get(&offset) {
                tables.push((offset, *uses));
            }
        }
        tables.sort_unstable();
        tables.dedup();
        Ok(tables)
    }

    /// The refcount of a cluster, where it can be told.
    fn stored_refcount(&self, found: &Survey, offset: u64) -> Result<Option<u64>> {
        let cluster = offset >> self.header.geometry.cluster_bits();
        match found.stored.of(self.storage, cluster) {
            Ok(refcount) => Ok(Some(refcount)),
            Err(Error::Malformed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// An entry whose flag says whether the refcount is 1.
const fn with_flag(entry: u64, refcount: Option<u64>, found: &Survey) -> u64 {
    match refcount {
        Some(1) if found.lost.any => entry,
        Some(1) => entry | spec::COPIED,
        Some(_) => entry & !spec::COPIED,
        None => entry,
    }
}
