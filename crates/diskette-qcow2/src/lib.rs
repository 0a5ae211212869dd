//! QCOW2: read, written, checked.

#[allow(dead_code, reason = "its readers and writers are being built")]
mod entry;
#[allow(dead_code, reason = "its readers and writers are being built")]
mod geometry;
#[allow(dead_code, reason = "its readers and writers are being built")]
mod spec;

use std::sync::Arc;

use diskette_core::{
    CheckableFormat, Ends, Error, Format, Match, OpenContext, Opened, Result, SnapshotFormat,
    Storage, WritableFormat,
};
use zerocopy::FromBytes;

/// The name by which this format is known.
pub(crate) const FORMAT: &str = "qcow2";

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Qcow2;

impl Format for Qcow2 {
    fn name(&self) -> &'static str {
        FORMAT
    }

    fn probe(&self, ends: &Ends<'_>) -> Match {
        // Version 1 is another format.
        match spec::Header::ref_from_prefix(ends.head) {
            Ok((header, _)) if header.magic == spec::MAGIC && header.version >= 2 => Match::Sure,
            _ => Match::No,
        }
    }

    fn open(&self, _storage: Arc<dyn Storage>, _cx: &OpenContext<'_>) -> Result<Opened> {
        Err(Error::unsupported(FORMAT, "reading"))
    }

    fn writable(&self) -> Option<&dyn WritableFormat> {
        None
    }

    fn checkable(&self) -> Option<&dyn CheckableFormat> {
        None
    }

    fn snapshots(&self) -> Option<&dyn SnapshotFormat> {
        None
    }
}
