//! The records of images: made, looked up, changed. What tells of a change is written with it.

mod changes;
mod image;
mod link;
mod list;

pub(crate) use changes::{
    New, create, expected_after, failed, gone, insert_with_blob, made, ready, receiving, release,
    set_state, write_manifest, write_manifests,
};
pub(crate) use diskette_wire::{label, name_of_file};
pub(crate) use image::{Image, Row, for_caller, manifest, number, row, rows_in_work};
pub(crate) use link::{linked, with_bytes};
pub(crate) use list::{Filter, Page, list};
