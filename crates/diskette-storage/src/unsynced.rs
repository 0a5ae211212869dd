//! A storage that leaves it to the host when bytes reach the disk.

use std::io;

use diskette_core::{Run, Storage, StorageMut};

/// Another storage, whose [`sync`](StorageMut::sync) returns at once: what QEMU calls the cache mode `unsafe`.
///
/// Whoever writes through it sees its own bytes, but after the host has crashed some may be missing, in any order.
#[derive(Debug)]
pub struct UnsyncedStorage<S>(S);

impl<S: StorageMut> UnsyncedStorage<S> {
    /// `storage`, never synced.
    pub const fn new(storage: S) -> Self {
        Self(storage)
    }
}

impl<S: StorageMut> Storage for UnsyncedStorage<S> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.0.allocated()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buf, offset)
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        self.0.run_at(offset)
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        self.0.as_bytes()
    }
}

impl<S: StorageMut> StorageMut for UnsyncedStorage<S> {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(buf, offset)
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.write_zeros(offset, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.allocate(offset, len)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.0.set_size(size)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
