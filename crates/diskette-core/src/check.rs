//! What a look at an image's consistency finds.

use std::fmt::Display;
use std::sync::Arc;

use crate::{OpenContext, Result, Storage, StorageMut};

/// What only formats whose consistency can be checked can do.
pub trait CheckableFormat: Send + Sync {
    /// Looks at all of an image's tables. Changes nothing.
    ///
    /// What is wrong *inside* of the image is in the report; an error means that the look could not be finished.
    fn check(&self, storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<CheckReport>;
}

/// What only formats whose images can be mended in place can do.
pub trait RepairableFormat: Send + Sync {
    /// Mends what is wrong in an image as far as `what` allows, and gives what was found: what has been mended is
    /// counted as fixed, and only what has not among the corruptions and leaks.
    ///
    /// Every state of the storage on the way is no worse than the one before. An image that cannot be mended without
    /// a guess about guest data is left as it is.
    fn repair(
        &self,
        image: Arc<dyn StorageMut>,
        what: Repair,
        cx: &OpenContext<'_>,
    ) -> Result<CheckReport>;
}

/// What a repair may touch. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Space that is lost, and nothing else: no guest data can change by it.
    Leaks,
    /// All that can be mended.
    All,
}

/// What was found. Counts are as qemu-img counts them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// What is wrong, one by one, in the order in which it was found.
    pub findings: Vec<Finding>,
    /// Places where data may be lost or wrong.
    pub corruptions: u64,
    /// Granules that are taken, and used by nobody.
    pub leaks: u64,
    /// Places where data was lost or wrong, and which a repair has mended.
    pub corruptions_fixed: u64,
    /// Granules that were taken and used by nobody, and which a repair has freed.
    pub leaks_fixed: u64,
    /// Places that could not be looked at.
    pub check_errors: u64,
    /// Granules of the disk.
    pub total_granules: u64,
    /// Those that have a place in the file.
    pub allocated_granules: u64,
    /// Those that do not follow their neighbour in the file.
    pub fragmented_granules: u64,
    /// Those that are compressed.
    pub compressed_granules: u64,
    /// Host offset behind the last granule in use, where the format knows.
    pub image_end_offset: Option<u64>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is, in one line.
    pub text: String,
}

/// How bad a finding is. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Space is lost, and nothing else.
    Leak,
    /// Data may be lost or wrong.
    Corruption,
    /// The place could not be looked at.
    CheckError,
    /// Worth knowing; counts for nothing.
    Note,
}

impl CheckReport {
    /// Most findings that are kept with their text; the counts go on.
    pub const MOST_FINDINGS: usize = 10_000;

    /// Counts a finding, and keeps its text while there are not too many.
    pub fn add(&mut self, severity: Severity, text: impl Display) {
        match severity {
            Severity::Leak => self.leaks += 1,
            Severity::Corruption => self.corruptions += 1,
            Severity::CheckError => self.check_errors += 1,
            Severity::Note => {}
        }
        if self.findings.len() < Self::MOST_FINDINGS {
            self.findings.push(Finding {
                severity,
                text: text.to_string(),
            });
        }
    }
}
