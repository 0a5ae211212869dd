//! QCOW2, QEMU's own disk images.
//!
//! | what | read | made | changed |
//! | --- | --- | --- | --- |
//! | versions 2 and 3, clusters of 512 bytes to 2 MiB, every width of refcounts | yes | yes | yes |
//! | compressed clusters: deflate, Zstandard | yes | yes | read; what is written is plain, and frees them |
//! | zero clusters, extended L2 entries with subclusters | yes | yes | yes |
//! | backing images | named; the chain opens them | yes | what holes show is copied up |
//! | preallocation | yes | yes | kept |
//! | external data files, raw ones too | yes, by the caller's resolver | yes, in the image's folder | yes, by the caller's resolver |
//! | internal snapshots | yes, by id or name; the disk keeps its present size, as with `qemu-img convert -l` | no | kept; taken, applied, deleted |
//! | the disk's size | | | larger and smaller, over a longer base too |
//! | the image below | | | another, or none, named instead; version, width of refcounts and lazy refcounts changed |
//! | persistent bitmaps | yes | no | kept: those that are enabled learn of what is written; added, removed, cleared, merged |
//! | dirty images | yes | no | mended first; refcounts are put off where the header allows it |
//! | corrupt images | yes | no | refused until they are repaired |
//! | clusters that are zeroed or discarded | | | given back, and punched out of the file |
//! | encrypted with LUKS | yes, by the option `encrypt.key-secret` | yes, but not preallocated | yes; key slots, too |
//! | encrypted with AES, the old way | likewise | no | refused |
//! | consistency | checked, with the findings of `qemu-img check` | | repaired in place |
//! | unknown incompatible features | refused by name | | refused |
//!
//! ```text
//!  header ── l1_table_offset ──► L1 ──► L2 tables ──► clusters
//!         └─ refcount_table_offset ──► refcount table ──► refcount blocks
//! ```
//!
//! A new image is laid out by `write::layout`, an existing one is changed by `edit`, and mended by
//! `repair`; what it lies over, and its options, by `amend`.
//!
//! Read `spec` for the bytes, `entry` and `geometry` for what they mean, `map` for the way from a guest offset to a host
//! offset.

#![forbid(unsafe_code)]

mod amend;
mod bitmaps;
mod check;
mod edit;
mod encryption;
mod entry;
mod extensions;
mod geometry;
mod header;
mod info;
mod map;
mod preallocation;
mod reader;
mod refcount;
mod repair;
mod snapshot;
mod spec;
mod write;

use std::sync::Arc;

use diskette_core::{
    AmendableFormat, BitmapFormat, CheckableFormat, Ends, Format, Match, OpenContext, Opened,
    OptionSpec, OverlayFormat, RepairableFormat, Result, SnapshotFormat, Storage, WritableFormat,
};
use zerocopy::FromBytes;

/// The options that are taken when an image is opened.
pub const OPEN_OPTIONS: &[OptionSpec] = &[OptionSpec {
    name: "encrypt.key-secret",
    takes: "id",
    default: "",
    help: "the secret that opens an encrypted image",
}];

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

    fn open(&self, storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<Opened> {
        reader::open(storage, cx)
    }

    fn writable(&self) -> Option<&dyn WritableFormat> {
        Some(self)
    }

    fn checkable(&self) -> Option<&dyn CheckableFormat> {
        Some(self)
    }

    fn repairable(&self) -> Option<&dyn RepairableFormat> {
        Some(self)
    }

    fn snapshots(&self) -> Option<&dyn SnapshotFormat> {
        Some(self)
    }

    fn overlays(&self) -> Option<&dyn OverlayFormat> {
        Some(self)
    }

    fn amendable(&self) -> Option<&dyn AmendableFormat> {
        Some(self)
    }

    fn bitmaps(&self) -> Option<&dyn BitmapFormat> {
        Some(self)
    }
}

impl SnapshotFormat for Qcow2 {
    fn open_snapshot(
        &self,
        storage: Arc<dyn Storage>,
        snapshot: &str,
        cx: &OpenContext<'_>,
    ) -> Result<Opened> {
        reader::open_snapshot(storage, snapshot, cx)
    }
}
