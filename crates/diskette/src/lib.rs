//! Disk images of all formats behind one reader: QCOW2, VMDK, raw; opened safely, converted on all cores.

mod formats;
mod inspect;
mod open;

pub use diskette_core as core;
pub use diskette_storage as storage;

pub use formats::registry;
pub use inspect::{FileReport, ImageReport, inspect, inspect_chain};
pub use open::{open, open_image, open_with, options_for};
