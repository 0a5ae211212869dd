//! Whole trees of tables: who is counted as a user of what, and which clusters have but one.

use diskette_core::{Result, StorageExt};
use zerocopy::FromBytes;
use zerocopy::big_endian::U64;

use super::image::Image;
use super::tables::put_word;
use crate::entry::{L1Entry, L2Entry};
use crate::header::field;

impl Image {
    /// Counts one more user of all that an L1 table leads to; or, where that cannot be, of nothing.
    pub(super) fn use_tree(&mut self, l1: &[U64]) -> Result<()> {
        let mut used: u64 = 0;
        let done = self.walk(l1, |image, offset| {
            let storage = image.storage();
            image.allocator.use_more(&*storage, offset)?;
            used += 1;
            if image.allocator.is_full() {
                image.allocator.write(&*storage)?;
            }
            Ok(())
        });
        if done.is_err() {
            // Those that were counted first are those that are met first.
            let undone = self.walk(l1, |image, offset| {
                if used > 0 {
                    used -= 1;
                    image.allocator.release(offset);
                }
                Ok(())
            });
            return done.and(undone);
        }
        Ok(())
    }

    /// Counts one user less of all that an L1 table leads to. Nothing on stable storage may lead to that table.
    pub(super) fn release_tree(&mut self, l1: &[U64]) -> Result<()> {
        self.walk(l1, |image, offset| {
            image.allocator.release(offset);
            Ok(())
        })
    }

    /// Tells of each cluster that an L1 table leads to, as often as it does: tables, and then what is in them.
    fn walk(
        &mut self,
        l1: &[U64],
        mut each: impl FnMut(&mut Self, u64) -> Result<()>,
    ) -> Result<()> {
        for (index, entry) in l1.iter().enumerate() {
            let Some(table) = self.checked_table(index, L1Entry(entry.get()))? else {
                continue;
            };
            let bytes = self.l2.get(&*self.files.storage, table)?.to_vec();
            each(self, table)?;
            for (index, entry) in self.entries_in(&bytes) {
                self.expect_inside(entry, table, index)?;
                for offset in self.clusters_of(entry) {
                    each(self, offset)?;
                }
            }
        }
        Ok(())
    }

    /// Marks tables and clusters of the disk as having one user where they do, and only there.
    pub(super) fn mark_copied(&mut self) -> Result<()> {
        self.mark(|image, offset| {
            let storage = image.storage();
            Ok(image.allocator.count(&*storage, offset)? == 1)
        })
    }

    /// Marks no table and no cluster of the disk as having one user.
    pub(super) fn mark_shared(&mut self) -> Result<()> {
        self.mark(|_, _| Ok(false))
    }

    fn mark(&mut self, is_own: impl Fn(&mut Self, u64) -> Result<bool>) -> Result<()> {
        let size = self.geometry.l2_entry_size();
        for index in 0..self.l1.len() {
            let entry = L1Entry(self.l1[index].get());
            let Some(table) = self.checked_table(index, entry)? else {
                continue;
            };
            let marked = L1Entry::to_table(table, is_own(self, table)?);
            if marked != entry {
                self.set_l1(index, marked);
            }
            let bytes = self.l2.get(&*self.files.storage, table)?.to_vec();
            for (index, entry) in self.entries_in(&bytes) {
                let Some(place) = self
                    .place_of(entry)
                    .filter(|_| self.files.data_file.is_none())
                else {
                    continue;
                };
                let marked = entry.with_copied(is_own(self, place)?);
                if marked == entry {
                    continue;
                }
                let at = usize::try_from(index * size).unwrap_or(usize::MAX);
                let cached = self.l2.get_mut(&*self.files.storage, table, at..at + 8)?;
                put_word(cached, at, marked.0);
            }
            if self.l2.is_full() {
                self.commit()?;
            }
        }
        Ok(())
    }

    /// Where the table of an L1 entry lies, if it leads to one.
    pub(super) fn checked_table(&self, index: usize, entry: L1Entry) -> Result<Option<u64>> {
        let offset = entry.table_offset();
        if offset == 0 {
            return Ok(None);
        }
        if !self.geometry.is_aligned(offset) || offset >= self.allocator.end() {
            let claim = field(format!("l1_entry[{index}]"), 0, entry.0);
            return Err(claim.malformed(format!("no L2 table can lie at {offset:#x}")));
        }
        Ok(Some(offset))
    }

    /// The entries of a table that are not zero, with their indices.
    pub(super) fn entries_in<'a>(
        &self,
        table: &'a [u8],
    ) -> impl Iterator<Item = (u64, L2Entry)> + use<'a> {
        let words = usize::try_from(self.geometry.l2_entry_size() / 8).unwrap_or(1);
        let entries = <[U64]>::ref_from_bytes(table).unwrap_or_default();
        let entries = (0..).zip(entries.iter().step_by(words));
        entries
            .map(|(index, entry)| (index, L2Entry(entry.get())))
            .filter(|(_, entry)| entry.0 != 0)
    }

    /// That an entry leads to clusters of the file.
    fn expect_inside(&self, entry: L2Entry, table: u64, index: u64) -> Result<()> {
        let end = self.allocator.end();
        let mut clusters = self.clusters_of(entry);
        if clusters.all(|offset| self.geometry.is_aligned(offset) && offset < end) {
            return Ok(());
        }
        let at = table + index * self.geometry.l2_entry_size();
        Err(field(format!("l2_entry[{index}]"), at, entry.0)
            .malformed("it leads beyond the file's end"))
    }

    /// An L1 table of the file, with room for `entries`. The caller has bounded it.
    pub(super) fn read_l1(&self, offset: u64, len: u64, entries: u64) -> Result<Vec<U64>> {
        let bytes = |count: u64| usize::try_from(count * 8).unwrap_or(0);
        let mut table = vec![0; bytes(entries.max(len))];
        let end = bytes(len);
        self.files.storage.read_padded(&mut table[..end], offset)?;
        Ok(<[U64]>::ref_from_bytes(&table).unwrap_or_default().to_vec())
    }
}
