//! Finds blocks that overlap or are not there, and what is odd about the footers.

use std::sync::Arc;

use diskette_core::{
    CheckReport, CheckableFormat, OpenContext, Result, Severity, Storage, StorageExt,
};

use crate::Vpc;
use crate::dynamic::Dynamic;
use crate::footer::{Footer, Kind};

impl CheckableFormat for Vpc {
    fn check(&self, storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<CheckReport> {
        let footer = Footer::read(&*storage, cx)?;
        let mut report = CheckReport::default();
        for warning in &footer.warnings {
            report.add(Severity::Note, warning.as_str());
        }
        if footer.kind != Kind::Fixed {
            check_blocks(
                &Dynamic::read(&*storage, &footer, cx)?,
                storage.total_size()?,
                &mut report,
            );
        }
        Ok(report)
    }
}

fn check_blocks(dynamic: &Dynamic, file_size: u64, report: &mut CheckReport) {
    if let Err(error) = dynamic.check_blocks() {
        report.add(Severity::Corruption, &error);
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
}
