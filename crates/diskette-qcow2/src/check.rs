//! Counts how often each host cluster is used, and holds it against what the image says. Changes nothing.
//!
//! Findings, their order and their counts are those of `qemu-img check`; what it passes over in silence comes on top:
//! tables that share a cluster with something else, zero clusters in images of version 2.

mod counts;
mod overlap;
mod tree;

use std::fmt::Display;
use std::sync::Arc;

use diskette_core::{
    CheckReport, CheckableFormat, OpenContext, Result, Severity, Storage, StorageExt, Table,
    round_up,
};
use zerocopy::big_endian::U64;

pub(crate) use self::counts::Counts;
use crate::header::{Encryption, Header};
use crate::refcount::{RefcountTableEntry, Refcounts, refcount};
use crate::snapshot::{Snapshot, Snapshots};
use crate::{Qcow2, bitmaps, spec};

impl CheckableFormat for Qcow2 {
    fn check(&self, storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<CheckReport> {
        let header = Header::read_for_check(&*storage, cx.limits)?;
        Ok(survey(&*storage, &header, cx)?.report)
    }
}

/// All that a check finds.
pub(crate) fn survey(
    storage: &dyn Storage,
    header: &Header,
    cx: &OpenContext<'_>,
) -> Result<Survey> {
    let mut check = Check::new(storage, header, cx)?;
    check.count_contents()?;
    check.count_refcounts()?;
    check.compare()?;
    check.copied_flags()?;
    Ok(Survey {
        report: check.report,
        counted: check.counted,
        stored: check.stored,
        refcounts_low: check.refcounts_low,
        refcounts_damage: check.refcounts_damage,
        copied_wrong: check.copied_wrong,
        lost: check.lost,
        refcounts_unsound: check.refcounts_unsound,
    })
}

/// How often each cluster is used by anything but the refcount table and its blocks.
pub(crate) fn count_contents(
    storage: &dyn Storage,
    header: &Header,
    cx: &OpenContext<'_>,
) -> Result<Counts> {
    let mut check = Check::new(storage, header, cx)?;
    check.count_contents()?;
    Ok(check.counted)
}

/// What a check knows when it is done.
pub(crate) struct Survey {
    pub(crate) report: CheckReport,
    /// How often clusters are used.
    pub(crate) counted: Counts,
    /// How often the image says so.
    pub(crate) stored: Refcounts,
    pub(crate) lost: Lost,
    /// Whether the refcount table, or one of its blocks, does not lie where only it lies, or is not there.
    pub(crate) refcounts_unsound: bool,
    /// Clusters whose refcount is too low: corruptions.
    pub(crate) refcounts_low: u64,
    /// Corruptions of the refcount table and its blocks.
    pub(crate) refcounts_damage: u64,
    /// Flags that do not say whether a refcount is 1: corruptions.
    pub(crate) copied_wrong: u64,
}

/// References that lead nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lost {
    /// Whether there are any: what they were to lead to counts as used by nobody.
    pub(crate) any: bool,
    /// The lowest host offset behind the file's end that something refers to.
    pub(crate) lowest: Option<u64>,
    /// Whether bitmaps are among them.
    pub(crate) bitmaps: bool,
}

/// A check under way.
struct Check<'a> {
    storage: &'a dyn Storage,
    header: &'a Header,
    cx: &'a OpenContext<'a>,
    /// As the host counts it: a multiple of 512.
    file_size: u64,
    /// What the image says.
    stored: Refcounts,
    /// What is so.
    counted: Counts,
    lost: Lost,
    refcounts_unsound: bool,
    refcounts_low: u64,
    refcounts_damage: u64,
    copied_wrong: u64,
    /// Clusters that are to have one user.
    tables: overlap::Tables,
    report: CheckReport,
}

impl<'a> Check<'a> {
    fn new(storage: &'a dyn Storage, header: &'a Header, cx: &'a OpenContext<'a>) -> Result<Self> {
        let file_size = storage.total_size()?;
        let file_size = round_up(file_size, 512).unwrap_or(file_size);
        let clusters = header.geometry.clusters(file_size);
        let mut report = CheckReport::default();
        report.total_granules = header.geometry.clusters(header.size);
        Ok(Self {
            storage,
            header,
            cx,
            file_size,
            stored: Refcounts::open(storage, header, cx.limits)?,
            counted: Counts::new(clusters, cx.limits)?,
            lost: Lost::default(),
            refcounts_unsound: false,
            refcounts_low: 0,
            refcounts_damage: 0,
            copied_wrong: 0,
            tables: overlap::Tables::default(),
            report,
        })
    }

    fn count_contents(&mut self) -> Result<()> {
        let header = self.header;
        let snapshots = self.read_snapshots();
        self.count_table("header", 0, header.geometry.cluster_size())?;
        self.count_tree(&header.l1, tree::Which::Active)?;
        if let Some(snapshots) = snapshots {
            self.count_snapshots(&snapshots)?;
        }
        if let Encryption::Luks { offset, len } = header.encryption {
            self.count_table("LUKS header", offset, len)?;
        }
        self.count_bitmaps()
    }

    fn count_refcounts(&mut self) -> Result<()> {
        let table = self.header.refcount_table;
        let len = u64::from(table.clusters) * self.header.geometry.cluster_size();
        let inside = self.count(table.offset, len)?;
        self.refcounts_damage += u64::from(!inside);
        self.refcounts_unsound |= !inside || len == 0;
        self.count_refcount_blocks()?;
        let clusters = self.header.geometry.cluster_range(table.offset, len);
        self.refcounts_unsound |= inside
            && clusters
                .into_iter()
                .any(|cluster| self.counted.get(cluster) != 1);
        if inside {
            self.tables.add("refcount table", table.offset, len);
        }
        Ok(())
    }

    /// Counts one use of each host cluster in a range that holds a table, and nothing else.
    fn count_table(&mut self, name: &'static str, offset: u64, len: u64) -> Result<()> {
        if self.follow(offset, len)? {
            self.tables.add(name, offset, len);
        }
        Ok(())
    }

    /// Counts one use of each host cluster in a range. Whether the file has them.
    fn follow(&mut self, offset: u64, len: u64) -> Result<bool> {
        let inside = self.count(offset, len)?;
        if !inside {
            self.lost.any = true;
            self.lost.lowest = Some(self.lost.lowest.unwrap_or(u64::MAX).min(offset));
        }
        Ok(inside)
    }

    /// The same, without a thought about those that it does not have.
    fn count(&mut self, offset: u64, len: u64) -> Result<bool> {
        if len == 0 {
            return Ok(true);
        }
        let cluster_size = self.header.geometry.cluster_size();
        let end = offset.saturating_add(len);
        // The last cluster may be short: its data need not be there whole.
        if end >= self.file_size.saturating_add(cluster_size) {
            self.corruption(format_args!(
                "ERROR: counting reference for region exceeding the end of the file by one cluster or more: \
                 offset {offset:#x} size {len:#x}"
            ));
            return Ok(false);
        }
        let most = self.header.geometry.refcount_max();
        for cluster in self.header.geometry.cluster_range(offset, len) {
            if !self.counted.add(cluster, most)? {
                let at = cluster * cluster_size;
                self.corruption(format_args!("ERROR: overflow cluster offset={at:#x}"));
            }
        }
        Ok(true)
    }

    fn read_snapshots(&mut self) -> Option<Snapshots> {
        match Snapshots::read(self.storage, self.header, self.cx.limits) {
            Ok(found) => {
                self.check_snapshot_entries(&found);
                Some(found)
            }
            Err(error) => {
                self.report.add(
                    Severity::CheckError,
                    format_args!("ERROR failed to read the snapshot table: {error}"),
                );
                self.lost.any = true;
                None
            }
        }
    }

    fn check_snapshot_entries(&mut self, snapshots: &Snapshots) {
        for (index, snapshot) in snapshots.list.iter().enumerate() {
            if self.header.version >= 3 && snapshot.extra_len < 16 {
                self.corruption(format_args!(
                    "ERROR snapshot table entry {index} is incomplete"
                ));
            }
        }
    }

    fn count_snapshots(&mut self, snapshots: &Snapshots) -> Result<()> {
        let count = snapshots.list.len();
        if count != 0 && self.header.features.data_file() {
            self.corruption(format_args!(
                "ERROR {count} snapshots in image with data file"
            ));
        }
        for snapshot in &snapshots.list {
            self.count_snapshot(snapshot)?;
        }
        self.count_table(
            "snapshot table",
            self.header.snapshots_offset,
            snapshots.table_len,
        )
    }

    fn count_snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        let (id, name) = (&snapshot.info.id, &snapshot.info.name);
        if !self.header.geometry.is_aligned(snapshot.l1_offset) {
            self.corruption(format_args!(
                "ERROR snapshot {id} ({name}) l1_offset={:#x}: L1 table is not cluster aligned; \
                 snapshot table entry corrupted",
                snapshot.l1_offset
            ));
            self.lost.any = true;
            return Ok(());
        }
        if u64::from(snapshot.l1_size) > spec::L1_TABLE_LEN_MAX / 8 {
            self.corruption(format_args!(
                "ERROR snapshot {id} ({name}) l1_size={:#x}: L1 table is too large; snapshot table entry corrupted",
                snapshot.l1_size
            ));
            self.lost.any = true;
            return Ok(());
        }
        let l1 = snapshot.l1(self.header, self.cx.limits)?;
        self.count_tree(&l1, tree::Which::Snapshot)
    }

    fn count_bitmaps(&mut self) -> Result<()> {
        let found = bitmaps::directory(self.header, self.cx.limits).and_then(|directory| {
            let Some(directory) = directory else {
                return Ok(None);
            };
            let list = bitmaps::list(self.storage, directory, self.header.geometry)?;
            Ok(Some((directory, list)))
        });
        let (directory, list) = match found {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.corruption(format_args!("ERROR bitmaps: {error}"));
                self.lose_bitmaps();
                return Ok(());
            }
        };
        let lost = self.lost;
        self.lost = Lost::default();
        self.count_table("bitmap directory", directory.offset, directory.len)?;
        for bitmap in &list {
            self.count_bitmap(bitmap)?;
        }
        self.lost.bitmaps |= self.lost.any;
        self.lost.any |= lost.any;
        self.lost.lowest = [self.lost.lowest, lost.lowest].into_iter().flatten().min();
        Ok(())
    }

    const fn lose_bitmaps(&mut self) {
        self.lost.any = true;
        self.lost.bitmaps = true;
    }

    fn count_bitmap(&mut self, bitmap: &bitmaps::Bitmap) -> Result<()> {
        let geometry = self.header.geometry;
        let len = u64::from(bitmap.table_size) * 8;
        self.count_table("bitmap table", bitmap.table_offset, len)?;
        self.cx
            .limits
            .allow_table("qcow2: bitmap table's bytes", len)?;
        let table = self.read_table(bitmap.table_offset, len)?;
        for entry in table.entries().iter().map(|entry| entry.get()) {
            let offset = entry & spec::BITMAP_TABLE_OFFSET;
            let allowed = if offset == 0 {
                spec::BITMAP_TABLE_ALL_ONES
            } else {
                spec::BITMAP_TABLE_OFFSET
            };
            if entry & !allowed != 0 || !geometry.is_aligned(offset) {
                self.corruption(format_args!("ERROR bitmap table entry is {entry:#x}"));
                self.lose_bitmaps();
            } else if offset != 0 {
                self.follow(offset, geometry.cluster_size())?;
            }
        }
        Ok(())
    }

    fn count_refcount_blocks(&mut self) -> Result<()> {
        let geometry = self.header.geometry;
        let entries: Vec<RefcountTableEntry> = self.stored.table().collect();
        for (index, entry) in entries.into_iter().enumerate() {
            let offset = entry.block_offset();
            let cluster = offset >> geometry.cluster_bits();
            if entry.reserved_bits() != 0 {
                self.unsound_refcounts(format_args!(
                    "ERROR refcount table entry {index} has reserved bits set"
                ));
            } else if !geometry.is_aligned(offset) {
                self.unsound_refcounts(format_args!(
                    "ERROR refcount block {index} is not cluster aligned; refcount table entry corrupted"
                ));
            } else if cluster >= self.counted.len() {
                self.unsound_refcounts(format_args!(
                    "ERROR refcount block {index} is outside image"
                ));
            } else if offset != 0 {
                self.count(offset, geometry.cluster_size())?;
                let uses = self.counted.get(cluster);
                // One that cannot count so far tells nothing; an overflow has been reported.
                self.refcounts_unsound |= !self.counted.is_exactly(cluster, 1);
                if uses != 1 {
                    self.unsound_refcounts(format_args!(
                        "ERROR refcount block {index} refcount={uses}"
                    ));
                }
            }
        }
        Ok(())
    }

    fn unsound_refcounts(&mut self, text: impl Display) {
        self.corruption(text);
        self.refcounts_damage += 1;
        self.refcounts_unsound = true;
    }

    /// Holds the stored refcounts against the counted ones, cluster by cluster.
    fn compare(&mut self) -> Result<()> {
        let geometry = self.header.geometry;
        let per_block = geometry.refcounts_per_block();
        let total = self.counted.len();
        let mut end = 1;
        for index in 0..total.div_ceil(per_block) {
            let clusters = index * per_block..total.min((index + 1) * per_block);
            let block = match self.stored.block(self.storage, index) {
                Ok(block) => block,
                Err(error @ diskette_core::Error::Malformed { .. }) => {
                    for cluster in clusters {
                        self.report.add(
                            Severity::CheckError,
                            format_args!("Can't get refcount for cluster {cluster}: {error}"),
                        );
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(last) = self.compare_block(block.as_ref(), clusters) {
                end = last + 1;
            }
        }
        self.report.image_end_offset = Some(end * geometry.cluster_size());
        self.overlaps()
    }

    /// The same for the clusters of one refcount block. Gives the last one that is in use.
    fn compare_block(
        &mut self,
        block: Option<&Table<u8>>,
        clusters: std::ops::Range<u64>,
    ) -> Option<u64> {
        let order = self.header.geometry.refcount_order();
        let first = clusters.start;
        let bytes = block.map(Table::entries).unwrap_or_default();
        let mut last = None;
        if bytes.is_empty() && self.counted.is_unused(&clusters) {
            return None;
        }
        for cluster in clusters {
            let stored = refcount(bytes, cluster - first, order);
            let counted = self.counted.get(cluster);
            if stored != 0 || counted != 0 {
                last = Some(cluster);
            }
            if stored < counted {
                self.refcounts_low += 1;
                self.corruption(format_args!(
                    "ERROR cluster {cluster} refcount={stored} reference={counted}"
                ));
            } else if stored > counted {
                self.report.add(
                    Severity::Leak,
                    format_args!("Leaked cluster {cluster} refcount={stored} reference={counted}"),
                );
            }
        }
        last
    }

    /// A table of the image. What the file does not have of it counts as zeros.
    fn read_table(&self, offset: u64, len: u64) -> Result<Table<U64>> {
        // The caller has bounded it.
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        self.storage.read_padded(&mut bytes, offset)?;
        Ok(Table::new(bytes))
    }

    fn corruption(&mut self, text: impl Display) {
        self.report.add(Severity::Corruption, text);
    }
}
