//! Disk images of all formats behind one reader; opened safely, converted on all cores.
//!
//! ```
//! use diskette::core::{BlockReader, BlockReaderExt};
//!
//! # let folder = tempfile::tempdir()?;
//! # let new = folder.path().join("router.qcow2");
//! # let old = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/router.qcow2");
//! // A VMDK, whatever its name says: the content tells.
//! let disk = diskette::open(old)?;
//! assert_eq!(disk.top().info.format, "vmdk");
//! let boot_sector = disk.read_vec(0, 512)?;
//!
//! // Under the new name there is a whole image, or nothing.
//! diskette::Conversion::to("qcow2").compressed().write(&disk, &new)?;
//!
//! let copy = diskette::open(&new)?;
//! assert_eq!(copy.size(), disk.size());
//! assert_eq!(copy.read_vec(0, 512)?, boot_sector);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is where
//!
//! | to ... | there is |
//! | --- | --- |
//! | read a disk | [`open`], and on it [`BlockReaderExt`](core::BlockReaderExt) |
//! | look at one image alone | [`open_image`]; with its files, [`inspect`] |
//! | convert | [`Conversion`] |
//! | make an image without data | [`create`] |
//! | write into an image that exists | [`edit`], [`Conversion::write_into`] |
//! | bring an overlay down into its base, put it over another, change its options | [`Commit`], [`Rebase`], [`amend`] |
//! | change or read persistent bitmaps | [`edit_bitmaps`], [`open_bitmap`] |
//! | see what is allocated where | [`map`](map()) |
//! | find what is inconsistent, and mend it | [`check`](check()), [`repair`] |
//! | know how large a new image will be | [`measure`] |
//! | compare two disks, or tell one by a number | [`engine::compare`], [`engine::digest`] |
//! | know what is on a disk | [`inside::contents`] |
//! | see how full it is, and where | [`picture`] |
//! | export a disk to programs that speak NBD | [`nbd`] |
//! | add a format of one's own | [`registry`], [`core::Registry`], [`core::Format`] |
//!
//! # Images are not to be trusted
//!
//! An image can name any file of the host. [`safe_options`] follow a name within the image's own folder and nowhere
//! else; a backing image without a named format is refused, for a guest can make its disk look like any format. To allow
//! more, say so:
//!
//! ```
//! use std::sync::Arc;
//! use diskette::storage::FolderResolver;
//!
//! # let bases = tempfile::tempdir()?;
//! # let folder = tempfile::tempdir()?;
//! # let (base, overlay) = (bases.path().join("base.qcow2"), folder.path().join("overlay.qcow2"));
//! # diskette::create(&base, "qcow2", &diskette::core::NewImage::new(1 << 20))?;
//! # let backing = diskette::core::BackingImage::new(base.display().to_string(), "qcow2");
//! # diskette::create(&overlay, "qcow2", &diskette::core::NewImage::new(1 << 20).with_backing(backing))?;
//! assert!(diskette::open(&overlay).is_err(), "its backing image is elsewhere");
//!
//! let mut options = diskette::safe_options();
//! options.files = Arc::new(FolderResolver::new().allow(&bases)?);
//! let disk = diskette::open_with(&overlay, &options)?;
//! assert_eq!(disk.layers().len(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A file that a program of QEMU's is writing is not read, unless [`ignore_locks`](core::OpenOptions::ignore_locks) says
//! so.
//!
//! # Features
//!
//! | feature | what for |
//! | --- | --- |
//! | `zstd` (on) | QCOW2 images compressed with Zstandard, by its C library |
//! | `libdeflate` | faster deflate, by a C library |
//! | `http` | images behind `http://` and `https://`, by range requests |
//! | `s3` | images at `s3://` addresses, read by range requests and put there: `S3Upload` |
//! | `mmap` | files mapped into memory, on the caller's word that nobody changes them |

#![forbid(unsafe_code)]

mod appliance;
mod bitmaps;
mod check;
mod container;
mod formats;
mod incoming;
mod inspect;
mod into_stream;
mod map;
mod one_pass;
mod open;
mod overlay;
mod picture;
mod write;

/// The parallel engine: convert, compare, digest, measure.
pub use diskette_convert as engine;
/// The traits and values that all crates share.
pub use diskette_core as core;
/// What is on a disk: partitions, file systems, what it boots by; and its picture.
pub use diskette_inspect as inside;
/// A disk exported over NBD.
pub use diskette_nbd as nbd;
/// Where host bytes lie, and who may open which file.
pub use diskette_storage as storage;

/// An object that an image is put into, and whether an address is one of an object.
#[cfg(feature = "s3")]
pub use diskette_s3::{S3Upload, is_address as is_s3_address};

pub use appliance::Appliance;
pub use bitmaps::{edit_bitmaps, open_bitmap};
pub use check::{check, repair};
pub use container::{ContainerReport, DiskReport, inspect_container, is_container};
pub use formats::{open_options, registry};
pub use incoming::{Arrived, Incoming};
pub use inspect::{FileReport, ImageReport, inspect, inspect_chain};
pub use map::{Map, MapEntry, map};
pub use one_pass::open_one_pass;
pub use open::{open, open_image, open_with, safe_options};
pub use overlay::{Commit, Rebase, amend};
pub use picture::{picture, picture_of_part};
pub use write::{Conversion, create, edit, measure, refuse_source_as_target, writable};
