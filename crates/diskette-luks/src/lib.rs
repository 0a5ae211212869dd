//! LUKS disk images: the disk's bytes behind a cipher, and before them a header with key slots. What `cryptsetup` makes
//! of a partition, in a file.
//!
//! | what | |
//! | --- | --- |
//! | LUKS version 1 | read, made, written in place, resized; ciphers and hashes as `diskette-crypto` has them |
//! | key slots | passphrases added and taken away |
//! | LUKS version 2, detached headers | no |
//!
//! A file that begins with a LUKS header is taken for one where nothing else is said: a raw image of a disk that is
//! encrypted as a whole has to be named `raw`.
//!
//! An image without data reads as noise until it is written; so does one that `qemu-img create` makes.

#![forbid(unsafe_code)]

mod amend;
mod reader;
mod writer;

use std::sync::Arc;

use diskette_core::{
    AmendableFormat, BitmapFormat, CheckableFormat, Ends, Format, Match, OpenContext, Opened,
    OptionSpec, OverlayFormat, RepairableFormat, Result, SnapshotFormat, Storage, WritableFormat,
};
use diskette_crypto::{SecretOption, luks};

/// The name by which this format is known.
pub(crate) const FORMAT: &str = "luks";

/// The options that are taken when an image is opened.
pub const OPEN_OPTIONS: &[OptionSpec] = &[OptionSpec {
    name: "key-secret",
    takes: "id",
    default: "",
    help: "the secret that opens the image",
}];

/// The option that names the passphrase.
pub(crate) const SECRET: SecretOption = SecretOption {
    format: FORMAT,
    name: "key-secret",
};

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Luks;

impl Format for Luks {
    fn name(&self) -> &'static str {
        FORMAT
    }

    fn probe(&self, ends: &Ends<'_>) -> Match {
        match luks::is_luks(ends.head) {
            true => Match::Sure,
            false => Match::No,
        }
    }

    fn open(&self, storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<Opened> {
        reader::open(storage, cx)
    }

    fn writable(&self) -> Option<&dyn WritableFormat> {
        Some(self)
    }

    fn checkable(&self) -> Option<&dyn CheckableFormat> {
        None
    }

    fn repairable(&self) -> Option<&dyn RepairableFormat> {
        None
    }

    fn snapshots(&self) -> Option<&dyn SnapshotFormat> {
        None
    }

    fn overlays(&self) -> Option<&dyn OverlayFormat> {
        None
    }

    fn amendable(&self) -> Option<&dyn AmendableFormat> {
        Some(self)
    }

    fn bitmaps(&self) -> Option<&dyn BitmapFormat> {
        None
    }
}
