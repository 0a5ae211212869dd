//! What is on a disk, whatever the format of its image: partitions, file systems, what it can boot by; and a picture of
//! where the image holds data.
//!
//! [`contents`] looks at a few sectors, and believes none of them: a table that lies is told in
//! [`Contents::warnings`], not followed. Names are those of `sfdisk` and `blkid`.
//!
//! [`Picture`] walks the image's map, and reads no data.

#![forbid(unsafe_code)]

mod bytes;
mod contents;
mod file_system;
mod gpt;
mod mbr;
mod names;
mod picture;
mod svg;

pub use contents::{Boot, Contents, Partition, PartitionTable, TableKind, contents};
pub use file_system::{FileSystem, ISO_HEAD, is_iso};
pub use picture::{Cell, FilePicture, Picture, Share};
