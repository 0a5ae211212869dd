//! Finds blocks that two guests' blocks share, blocks that are not there, and a wrong count.

use std::sync::Arc;

use diskette_core::{
    CheckReport, CheckableFormat, OpenContext, Result, Severity, Storage, StorageExt,
};

use crate::header::Header;
use crate::map::Map;
use crate::{Vdi, spec};

impl CheckableFormat for Vdi {
    fn check(&self, storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<CheckReport> {
        let header = Header::read(&*storage, cx.limits)?;
        cx.limits
            .allow_check("vdi: check's bitmap", header.block_count)?;
        let file_size = storage.total_size()?;
        let map = Map::new(header, cx.limits, cx.salvage);
        let header = map.header();

        let mut report = CheckReport::default();
        report.total_granules = header.block_count;
        let mut seen = vec![false; usize::try_from(header.block_count).unwrap_or(0)];
        for page in map.all_pages(&*storage) {
            let (first, page) = page?;
            for (index, entry) in (first..).zip(page.entries().iter().map(|entry| entry.get())) {
                if entry >= spec::BLOCK_ZERO {
                    continue;
                }
                report.allocated_granules += 1;
                let Some(used) = usize::try_from(entry)
                    .ok()
                    .and_then(|entry| seen.get_mut(entry))
                else {
                    report.add(
                        Severity::Corruption,
                        format!("block index {index} too large, is {entry}"),
                    );
                    continue;
                };
                if std::mem::replace(used, true) {
                    report.add(
                        Severity::Corruption,
                        format!("block {entry} of the file is used by block {index} too"),
                    );
                }
                let end = header.data_offset + (u64::from(entry) + 1) * header.stride();
                if end > file_size.saturating_add(header.block_size) {
                    report.add(
                        Severity::Corruption,
                        format!("block {index} lies beyond the file's end at {file_size:#x}"),
                    );
                }
            }
        }
        if report.allocated_granules != header.allocated_count {
            let text = format!(
                "allocated blocks mismatch at {:#x}, is {}, should be {}",
                header.allocated_count_offset, header.allocated_count, report.allocated_granules
            );
            report.add(Severity::Corruption, text);
        }
        Ok(report)
    }
}
