//! Mends an image in place. The guest's view never changes: not by what is done, and not by a crash on the way.
//!
//! ```text
//!  unknown autoclear bits ─► entries ─► refcounts ─► what must move ─► refcounts ─► copied flags ─► dirty, corrupt
//! ```
//!
//! Each step is on stable storage before the next begins:
//!
//! - New tables and copies lie behind the file's end, are counted before anything points there, and are whole before one
//!   write of a few bytes in one sector switches to them.
//! - An entry that leads nowhere, beyond the file or between clusters, is left as it is: what it once led to may still be
//!   there. While there is one, nothing is freed and no flag is set, for whatever seems unused may be what was lost.
//! - A table is written into only if nothing but the trees uses its cluster, and all of its entries lead somewhere: an
//!   "L2 table" that is not so may be guest data that a damaged entry points to.

mod apart;
mod copied;
mod entries;
mod header;
mod rebuild;
mod refcounts;
mod snapshots;
mod trees;

use std::sync::Arc;

use diskette_core::{
    CheckReport, OpenContext, Repair, RepairableFormat, Result, StorageExt, StorageMut,
};

use crate::Qcow2;
use crate::check::{Survey, survey};
use crate::header::Header;

impl RepairableFormat for Qcow2 {
    fn repair(
        &self,
        image: Arc<dyn StorageMut>,
        what: Repair,
        cx: &OpenContext<'_>,
    ) -> Result<CheckReport> {
        let mut mender = Mender::new(&*image, cx)?;
        let found = mender.survey()?;
        match what {
            Repair::Leaks => mender.free_leaks(&found)?,
            Repair::All => mender.mend_all(&found)?,
        }
        mender.finish(found)
    }
}

/// A repair under way.
struct Mender<'a> {
    storage: &'a dyn StorageMut,
    cx: &'a OpenContext<'a>,
    /// As it is in the file now.
    header: Header,
    corruptions_fixed: u64,
    leaks_fixed: u64,
}

impl<'a> Mender<'a> {
    fn new(storage: &'a dyn StorageMut, cx: &'a OpenContext<'a>) -> Result<Self> {
        Ok(Self {
            storage,
            cx,
            header: Header::read_for_check(storage, cx.limits)?,
            corruptions_fixed: 0,
            leaks_fixed: 0,
        })
    }

    fn free_leaks(&mut self, found: &Survey) -> Result<()> {
        self.lower_refcounts(found)?;
        let left = self.survey()?;
        // A flag that was right but for the leak is right again; where more is wrong it takes more than this.
        if left.report.corruptions == left.copied_wrong && left.report.check_errors == 0 {
            self.mend_copied_flags(&left)?;
        }
        Ok(())
    }

    fn mend_all(&mut self, found: &Survey) -> Result<()> {
        if is_clean(&found.report) {
            return Ok(());
        }
        self.clear_autoclear_bits(found)?;
        let found = self.survey()?;
        self.mend_entries(&found)?;
        let found = self.survey()?;
        let moves = self.plan_moves(&found)?;
        self.mend_refcounts(&found, moves.clusters())?;
        if !moves.is_empty() {
            self.do_moves(moves)?;
            let found = self.survey()?;
            let leaks_fixed = self.leaks_fixed;
            self.mend_refcounts(&found, 0)?;
            // What has moved away is no leak that was found.
            self.leaks_fixed = leaks_fixed;
        }
        let found = self.survey()?;
        self.mend_copied_flags(&found)
    }

    /// Clears the marks of damage where none is left, and tells what was found, mended and left.
    fn finish(mut self, found: Survey) -> Result<CheckReport> {
        let mut left = self.survey()?.report;
        if left.corruptions == 0 && left.check_errors == 0 {
            self.clear_damage_bits()?;
        }
        left.corruptions_fixed = self.corruptions_fixed;
        left.leaks_fixed = self.leaks_fixed;
        left.findings = found.report.findings;
        Ok(left)
    }

    fn survey(&self) -> Result<Survey> {
        survey(self.storage, &self.header, self.cx)
    }

    fn reread_header(&mut self) -> Result<()> {
        self.header = Header::read_for_check(self.storage, self.cx.limits)?;
        Ok(())
    }

    /// A place behind all that the file has and that something refers to; `None` where something refers to what
    /// would lie there, or where a file has no such place.
    fn place_behind(&self, found: &Survey, clusters: u64) -> Option<u64> {
        let geometry = self.header.geometry;
        let start = found.counted.len();
        let end = start
            .checked_add(clusters)?
            .checked_mul(geometry.cluster_size())?;
        // One more: what begins less than a cluster behind the end counts as inside.
        let behind = end.checked_add(geometry.cluster_size())?;
        let free = found.lost.lowest.is_none_or(|lowest| behind <= lowest);
        (free && behind <= crate::spec::HOST_OFFSET_END).then_some(start)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.storage.write_at(bytes, offset).map_err(|source| {
            self.storage
                .failed("write", offset, bytes.len() as u64, source)
        })
    }

    fn sync(&self) -> Result<()> {
        self.storage
            .sync()
            .map_err(|source| self.storage.failed("sync", 0, 0, source))
    }
}

fn is_clean(report: &CheckReport) -> bool {
    report.corruptions == 0 && report.leaks == 0 && report.check_errors == 0
}
