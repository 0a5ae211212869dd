//! Looks at an image's consistency: the log, and every entry of the BAT.
//!
//! Headers, region tables and metadata must be sound before there is anything to look at; what is wrong with them is
//! an error here as it is for a reader.

use std::sync::Arc;

use diskette_core::{CheckReport, CheckableFormat, OpenContext, Result, Severity, Storage};

use crate::image::Image;
use crate::survey::survey;
use crate::{Vhdx, header, region};

impl CheckableFormat for Vhdx {
    fn check(&self, storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<CheckReport> {
        let image = Image::open(Arc::clone(&storage), cx)?;
        let mut report = CheckReport::default();
        for warning in &image.warnings {
            report.add(Severity::Note, warning.as_str());
        }
        let found = survey(&image.map, cx.limits, |error| {
            report.add(Severity::Corruption, &error);
            Ok(())
        })?;
        if let Some(index) = found.reserved_bits {
            report.add(Severity::Note, reserved_bits(index));
        }
        for copy in damaged_copies(&*storage)? {
            report.add(Severity::Note, copy);
        }
        Ok(report)
    }
}

/// What of headers and region tables, of which there are two each, is damaged, and does not count.
fn damaged_copies(storage: &dyn Storage) -> Result<Vec<&'static str>> {
    let mut found = Vec::new();
    if !header::both_are_sound(storage)? {
        found.push("one of the headers is damaged: the other one counts");
    }
    if region::second_is_damaged(storage)? {
        found.push("the second region table is damaged");
    }
    Ok(found)
}

/// What is to be said of an entry with bits where zeros should be.
pub(crate) fn reserved_bits(index: u64) -> String {
    format!("BAT[{index}] has reserved bits set")
}
