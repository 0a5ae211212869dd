//! Host bytes for diskette, and what decides about the files that images name.
//!
//! | storage | what it is |
//! | --- | --- |
//! | [`FileStorage`] | a file or block device, read by position |
//! | [`FileStorageMut`] | the same, to be written |
//! | [`NewFile`] | a file that appears under its name when it is whole, or not at all |
//! | [`NewFiles`] | several such files: all of them appear, or none |
//! | [`MemoryStorage`] | bytes in memory |
//! | [`SequentialStorage`] | bytes that are passed on in ascending order: into a pipe |
//! | [`OutgoingSpool`] | bytes that are kept until they can be passed on so |
//! | [`SubStorage`] | a part of another storage |
//! | [`Unpacker`] | what a compressed file holds, as a stream; [`spool`] makes a storage of one |
//! | [`ReadStream`] | what comes out of a pipe, as a stream; [`HeadStream`] is one that begins anew |
//! | [`Ova`] | the disks in an OVA, each a part of its file; [`NewOva`] makes one |
//! | [`UnsyncedStorage`] | another storage, never synced |
#![cfg_attr(
    feature = "mmap",
    doc = "| [`MappedStorage`] | a file mapped into memory |"
)]
//!
//! [`FolderResolver`] follows the references of images within a folder.

mod behind;
mod file;
mod file_mut;
mod folder;
mod lock;
mod memory;
#[cfg(feature = "mmap")]
mod mmap;
mod new_file;
mod new_files;
mod ova;
mod sequential;
mod spool;
mod stream;
mod sub;
mod unpack;
mod unsynced;

pub use file::FileStorage;
pub use file_mut::FileStorageMut;
pub use folder::FolderResolver;
pub use memory::MemoryStorage;
#[cfg(feature = "mmap")]
pub use mmap::MappedStorage;
pub use new_file::NewFile;
pub use new_files::NewFiles;
pub use ova::{Compression, Machine, ManifestEntry, NewDisk, NewOva, Ova, OvaDisk, Verdict};
pub use sequential::SequentialStorage;
pub use spool::{OutgoingSpool, spool};
pub use stream::{HeadStream, ReadStream};
pub use sub::SubStorage;
pub use unpack::{Packing, Unpacker};
pub use unsynced::UnsyncedStorage;
