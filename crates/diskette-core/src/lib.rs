//! The ground on which every crate of diskette stands: traits, the values that pass between them, one error.
//!
//! ```text
//!  Storage        host bytes at host offsets: a file, memory, an HTTP object
//!     ▲
//!  Format         opens a Storage as an image: a BlockReader and what is known of it
//!     ▲
//!  BlockReader    a disk as its guest sees it: extents, and the bytes in them
//!     ▲
//!  Chain          the layers of overlays and backing images, read as one disk
//! ```
//!
//! Writing goes the other way: a [`WritableFormat`] lays out an image by an [`ImageWriter`], or changes one that exists
//! by a [`BlockWriter`].
//!
//! An image is not to be trusted. What it says passes through a [`Field`] before it is used, costs no more than
//! [`Limits`] allow, and any other file it names is opened by a [`Resolver`], or not at all.

#![forbid(unsafe_code)]

mod amend;
mod bitmap;
mod blocks;
mod cache;
mod chain;
mod check;
mod edit;
mod error;
mod extent;
mod field;
mod fingerprint;
mod format;
mod in_place;
mod info;
mod limits;
mod open;
mod options;
mod reader;
mod reference;
mod secrets;
mod snapshot;
mod storage;
mod stream;
mod table;
mod units;
mod writer;

pub use amend::{AmendableFormat, OverlayFormat};
pub use bitmap::{BitmapFormat, BitmapReader, BitmapWriter, NewBitmap};
pub use blocks::{Place, PlacedBlocks, write_entries};
pub use cache::TableCache;
pub use chain::{Chain, Layer};
pub use check::{CheckReport, CheckableFormat, Finding, Repair, RepairableFormat, Severity};
pub use edit::{
    Block, BlockEditor, BlockTable, EditedTable, LinearTable, NewPlace, Space, UsedUnits,
};
pub use error::{Claim, Error, Result};
pub use extent::{Extent, ExtentKind, HostOffset};
pub use field::Field;
pub use fingerprint::{Fingerprint, NewId, PlainPacker};
pub use format::{Ends, Format, Match, OpenContext, Opened, SnapshotFormat};
pub use in_place::InPlace;
pub use info::{BitmapInfo, Details, Identity, ImageInfo, SnapshotInfo, Value};
pub use limits::Limits;
pub use open::{FormatChoice, OpenOptions, Registry};
pub use options::{OptionSpec, Options, parse_size};
pub use reader::{BlockReader, BlockReaderExt, Extents, check_range, is_zero};
pub use reference::{Mark, NoReferences, Reference, Resolver, Role};
pub use secrets::Secrets;
pub use snapshot::{NewSnapshot, SnapshotWriter};
pub use storage::{Run, RunKind, Storage, StorageExt, StorageMut};
pub use stream::{
    ByteStream, DiskStream, Passes, Rehearsal, RunDecoder, SequentialFormat, StoredRun,
    StreamFormat,
};
pub use table::Table;
pub use units::{GIB, KIB, MIB, SECTOR, TIB, round_down, round_up};
pub use writer::{
    BackingImage, BlockWriter, ImageWriter, Measure, NewImage, NewParts, NoParts, Packed, Packer,
    Preallocation, Skipped, WritableFormat,
};
