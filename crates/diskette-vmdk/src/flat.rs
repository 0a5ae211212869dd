//! Flat extents: a file that holds its run of the disk as it is.

use std::sync::Arc;

use diskette_core::{
    Extent, ExtentKind, HostOffset, OpenContext, Result, RunKind, Storage, StorageExt,
};

use crate::descriptor::ExtentLine;
use crate::remarks::Remarks;

/// One flat extent.
#[derive(Debug)]
pub(crate) struct Flat {
    /// The file.
    pub storage: Arc<dyn Storage>,
    /// The file's size when it was opened.
    pub storage_size: u64,
    /// Host offset of its first byte.
    pub at: u64,
    /// Bytes of the disk.
    pub size: u64,
}

impl Flat {
    /// The extent that `line` describes: `storage` is its file, in which it begins at `at`.
    pub(crate) fn open(
        storage: Arc<dyn Storage>,
        line: &ExtentLine,
        at: u64,
        cx: &OpenContext<'_>,
        remarks: &mut Remarks,
    ) -> Result<Self> {
        let storage_size = storage.total_size()?;
        // Both are below 2^63: the descriptor's parser has seen to it.
        if at.saturating_add(line.size) > storage_size {
            let why = format!("they reach beyond the file's end at {storage_size:#x}");
            let error = line.malformed(why).truncated();
            if !cx.salvage {
                return Err(error);
            }
            remarks.damaged(&error);
        }
        Ok(Self {
            storage,
            storage_size,
            at,
            size: line.size,
        })
    }

    /// The extent that holds `offset`, from there on.
    pub(crate) fn extent_at(&self, offset: u64) -> Result<Extent> {
        let at = self.at.saturating_add(offset);
        let left = self.size.saturating_sub(offset);
        let stored = self.storage_size.saturating_sub(at);
        if stored == 0 {
            return Ok(Extent::zero(offset, left)); // A file cut short, and salvage asked for.
        }
        let run = self.storage.run(at)?;
        let kind = match run.kind {
            RunKind::Data => ExtentKind::Data(HostOffset::new(at)),
            RunKind::Hole => ExtentKind::Unwritten(HostOffset::new(at)),
        };
        Ok(Extent::new(
            offset,
            left.min(stored).min(run.len.max(1)),
            kind,
        ))
    }
}
