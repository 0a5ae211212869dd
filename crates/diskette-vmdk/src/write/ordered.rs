//! Bytes that are to be written between others, at their turn.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use diskette_core::{Run, Storage, StorageMut};

/// Another storage, that is written from its beginning to its end. What was put off is written before what lies behind it.
#[derive(Debug)]
pub(super) struct Ordered {
    storage: Arc<dyn StorageMut>,
    /// By host offset, ascending.
    put_off: Mutex<VecDeque<(u64, Vec<u8>)>>,
}

impl Ordered {
    pub(super) fn new(storage: Arc<dyn StorageMut>) -> Self {
        Self {
            storage,
            put_off: Mutex::default(),
        }
    }

    /// Has `bytes` written before anything that lies behind them. Their offset lies behind those of all calls before.
    pub(super) fn write_in_turn(&self, offset: u64, bytes: Vec<u8>) {
        let mut put_off = self.put_off.lock().unwrap_or_else(PoisonError::into_inner);
        put_off.push_back((offset, bytes));
    }

    /// Writes what lies before `offset`.
    fn write_before(&self, offset: u64) -> io::Result<()> {
        let mut put_off = self.put_off.lock().unwrap_or_else(PoisonError::into_inner);
        while put_off.front().is_some_and(|(at, _)| *at < offset) {
            if let Some((at, bytes)) = put_off.pop_front() {
                self.storage.write_at(&bytes, at)?;
            }
        }
        Ok(())
    }
}

impl Storage for Ordered {
    fn name(&self) -> &str {
        self.storage.name()
    }

    fn size(&self) -> io::Result<u64> {
        self.storage.size()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.storage.allocated()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.storage.read_at(buf, offset)
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        self.storage.run_at(offset)
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        self.storage.as_bytes()
    }
}

impl StorageMut for Ordered {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write_before(offset)?;
        self.storage.write_at(buf, offset)
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        self.write_before(offset)?;
        self.storage.write_zeros(offset, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.storage.allocate(offset, len)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.write_before(u64::MAX)?;
        self.storage.set_size(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.write_before(u64::MAX)?;
        self.storage.sync()
    }
}
