//! Finds blocks that two guests' blocks share, blocks that are not there, blocks of the file that nobody uses, and a wrong
//! count. What is merely lost, and the count, can be mended.

use std::sync::Arc;

use diskette_core::{
    CheckReport, CheckableFormat, Error, Field, Limits, OpenContext, Repair, RepairableFormat,
    Result, Severity, Storage, StorageExt, StorageMut,
};

use crate::header::Header;
use crate::map::Map;
use crate::{FORMAT, Vdi, edit, spec};

impl CheckableFormat for Vdi {
    fn check(&self, storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<CheckReport> {
        let header = Header::read(&*storage, cx.limits)?;
        let map = Map::new(header, cx.limits, cx.salvage);
        let header = map.header();
        let mut report = CheckReport::default();
        report.total_granules = header.block_count;
        let found = survey(
            &map,
            &*storage,
            cx.limits,
            &mut Findings::Report(&mut report),
        )?;
        report.allocated_granules = found.allocated;
        report_count(header, &found, storage.total_size()?, &mut report);
        Ok(report)
    }
}

/// What is to be said of the header's count, and of blocks of the file to which nothing leads.
fn report_count(header: &Header, found: &Survey, file_size: u64, report: &mut CheckReport) {
    let count = header.allocated_count;
    let there = file_size.saturating_sub(header.data_offset) / header.stride();
    // Of blocks that are there, and that the count covers, a writer was cut off: they are lost, and nothing else.
    if count != found.allocated && !(found.behind_last..=there).contains(&count) {
        let text = format!(
            "{MISMATCH} at {:#x}, is {count}, should be {}",
            header.allocated_count_offset, found.allocated
        );
        report.add(Severity::Corruption, text);
    }
    let lost = found.unused().count() as u64 + there.saturating_sub(found.behind_last);
    if lost > 0 {
        let text = format!("blocks of the file that none of the disk's uses: {lost}");
        report.add(Severity::Leak, text);
        report.leaks += lost - 1;
    }
}

/// A count that is wrong, in qemu-img's words.
const MISMATCH: &str = "allocated blocks mismatch";

/// What a walk over the map has found.
#[derive(Debug)]
pub(crate) struct Survey {
    /// Blocks of the disk that have a place.
    pub allocated: u64,
    /// One more than the position of the last block of the file that is used; 0 if none is.
    pub behind_last: u64,
    /// For each position of the file's blocks, whether one of the disk's lies there.
    seen: Vec<bool>,
}

impl Survey {
    /// Positions before the last block that nobody uses.
    pub(crate) fn unused(&self) -> impl Iterator<Item = u64> + '_ {
        let seen = (0..self.behind_last).zip(&self.seen);
        seen.filter_map(|(position, used)| (!used).then_some(position))
    }
}

/// What becomes of what is wrong with the map.
pub(crate) enum Findings<'a> {
    /// It is reported.
    Report(&'a mut CheckReport),
    /// It ends the walk.
    Refuse,
}

impl Findings<'_> {
    fn take(&mut self, map: &Map, index: u64, entry: u32, text: String) -> Result<()> {
        match self {
            Self::Report(report) => {
                report.add(Severity::Corruption, text);
                Ok(())
            }
            Self::Refuse => {
                let name = format!("map[{index}]");
                let field = Field::new(FORMAT, name, map.entry_offset(index), entry);
                Err(field.malformed(text))
            }
        }
    }
}

/// Walks over the whole map.
pub(crate) fn survey(
    map: &Map,
    storage: &dyn Storage,
    limits: &Limits,
    findings: &mut Findings<'_>,
) -> Result<Survey> {
    let header = map.header();
    limits.allow_check("vdi: check's bitmap", header.block_count)?;
    let file_size = storage.total_size()?;
    let mut found = Survey {
        allocated: 0,
        behind_last: 0,
        seen: vec![false; usize::try_from(header.block_count).unwrap_or(0)],
    };
    for page in map.all_pages(storage) {
        let (first, page) = page?;
        for (index, entry) in (first..).zip(page.entries().iter().map(|entry| entry.get())) {
            if entry >= spec::BLOCK_ZERO {
                continue;
            }
            found.allocated += 1;
            let seen = usize::try_from(entry).ok();
            let Some(used) = seen.and_then(|entry| found.seen.get_mut(entry)) else {
                let text = format!("block index {index} too large, is {entry}");
                findings.take(map, index, entry, text)?;
                continue;
            };
            if std::mem::replace(used, true) {
                let text = format!("block {entry} of the file is used by block {index} too");
                findings.take(map, index, entry, text)?;
            }
            let behind = u64::from(entry) + 1;
            found.behind_last = found.behind_last.max(behind);
            // The file may end where the disk does, within the last block.
            let guest = header.disk_size.saturating_sub(index * header.block_size);
            let start = header.data_offset + u64::from(entry) * header.stride();
            let end = start + header.block_extra + guest.min(header.block_size);
            if end > file_size {
                let text = format!("block {index} lies beyond the file's end at {file_size:#x}");
                findings.take(map, index, entry, text)?;
            }
        }
    }
    Ok(found)
}

impl RepairableFormat for Vdi {
    /// Blocks that are lost are filled by the last ones, and the file is cut; the count is set right. What is wrong with the
    /// map itself is left alone.
    fn repair(
        &self,
        image: Arc<dyn StorageMut>,
        what: Repair,
        cx: &OpenContext<'_>,
    ) -> Result<CheckReport> {
        let mut report = self.check(Arc::clone(&image) as Arc<dyn Storage>, cx)?;
        let counted_wrong = report
            .findings
            .iter()
            .filter(|finding| finding.text.starts_with(MISMATCH))
            .count() as u64;
        let mends_count = what == Repair::All && counted_wrong > 0;
        if report.corruptions != counted_wrong || (counted_wrong > 0 && !mends_count) {
            return Ok(report);
        }
        if report.corruptions == 0 && report.leaks == 0 {
            return Ok(report);
        }
        match edit::tidy(image, cx) {
            Ok(()) => {
                report.corruptions_fixed = std::mem::take(&mut report.corruptions);
                report.leaks_fixed = std::mem::take(&mut report.leaks);
                Ok(report)
            }
            Err(Error::Malformed { .. }) => Ok(report),
            Err(error) => Err(error),
        }
    }
}
