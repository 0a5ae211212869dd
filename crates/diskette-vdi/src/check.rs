//! Finds blocks that two guests' blocks share, blocks that are not there, blocks of the file that nobody uses, and a wrong
//! count. What is merely lost, and the count, can be mended.

use std::fmt::Display;
use std::sync::Arc;

use diskette_core::{
    CheckReport, CheckableFormat, Error, Field, Limits, OpenContext, Repair, RepairableFormat,
    Result, Severity, Storage, StorageExt, StorageMut, UsedUnits,
};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

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
    /// The positions of the file's blocks at which one of the disk's lies.
    seen: UsedUnits,
}

impl Survey {
    /// Positions before the last block that nobody uses.
    pub(crate) fn unused(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.behind_last).filter(|position| !self.seen.holds(*position))
    }

    /// Looks at the entry of block `index`. Gives how many findings there were.
    fn look_at(
        &mut self,
        map: &Map,
        (index, entry): (u64, u32),
        file_size: u64,
        findings: &mut Findings<'_>,
    ) -> Result<u64> {
        if entry >= spec::BLOCK_ZERO {
            return Ok(0);
        }
        let header = map.header();
        self.allocated += 1;
        let position = u64::from(entry);
        if position >= header.block_count {
            let text = format_args!("block index {index} too large, is {entry}");
            findings.take(map, index, entry, &text)?;
            return Ok(1);
        }
        let mut count = 0;
        if !self.seen.take(&(position..position + 1)) {
            let text = format_args!("block {entry} of the file is used by block {index} too");
            findings.take(map, index, entry, &text)?;
            count += 1;
        }
        self.behind_last = self.behind_last.max(position + 1);
        // The file may end where the disk does, within the last block.
        let guest = header.disk_size.saturating_sub(index * header.block_size);
        let start = header.data_offset + position * header.stride();
        let end = start + header.block_extra + guest.min(header.block_size);
        if end > file_size {
            let text = format_args!("block {index} lies beyond the file's end at {file_size:#x}");
            findings.take(map, index, entry, &text)?;
            count += 1;
        }
        Ok(count)
    }

    /// Looks at a page all of whose entries are alike, the first being that of block `first`: a file may have any number of them
    /// where it has holes.
    fn look_at_like(
        &mut self,
        map: &Map,
        (first, count, entry): (u64, u64, u32),
        file_size: u64,
        findings: &mut Findings<'_>,
    ) -> Result<()> {
        let mut index = first;
        while index < first + count {
            let found = self.look_at(map, (index, entry), file_size, findings)?;
            index += 1;
            // But for the first, which may be the only one at its place, and the last, whose block may be shorter, what is
            // found is the same.
            let rest = (first + count - 1).saturating_sub(index);
            if index > first + 1 && rest > 0 && findings.count_more(found * rest) {
                let has_place = entry < spec::BLOCK_ZERO;
                self.allocated += if has_place { rest } else { 0 };
                index += rest;
            }
        }
        Ok(())
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
    fn take(&mut self, map: &Map, index: u64, entry: u32, text: &dyn Display) -> Result<()> {
        match self {
            Self::Report(report) => {
                report.add(Severity::Corruption, text);
                Ok(())
            }
            Self::Refuse => {
                let name = format!("map[{index}]");
                let field = Field::new(FORMAT, name, map.entry_offset(index), entry);
                Err(field.malformed(text.to_string()))
            }
        }
    }

    /// Counts so many more corruptions, if their texts would not be kept.
    fn count_more(&mut self, count: u64) -> bool {
        let Self::Report(report) = self else {
            return count == 0;
        };
        let counts = count == 0 || report.findings.len() >= CheckReport::MOST_FINDINGS;
        if counts {
            report.corruptions += count;
        }
        counts
    }
}

/// Walks over the whole map.
pub(crate) fn survey(
    map: &Map,
    storage: &dyn Storage,
    limits: &Limits,
    findings: &mut Findings<'_>,
) -> Result<Survey> {
    let file_size = storage.total_size()?;
    let positions = map.header().block_count;
    let mut found = Survey {
        allocated: 0,
        behind_last: 0,
        seen: UsedUnits::new(positions, 1, "vdi: check's bitmap", limits)?,
    };
    for page in map.all_pages(storage) {
        let (first, page) = page?;
        let entries = page.entries();
        if let Some(entry) = only_entry(entries) {
            let alike = (first, entries.len() as u64, entry);
            found.look_at_like(map, alike, file_size, findings)?;
            continue;
        }
        for (index, entry) in (first..).zip(entries) {
            found.look_at(map, (index, entry.get()), file_size, findings)?;
        }
    }
    Ok(found)
}

/// What all entries are, if they are alike.
fn only_entry(entries: &[U32]) -> Option<u32> {
    let bytes = entries.as_bytes();
    let alike = bytes.get(4..)? == bytes.get(..bytes.len() - 4)?;
    entries.first().filter(|_| alike).map(|entry| entry.get())
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
