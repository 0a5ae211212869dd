//! Replays a log into the file, and closes the file.
//!
//! ```text
//! header with a new FileWriteGuid ─► the log's changes, the file grown ─► sync ─► header without LogGuid, twice
//! ```
//!
//! Each header is written over the one that is not current, and synced before the next. Until the first one without a
//! `LogGuid` is on stable storage a crash leaves a file whose log is replayed again, to the same end.

use std::sync::Arc;

use diskette_core::{
    CheckReport, CheckableFormat, OpenContext, Repair, RepairableFormat, Result, Severity, Storage,
    StorageMut,
};
use uuid::Uuid;

use crate::Vhdx;
use crate::header::{HeaderPair, LogRegion};
use crate::image::Image;
use crate::log;
use crate::region::Regions;

impl RepairableFormat for Vhdx {
    fn repair(
        &self,
        image: Arc<dyn StorageMut>,
        what: Repair,
        cx: &OpenContext<'_>,
    ) -> Result<CheckReport> {
        // What is read leniently is no ground to write on.
        let cx = OpenContext {
            salvage: false,
            ..*cx
        };
        let found = Image::open(Arc::clone(&image) as Arc<dyn Storage>, &cx)?;
        let mut report = self.check(Arc::clone(&image) as Arc<dyn Storage>, &cx)?;
        if what == Repair::Leaks {
            return Ok(report);
        }
        if let Some(guid) = found.header.log.guid {
            let count = replay(&image, &found.header.log, guid, &cx)?;
            report.corruptions_fixed += 1;
            report.add(
                Severity::Note,
                format!("log entries replayed into the file: {count}"),
            );
        }
        if Regions::restore(&*image)? {
            report.corruptions_fixed += 1;
            report.add(
                Severity::Note,
                "the damaged region table is restored from its copy",
            );
        }
        Ok(report)
    }
}

/// Applies the log to the file, and empties it. Gives the number of its entries.
pub(crate) fn replay(
    image: &Arc<dyn StorageMut>,
    region: &LogRegion,
    guid: Uuid,
    cx: &OpenContext<'_>,
) -> Result<usize> {
    let below = Arc::clone(image) as Arc<dyn Storage>;
    let replayed = log::replay(below, region, guid, cx.limits, false)?;
    let mut headers = HeaderPair::read(&**image)?;
    headers.advance(&**image, |header| {
        header.file_write_guid = Uuid::new_v4().to_bytes_le();
    })?;
    replayed.overlay.write_to(&**image)?;
    for _ in 0..2 {
        headers.advance(&**image, |header| header.log_guid = [0; 16])?;
    }
    Ok(replayed.entry_count)
}
