//! Finds what is inconsistent: grains that lie outside of the file, that two grains of the disk share, or that lie over the
//! tables; grains of the file that nobody uses; copies of tables that differ. Copies are mended.

use std::collections::HashSet;
use std::sync::Arc;

use diskette_core::{
    CheckReport, CheckableFormat, Error, Limits, OpenContext, Repair, RepairableFormat, Result,
    SECTOR, Severity, Storage, StorageExt, StorageMut, Table,
};

use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

use crate::grains::{Grain, Grains, Layout, PlacedTable};
use crate::header::Header;
use crate::image::Image;
use crate::map::Kept;
use crate::sparse::SectorEntries;
use crate::stream::StoredGrain;
use crate::uses::{Usage, Uses};
use crate::{FORMAT, Vmdk, edit, redundant, spec, stream};

impl CheckableFormat for Vmdk {
    fn check(&self, storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<CheckReport> {
        let lenient = OpenContext {
            salvage: true,
            ..*cx
        };
        let image = Image::open(storage, &lenient)?;
        let mut report = CheckReport::default();
        for damage in &image.remarks.damage {
            report.add(Severity::Corruption, damage);
        }
        for warning in &image.remarks.warnings {
            report.add(Severity::Note, warning);
        }
        for (number, part) in image.map.parts().iter().enumerate() {
            let header = image.headers.iter().find(|(index, _)| *index == number);
            let header = header.map(|(_, header)| header);
            match &part.kept {
                Kept::Zero | Kept::Flat(_) => {}
                Kept::Sparse(grains) => {
                    let usage = check_grains(grains, header, cx, &mut report)?;
                    if let Some(header) = header {
                        report_unknown(grains, header, &mut report)?;
                        report_lost(grains, header, &usage, &mut report);
                        report_differences(grains, header, &image, &mut report);
                    }
                }
                Kept::SeSparse(grains) => {
                    check_grains(grains, None, cx, &mut report)?;
                }
            }
        }
        Ok(report)
    }
}

/// Walks all tables of one part, and reports what is wrong.
fn check_grains<L: Layout>(
    grains: &Grains<L>,
    header: Option<&Header>,
    cx: &OpenContext<'_>,
    report: &mut CheckReport,
) -> Result<Usage> {
    let usage = survey(grains, header, cx.limits, &mut |error| match error {
        // What cannot be read ends the look.
        Found::Error(error @ Error::Malformed { .. }) => {
            report.add(Severity::Corruption, &error);
            Ok(())
        }
        Found::Error(error) => Err(error),
        Found::SharedTable { .. } => {
            report.add(Severity::Corruption, error);
            Ok(())
        }
    })?;
    for at in &usage.overlaps {
        let text = format!("the grain or table at {at:#x} overlaps another");
        report.add(Severity::Corruption, text);
    }
    if usage.overflowed {
        let text = "there are more grains than could be looked at for overlaps";
        report.add(Severity::Note, text);
    }
    Ok(usage)
}

/// Grains of a stream to which its tables cannot lead.
fn report_unknown(
    grains: &Grains<SectorEntries>,
    header: &Header,
    report: &mut CheckReport,
) -> Result<()> {
    match stream::expect_grains_known(&*grains.storage, header, &grains.tables, grains.size) {
        Err(error @ Error::Malformed { .. }) => report.add(Severity::Corruption, error),
        known => known?,
    }
    Ok(())
}

/// Grains of a plain extent's file to which nothing leads.
fn report_lost(
    grains: &Grains<SectorEntries>,
    header: &Header,
    usage: &Usage,
    report: &mut CheckReport,
) {
    // Where tables are damaged nobody knows what is lost.
    if grains.compressed || usage.overflowed || report.corruptions > 0 {
        return;
    }
    let lowest = header.overhead;
    let tail = usage.end..grains.storage_size.max(usage.end);
    for gap in usage.gaps.iter().chain([&tail]) {
        let start = gap.start.max(lowest);
        let lost = gap.end.saturating_sub(start) / grains.grain_size;
        if lost > 0 {
            let text = format!("grains that nothing leads to from {start:#x} on: {lost}");
            report.add(Severity::Leak, text);
            report.leaks += lost - 1;
        }
    }
}

fn report_differences(
    grains: &Grains<SectorEntries>,
    header: &Header,
    image: &Image,
    report: &mut CheckReport,
) {
    for difference in redundant::differences(grains, header) {
        if !image.remarks.warnings.contains(&difference) {
            report.add(Severity::Note, difference);
        }
    }
}

/// What a walk over the tables comes upon.
#[derive(Debug)]
pub(crate) enum Found {
    /// It is malformed, or cannot be read.
    Error(Error),
    /// An entry of the directory names the table of another one.
    SharedTable {
        /// The entry.
        index: u64,
        /// Where the table lies.
        at: u64,
    },
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error(error) => error.fmt(f),
            Self::SharedTable { index, at } => write!(
                f,
                "grain directory[{index}] names the table at {at:#x}, as another entry does"
            ),
        }
    }
}

/// That nothing in the tables is wrong, as it must be before they are written; and which parts of the file they use.
pub(crate) fn sound_usage(
    grains: &Grains<SectorEntries>,
    header: &Header,
    limits: &Limits,
) -> Result<Usage> {
    let usage = survey(grains, Some(header), limits, &mut |found| match found {
        Found::Error(error) => Err(error),
        Found::SharedTable { index, at } => Err(Error::malformed(
            FORMAT,
            format!("grain directory[{index}]"),
            header.directory.unwrap_or(0).saturating_add(4 * index),
            at / SECTOR,
            "the table of another entry",
        )),
    })?;
    if let Some(at) = usage.overlaps.first() {
        let why = "it overlaps another";
        return Err(Error::malformed(
            FORMAT,
            "grain or table",
            *at,
            at / SECTOR,
            why,
        ));
    }
    if usage.overflowed {
        return Err(Error::LimitExceeded {
            what: "vmdk: runs of grains",
            wanted: limits.check_bytes.saturating_add(1),
            limit: limits.check_bytes,
        });
    }
    Ok(usage)
}

/// Walks over all tables, and notes what of the file is in use.
fn survey<L: Layout>(
    grains: &Grains<L>,
    header: Option<&Header>,
    limits: &Limits,
    report: &mut dyn FnMut(Found) -> Result<()>,
) -> Result<Usage> {
    let mut uses = Uses::new(limits.check_bytes);
    if let Some(header) = header {
        take_metadata(grains, header, &mut uses);
    }
    let mut seen = HashSet::new();
    for index in grains.table_indices() {
        match grains.table(index) {
            Ok(None) => {}
            // A directory whose entries all name one table would make of a small file a look without an end.
            Ok(Some(table)) if table.at != 0 && !seen.insert(table.at) => {
                report(Found::SharedTable {
                    index,
                    at: table.at,
                })?;
            }
            Ok(Some(table)) => take_table(grains, &table, &mut uses, report)?,
            Err(error) => report(Found::Error(error))?,
        }
    }
    if let Some(header) = header {
        take_redundant(grains, header, &seen, &mut uses)?;
    }
    Ok(uses.sum())
}

/// Header, descriptor and directory. In a stream they lie wherever they were written.
fn take_metadata<L: Layout>(grains: &Grains<L>, header: &Header, uses: &mut Uses) {
    if grains.compressed {
        return;
    }
    uses.take(0, SECTOR);
    if let Some((at, len)) = header.descriptor {
        uses.take(at, len);
    }
    if let Some(at) = header.directory {
        uses.take(at, 4 * grains.table_count());
    }
}

/// The redundant directory, and its tables but for those that are also the directory's own, of which there may be some.
fn take_redundant<L: Layout>(
    grains: &Grains<L>,
    header: &Header,
    own: &HashSet<u64>,
    uses: &mut Uses,
) -> Result<()> {
    let len = 4 * grains.table_count();
    let redundant = header.redundant_directory;
    let Some(at) = redundant.filter(|at| Some(*at) != header.directory) else {
        return Ok(());
    };
    if grains.compressed || at.saturating_add(len) > grains.storage_size {
        return Ok(()); // That is told elsewhere.
    }
    uses.take(at, len);
    let count = usize::try_from(grains.table_count()).unwrap_or(usize::MAX);
    let mut seen = HashSet::new();
    for entry in Table::<U32>::read(&*grains.storage, at, count)?.entries() {
        let table = u64::from(entry.get()) * SECTOR;
        if table != 0 && !own.contains(&table) && seen.insert(table) {
            uses.take(table, grains.table_len());
        }
    }
    Ok(())
}

/// Checks a table's grains, and notes which parts of the file they take.
fn take_table<L: Layout>(
    grains: &Grains<L>,
    table: &PlacedTable<L::Entry>,
    uses: &mut Uses,
    report: &mut dyn FnMut(Found) -> Result<()>,
) -> Result<()> {
    if table.at != 0 {
        uses.take(table.at, grains.table_len());
    }
    for slot in 0..grains.slots_of(table.index) {
        let at = match grains.grain(table, slot) {
            Ok(Grain::At(at)) => at,
            Ok(Grain::Hole | Grain::Zero) => continue,
            Err(error) => {
                report(Found::Error(error))?;
                continue;
            }
        };
        let number = table
            .index
            .saturating_mul(grains.table_entries)
            .saturating_add(slot);
        match stored_len(grains, number, at) {
            Ok(len) => uses.take(at, len),
            Err(error) => report(Found::Error(error))?,
        }
    }
    Ok(())
}

/// Bytes that a grain takes in the file.
fn stored_len<L: Layout>(grains: &Grains<L>, number: u64, at: u64) -> Result<u64> {
    let start = number.saturating_mul(grains.grain_size);
    let len = grains.size.saturating_sub(start).min(grains.grain_size);
    if !grains.compressed {
        return Ok(len);
    }
    let mut marker = spec::GrainMarker::new_zeroed();
    grains.storage.read(marker.as_mut_bytes(), at)?;
    let grain = StoredGrain {
        at,
        bound: 0,
        start,
        len,
    };
    grains.check_marker(grain, &marker)
}

impl RepairableFormat for Vmdk {
    /// The redundant copies of tables are written from those that readers go by, and what is lost behind the last grain is cut
    /// off. An image with damage is left alone.
    fn repair(
        &self,
        image: Arc<dyn StorageMut>,
        what: Repair,
        cx: &OpenContext<'_>,
    ) -> Result<CheckReport> {
        let check = || self.check(Arc::clone(&image) as Arc<dyn Storage>, cx);
        let before = check()?;
        if before.corruptions > 0 {
            return Ok(before);
        }
        let mended = edit::tidy(Arc::clone(&image), what, cx)?;
        let mut after = check()?;
        after.corruptions_fixed = mended;
        after.leaks_fixed = before.leaks.saturating_sub(after.leaks);
        if mended > 0 {
            let text = format!("redundant copies of grain tables that are written anew: {mended}");
            after.add(Severity::Note, text);
        }
        Ok(after)
    }
}
