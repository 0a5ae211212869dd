//! Tables that share a cluster with something else, though the refcounts agree: who writes the one damages the other.
//!
//! `qemu-img check` is silent about them. L2 tables are not looked at: snapshots share them.

use diskette_core::Result;

use super::Check;

/// Ranges of the file that hold one table each.
#[derive(Debug, Default)]
pub(super) struct Tables(Vec<(&'static str, u64, u64)>);

impl Tables {
    pub(super) fn add(&mut self, name: &'static str, offset: u64, len: u64) {
        self.0.push((name, offset, len));
    }
}

impl Check<'_> {
    /// Tells of clusters of tables that have several users, where that has not been told yet.
    pub(super) fn overlaps(&mut self) -> Result<()> {
        for (name, offset, len) in std::mem::take(&mut self.tables.0) {
            for cluster in self.header.geometry.cluster_range(offset, len) {
                let counted = self.counted.get(cluster);
                if counted <= 1 {
                    continue;
                }
                // A refcount that is too low is a corruption already.
                let stored = self.refcount_of(cluster << self.header.geometry.cluster_bits())?;
                if stored.is_some_and(|stored| stored >= counted) {
                    self.corruption(format_args!(
                        "ERROR cluster {cluster} holds the {name}, and something else"
                    ));
                }
            }
        }
        Ok(())
    }
}
