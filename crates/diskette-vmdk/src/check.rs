//! Finds what is inconsistent: grains that lie outside of the file, that two grains of the disk share, or that lie over
//! the tables.

use std::collections::HashSet;
use std::sync::Arc;

use diskette_core::{
    CheckReport, CheckableFormat, Error, OpenContext, Result, SECTOR, Severity, Storage, StorageExt,
};

use zerocopy::{FromZeros, IntoBytes};

use crate::grains::{Grain, Grains, Layout, PlacedTable};
use crate::image::Image;
use crate::map::Kept;
use crate::stream::StoredGrain;
use crate::{Vmdk, redundant, spec};

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
        for part in image.map.parts() {
            match &part.kept {
                Kept::Zero | Kept::Flat(_) => {}
                Kept::Sparse(grains) => check_grains(grains, cx, &mut report)?,
                Kept::SeSparse(grains) => check_grains(grains, cx, &mut report)?,
            }
        }
        for (index, header) in &image.headers {
            if let Some(Kept::Sparse(grains)) = image.map.parts().get(*index).map(|part| &part.kept)
            {
                for difference in redundant::differences(grains, header) {
                    if !image.remarks.warnings.contains(&difference) {
                        report.add(Severity::Note, difference);
                    }
                }
            }
        }
        Ok(report)
    }
}

/// Walks all tables of one part.
fn check_grains<L: Layout>(
    grains: &Grains<L>,
    cx: &OpenContext<'_>,
    report: &mut CheckReport,
) -> Result<()> {
    let mut uses = Uses::new(cx.limits.check_bytes);
    let mut seen = HashSet::new();
    for index in grains.table_indices() {
        match grains.table(index) {
            Ok(None) => {}
            // A directory whose entries all name one table would make of a small file a look without an end.
            Ok(Some(table)) if table.at != 0 && !seen.insert(table.at) => {
                let at = table.at;
                report.add(
                    Severity::Corruption,
                    format!(
                        "grain directory[{index}] names the table at {at:#x}, as another entry does"
                    ),
                );
            }
            Ok(Some(table)) => check_table(grains, &table, &mut uses, report)?,
            Err(error) => found(error, report)?,
        }
    }
    uses.report(report);
    Ok(())
}

/// Checks a table's grains, and notes which parts of the file they take.
fn check_table<L: Layout>(
    grains: &Grains<L>,
    table: &PlacedTable<L::Entry>,
    uses: &mut Uses,
    report: &mut CheckReport,
) -> Result<()> {
    if table.at != 0 {
        uses.take(table.at, grains.table_len());
    }
    for slot in 0..grains.slots_of(table.index) {
        let at = match grains.grain(table, slot) {
            Ok(Grain::At(at)) => at,
            Ok(Grain::Hole | Grain::Zero) => continue,
            Err(error) => {
                found(error, report)?;
                continue;
            }
        };
        let number = table
            .index
            .saturating_mul(grains.table_entries)
            .saturating_add(slot);
        match stored_len(grains, number, at) {
            Ok(len) => uses.take(at, len),
            Err(error) => found(error, report)?,
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

/// What is malformed is a finding; what cannot be read ends the look.
fn found(error: Error, report: &mut CheckReport) -> Result<()> {
    match error {
        Error::Malformed { .. } => {
            report.add(Severity::Corruption, &error);
            Ok(())
        }
        error => Err(error),
    }
}

/// The runs of a file that are in use, to find those that are in use twice.
struct Uses {
    /// First sector, and number of sectors.
    runs: Vec<(u64, u32)>,
    most: usize,
    overflowed: bool,
}

impl Uses {
    /// For as many runs as `budget` bytes hold.
    fn new(budget: u64) -> Self {
        let most = budget / size_of::<(u64, u32)>() as u64;
        Self {
            runs: Vec::new(),
            most: usize::try_from(most).unwrap_or(usize::MAX),
            overflowed: false,
        }
    }

    fn take(&mut self, at: u64, len: u64) {
        if self.runs.len() >= self.most {
            self.overflowed = true;
            return;
        }
        let sectors = u32::try_from(len.div_ceil(SECTOR)).unwrap_or(u32::MAX);
        self.runs.push((at / SECTOR, sectors));
    }

    fn report(mut self, report: &mut CheckReport) {
        self.runs.sort_unstable();
        let mut end = 0;
        for (start, len) in self.runs {
            if start < end {
                let at = start * SECTOR; // it was made of bytes
                report.add(
                    Severity::Corruption,
                    format!("the grain or table at {at:#x} overlaps another"),
                );
            }
            end = end.max(start.saturating_add(u64::from(len)));
        }
        if self.overflowed {
            let text = "there are more grains than could be looked at for overlaps";
            report.add(Severity::Note, text);
        }
    }
}
