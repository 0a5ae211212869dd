//! Disk images of all formats behind one reader: QCOW2, VMDK, raw; opened safely, converted on all cores.

mod check;
mod formats;
mod inspect;
mod map;
mod open;
mod write;

pub use diskette_convert as engine;
pub use diskette_core as core;
pub use diskette_storage as storage;

pub use check::check;
pub use formats::registry;
pub use inspect::{FileReport, ImageReport, inspect, inspect_chain};
pub use map::{Map, MapEntry, map};
pub use open::{open, open_image, open_with, safe_options};
pub use write::{Conversion, create, measure, refuse_source_as_target, writable};
