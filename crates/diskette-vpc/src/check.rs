//! Finds blocks that overlap or are not there, blocks of the file that nobody uses, maps of XenServer's that lie, and what is odd
//! about the footers. Footers are mended, and what is lost behind the last block is cut off.

use std::sync::Arc;

use diskette_core::{
    CheckReport, CheckableFormat, OpenContext, Repair, RepairableFormat, Result, SECTOR, Severity,
    Storage, StorageExt, StorageMut,
};

use crate::dynamic::Dynamic;
use crate::footer::{Footer, Kind};
use crate::map::Bits;
use crate::{Vpc, edit};

impl CheckableFormat for Vpc {
    fn check(&self, storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<CheckReport> {
        let footer = Footer::read(&*storage, cx)?;
        let mut report = CheckReport::default();
        for warning in &footer.warnings {
            report.add(Severity::Note, warning.as_str());
        }
        if footer.kind != Kind::Fixed {
            let dynamic = Dynamic::read(&*storage, &footer, cx)?;
            check_blocks(&dynamic, &footer, storage.total_size()?, &mut report)?;
            check_batmap(&*storage, &dynamic, &footer, &mut report)?;
        }
        Ok(report)
    }
}

fn check_blocks(
    dynamic: &Dynamic,
    footer: &Footer,
    file_size: u64,
    report: &mut CheckReport,
) -> Result<()> {
    let laid_out = dynamic.lay_out(|error| {
        report.add(Severity::Corruption, &error);
        Ok(())
    })?;
    let rear = footer.rear_offset.unwrap_or(file_size);
    let tail = laid_out.end..rear.max(laid_out.end);
    for gap in laid_out.gaps.iter().chain([&tail]) {
        let lost = (gap.end - gap.start) / dynamic.stride();
        if lost > 0 {
            let text = format!(
                "blocks that nothing leads to from {:#x} on: {lost}",
                gap.start
            );
            report.add(Severity::Leak, text);
            report.leaks += lost - 1;
        }
    }

    report.total_granules = dynamic.bat.len() as u64;
    let mut end = 0;
    let mut next = None;
    for index in 0..dynamic.bat.len() {
        let Some(offset) = dynamic.block_offset(index) else {
            continue;
        };
        report.allocated_granules += 1;
        // Many a writer aligns the data behind a block's bitmap to a page.
        let near = |next: u64| (next..next.saturating_add(4096)).contains(&offset);
        if next.is_some_and(|next| !near(next)) {
            report.fragmented_granules += 1;
        }
        next = Some(offset + dynamic.stride());
        end = end.max(offset + dynamic.stride());
        if offset + dynamic.stride() > file_size {
            let text = format!(
                "block {index} at {offset:#x} reaches beyond the file's end at {file_size:#x}"
            );
            report.add(Severity::Corruption, text);
        }
    }
    report.image_end_offset = (end != 0).then_some(end);
    Ok(())
}

/// Readers may believe XenServer's map of full blocks, and not look at their bitmaps.
fn check_batmap(
    storage: &dyn Storage,
    dynamic: &Dynamic,
    footer: &Footer,
    report: &mut CheckReport,
) -> Result<()> {
    let Some(at) = dynamic.batmap else {
        return Ok(());
    };
    let mut full = vec![0; dynamic.bat.len().div_ceil(8)];
    storage.read_padded(&mut full, at)?;
    let full = Bits {
        bytes: &full,
        reversed: false,
    };
    let mut bitmap = vec![0; usize::try_from(dynamic.bitmap_size).unwrap_or(0)];
    for index in (0..dynamic.bat.len()).filter(|index| full.get(*index)) {
        let is_full = match dynamic.block_offset(index) {
            Some(at) => {
                storage.read_padded(&mut bitmap, at)?;
                let start = index as u64 * dynamic.block_size;
                let len = dynamic.block_size.min(footer.disk_size - start);
                let sectors = usize::try_from(len / SECTOR).unwrap_or(usize::MAX);
                let bits = Bits {
                    bytes: &bitmap,
                    reversed: footer.reversed_bits,
                };
                bits.get(0) && bits.end_of_run(0, sectors) == sectors
            }
            None => false,
        };
        if !is_full {
            let text = format!("block {index} is whole by the batmap, but not by its own bitmap");
            report.add(Severity::Corruption, text);
        }
    }
    Ok(())
}

impl RepairableFormat for Vpc {
    fn repair(
        &self,
        image: Arc<dyn StorageMut>,
        what: Repair,
        cx: &OpenContext<'_>,
    ) -> Result<CheckReport> {
        let check = || self.check(Arc::clone(&image) as Arc<dyn Storage>, cx);
        let before = check()?;
        let footer = Footer::read(&*image, cx)?;
        if footer.kind == Kind::Fixed || before.corruptions > 0 {
            return Ok(before);
        }
        let copies = [footer.has_front, footer.rear_offset.is_some()];
        let missing = copies.into_iter().filter(|is_there| !is_there).count() as u64;
        let mends_copies = what == Repair::All && missing > 0;
        if !mends_copies && (before.leaks == 0 || missing > 0) {
            return Ok(before);
        }
        edit::tidy(Arc::clone(&image), cx)?;
        let mut after = check()?;
        after.corruptions_fixed = missing;
        after.leaks_fixed = before.leaks.saturating_sub(after.leaks);
        if missing > 0 {
            let text = "the footer's missing copy is written from the other";
            after.add(Severity::Note, text);
        }
        Ok(after)
    }
}
